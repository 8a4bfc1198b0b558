"""What a detector costs and is worth: thop's numbers, times that make sense, the split that was asked for."""

import copy
import math
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import thop
import torch
import yaml
from tiny import CLASSES, PX
from torch import nn
from ultralytics import YOLO

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.measure import accuracy, by_layer, cost, detections, interleaved
from yolo_slim.measure import latency as timing
from yolo_slim.timing.quiet import latency

pytest_plugins = ["tiny"]


@pytest.mark.parametrize("hw", [(PX, PX), (PX, 2 * PX)], ids=["square", "wide"])
@pytest.mark.parametrize("which", ["original", "slim"])
def test_cost_is_what_thop_says(which: str, hw: tuple[int, int], request: pytest.FixtureRequest) -> None:
    detector = checkpoint.load(request.getfixturevalue(which))
    macs, params = thop.profile(copy.deepcopy(detector), (torch.zeros(1, 3, *hw),), verbose=False)
    got = cost(detector, PX if hw == (PX, PX) else hw)
    assert (got.params, got.macs, got.flops) == (params, macs, 2 * macs)


def test_cost_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8))
    got = cost(network, 64)
    assert got.params == 8 * 3 * 3 * 3 + 2 * 8
    assert got.macs == 32 * 32 * 8 * (3 * 3 * 3) + 4 * 32 * 32 * 8  # thop counts 4 per element of a batch norm
    assert got.flops == 2 * got.macs


def test_a_slim_detector_costs_less(original: Path, slim: Path) -> None:
    full, less = (cost(checkpoint.load(path), PX) for path in (original, slim))
    assert less.params < full.params
    assert less.macs < full.macs


def test_cost_leaves_the_detector_alone(detector: nn.Module) -> None:
    detector.train().half()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    cost(detector, PX)
    assert detector.training
    assert detector.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert not any(hasattr(layer, "total_ops") for layer in detector.modules())


def test_latency_of_all_names_at_once(detector: nn.Module) -> None:
    names = {"original": detector.train(), "twin": copy.deepcopy(detector), "half": copy.deepcopy(detector).half()}
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in detector.modules())
    times, conditions = latency(names, PX, runs=3)
    assert times.keys() == names.keys()
    for time in times.values():
        assert time.keys() == {"p10", "median", "p90"}
        assert all(math.isfinite(ms) for ms in time.values())
        assert 0 < time["p10"] <= time["median"] <= time["p90"]
    assert (conditions["batch"], conditions["dtype"], conditions["imgsz"], conditions["runs"]) == (1, "float32", PX, 3)
    assert "cpu" in str(conditions["device"])
    assert conditions["threads"] == torch.get_num_threads()
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in detector.modules()) == norms  # not fused
    assert detector.training
    assert next(names["half"].parameters()).dtype == torch.float16


def test_runs_take_turns_and_the_first_of_each_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE", 0)
    calls: list[str] = []
    times = interleaved({name: partial(calls.append, name) for name in "ab"}, runs=7, warmup=2, description=None)
    assert "".join(calls) == "aabb" + "aaaaaabbbbbb" + "aaabbb"
    assert {name: len(ms) for name, ms in times.items()} == {"a": 7, "b": 7}


def test_nothing_counts_while_the_threads_of_the_one_before_wait_for_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr(timing, "SETTLE", 0.1)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds

    both = {"a": partial(run, "a", 0.25), "b": partial(run, "b", 0.04)}
    times = interleaved(both, runs=5, warmup=0, description=None)
    assert "".join(calls) == "a" + "aaaaa" + "bbb" + "bbbbb", "0.1 s: one run of a, three of b"
    assert times == {"a": pytest.approx([250.0] * 5), "b": pytest.approx([40.0] * 5)}


def test_layers_in_pytorch_add_up_to_the_whole(detector: nn.Module) -> None:
    found = by_layer(detector, torch.rand(1, 3, PX, PX), runs=3)
    convs = {name for name, m in detector.named_modules() if isinstance(m, nn.Conv2d)}
    assert found.keys() == {*convs, ""}
    assert all(ms > 0 for name, ms in found.items() if name) and found[""] >= 0
    assert not any(m._forward_hooks for m in detector.modules())


@pytest.fixture(scope="module")
def splits(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose test split is labelled with what the detector itself finds: it is good there, and only there."""
    folder = tmp_path_factory.mktemp("splits") / "set"
    shutil.copytree(data.parent, folder, ignore=shutil.ignore_patterns("*.cache"))
    shutil.copytree(folder / "images" / "val", folder / "images" / "test")
    (folder / "labels" / "test").mkdir()
    for image in sorted((folder / "images" / "test").iterdir()):
        found = YOLO(original).predict(image, imgsz=PX, conf=1e-3, max_det=3, verbose=False)[0].boxes
        lines = [f"{int(c)} {x} {y} {w} {h}\n" for c, (x, y, w, h) in zip(found.cls, found.xywhn.tolist(), strict=True)]
        (folder / "labels" / "test" / f"{image.stem}.txt").write_text("".join(lines))
    settings = {split: f"images/{split}" for split in ("train", "val", "test")}
    settings |= {"names": {i: f"shape{i}" for i in range(CLASSES)}}
    (folder / "set.yaml").write_text(yaml.safe_dump(settings))
    return folder / "set.yaml"


def test_accuracy_is_of_the_split_asked_for(loaded: nn.Module, splits: Path) -> None:
    found = {split: accuracy(loaded, str(splits), PX, split) for split in ("val", "test")}
    for worth in found.values():
        assert 0 <= worth["map50_95"] <= worth["map50"] <= 1
    assert found["val"]["map50"] < 0.2
    assert found["test"]["map50"] > 0.8


def test_accuracy_of_each_class_that_has_labels(detector: nn.Module, splits: Path) -> None:
    worth = accuracy(detector, str(splits), PX, "test")
    labels = [int(line.split()[0]) for file in (splits.parent / "labels" / "test").iterdir() for line in file.open()]
    assert [(of["id"], of["name"]) for of in worth["per_class"]] == [(k, str(k)) for k in range(CLASSES)]
    assert [of["labels"] for of in worth["per_class"]] == [labels.count(k) for k in range(CLASSES)]
    known = [of["ap50_95"] for of in worth["per_class"] if of["labels"]]
    assert np.mean(known) == pytest.approx(worth["map50_95"])
    with torch.no_grad():
        for scores in detector.model[-1].cv3:
            scores[-1].bias.fill_(-50.0)
    found = accuracy(detector, str(splits), PX, "test")
    assert [of["ap50_95"] for of in found["per_class"]] == [
        0.0 if of["labels"] else None for of in worth["per_class"]
    ], "never found is 0, not labelled is unknown"


def test_detections_are_those_of_predict(original: Path, data: Path) -> None:
    files = sorted((data.parent / "images" / "val").iterdir())[:2]
    images = [cv2.imread(str(file)) for file in files]
    for boxes, result in zip(
        detections(checkpoint.load(original), images, PX), YOLO(original).predict(images, imgsz=PX), strict=True
    ):
        assert len(boxes) > 0
        assert [box["score"] for box in boxes] == pytest.approx(result.boxes.conf.tolist(), abs=1e-3)
        assert [box["id"] for box in boxes] == result.boxes.cls.int().tolist()
        assert [box["name"] for box in boxes] == [result.names[int(k)] for k in result.boxes.cls]
        assert np.allclose([box["xyxy"] for box in boxes], result.boxes.xyxy, atol=0.06)


def test_accuracy_leaves_the_detector_and_the_folder_alone(
    detector: nn.Module, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    detector.train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    accuracy(detector, str(data), PX, "val")
    detections(detector, [np.zeros((PX, PX, 3), np.uint8)], PX)
    assert detector.state_dict().keys() == before.keys(), "not fused"
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert detector.training and all(p.requires_grad for n, p in detector.named_parameters() if "dfl" not in n)
    assert list(tmp_path.iterdir()) == []


def test_images_too_small_to_be_read_are_refused(loaded: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    data = tmp_path / "small.yaml"
    data.write_text("train: images\nval: images\nnames: [a, b, c, d]\n")
    with pytest.raises(SlimError, match=f"cannot validate on 'val' of {data}: No valid images"):
        accuracy(loaded, str(data), PX, "val")


@pytest.mark.parametrize("split", ["test", "dev"], ids=["one that this set lacks", "one that no set has"])
def test_a_split_that_is_not_there_is_refused(loaded: nn.Module, data: Path, split: str) -> None:
    with pytest.raises(SlimError, match=f"cannot validate on '{split}' of {data}"):
        accuracy(loaded, str(data), PX, split)
