"""original.transfer: a checkpoint of other classes is trained for those of the data set before it is slimmed."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import darknet_nets as nets
import pytest
import torch
from tiny import PX, refused, run
from torch import nn
from yolov5_files import of, small

import yolo_slim
from yolo_slim import SlimError, checkpoint, record
from yolo_slim.formats.families import YOLOV5, family_at, for_classes
from yolo_slim.heads import classes_of

pytest_plugins = ["tiny"]

NAMES = {0: "red", 1: "green"}
IMAGE = torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With anchors, of four classes."""
    return small(tmp_path_factory.mktemp("best"))


@pytest.fixture(scope="module")
def other(best: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of two classes that the data set does not have."""
    detector = for_classes(checkpoint.load(best), NAMES)
    return checkpoint.save(detector, tmp_path_factory.mktemp("other") / "other.pt")


@torch.no_grad()
def rows(detector: nn.Module) -> torch.Tensor:
    return detector.eval()(IMAGE)[0]


def test_with_anchors_boxes_and_objectness_stay(best: Path) -> None:
    before = checkpoint.load(best)
    after = for_classes(copy.deepcopy(before), NAMES)
    was, now = rows(before), rows(after)
    assert now.shape == (1, 4 + 2, was.shape[2])
    assert torch.equal(was[:, :4], now[:, :4])
    said = [torch.cat([m.flatten(2) for m in d(IMAGE)[1]["raw"]], 2) for d in (before, after)]
    objectness = said[1].view(1, 3, 7, -1)[:, :, 4]
    assert torch.equal(said[0].view(1, 3, 9, -1)[:, :, 4], objectness)
    classes = said[1].view(1, 3, 7, -1)[:, :, 5:]
    assert torch.allclose(classes, torch.full_like(classes, math.log(0.6 / 1.4)))


def test_a_single_class_is_certain(best: Path) -> None:
    """No loss teaches it: what is found is of that class."""
    after = for_classes(checkpoint.load(best), {0: "cell"})
    objectness = torch.cat([m.view(1, 3, 6, -1)[:, :, 4].flatten(1) for m in after(IMAGE)[1]["raw"]], 1)
    assert torch.allclose(rows(after)[:, 4], objectness.sigmoid(), rtol=1e-4)


def test_gains_are_those_of_the_new_classes(best: Path) -> None:
    detector = checkpoint.load(best)
    detector.hyp = {"box": 0.05, "obj": 1.0, "cls": 0.5}
    for_classes(detector, NAMES)
    assert detector.init_criterion().gains(640)["cls"] == pytest.approx(0.5 * 2 / 80 * 3 / 2)


def test_what_is_written_is_as_the_repository_has_it(other: Path) -> None:
    again = checkpoint.load(other)
    head = again.model[-1]
    assert (head.nc, head.no, classes_of(again), again.names, again.yaml["nc"]) == (2, 7, 2, NAMES, 2)
    ckpt = checkpoint.read(other)
    assert list(ckpt) == ["epoch", "best_fitness", "model", "ema", "updates", "optimizer", "opt"]
    assert isinstance(ckpt["model"].names, list) and family_at(other) is YOLOV5


def test_a_file_of_the_repository_takes_other_classes() -> None:
    detector = for_classes(checkpoint.load(of("v7.0")), dict(enumerate("abcde")))
    assert detector.eval()(torch.rand(1, 3, 64, 64))[0].shape[1] == 4 + 5


def test_in_ultralytics_heads_boxes_stay(detector: nn.Module) -> None:
    before = rows(detector)
    after = rows(for_classes(detector, NAMES))
    assert after.shape == (1, 4 + 2, before.shape[2])
    assert torch.equal(before[:, :4], after[:, :4])
    cells = PX // 8 * (PX // 8)
    rare = torch.full((cells,), math.log(5 / 2 / (640 / 8) ** 2)).sigmoid()
    assert torch.allclose(after[0, 4, :cells], rare)


def test_a_head_of_two_branches_renews_both(tmp_path: Path) -> None:
    detector = checkpoint.build("yolo26n.yaml")
    for_classes(detector, NAMES)
    again = checkpoint.load(checkpoint.save(detector, tmp_path / "two.pt"))
    assert {len(level[-1].bias) for part in ("cv3", "one2one_cv3") for level in getattr(again.model[-1], part)} == {2}


def test_darknet_s_are_trained_elsewhere(tmp_path: Path) -> None:
    detector = checkpoint.load(nets.written(tmp_path, nets.SMALL))
    with pytest.raises(SlimError, match="Darknet is not given other classes here"):
        for_classes(detector, NAMES)


# ---------------------------------------------------------------------------------------------------------------------
# The stage

TRAIN = "original.train={batch: 4, nbs: 4, optimizer: SGD}"


def words(model: Path, data: Path, runs: Path) -> list[str]:
    return [f"model={model}", f"data={data}", f"runs={runs}", f"imgsz={PX}", "sparse_train.epochs=0", "prune.ratio=0.3",
            "prune.round_to=1", "prune.min_channels=1", "prune.criterion=l1", "original.epochs=1", TRAIN]  # fmt: skip


@pytest.fixture(scope="module")
def pruned(other: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder. Read only."""
    runs = tmp_path_factory.mktemp("runs")
    answer = run("prune", *words(other, data, runs), "original.transfer=true")
    assert answer.code == 0, answer.err
    return runs / "slim"


def test_it_is_trained_for_the_data_set_and_slimmed(pruned: Path, other: Path) -> None:
    done = record.read(pruned / "original")
    assert done is not None and done.settings["transfer"] is True
    slim = yolo_slim.load(pruned / "pruned" / "pruned.pt")
    assert list(slim.names.values()) == ["circle", "square", "triangle", "star"]
    card = checkpoint.card(pruned / "pruned" / "pruned.pt")
    assert card["source"]["sha256"] == record.sha256(other)
    assert [step["stage"] for step in card["steps"]] == ["original", "pruned"]
    assert not (pruned / "original" / "start.pt").exists()
    assert slim.args["imgsz"] == PX


def test_its_weights_are_gone_on_with(pruned: Path, other: Path) -> None:
    """One epoch moves them a little; a detector built anew would have others altogether."""
    before, after = (yolo_slim.load(path) for path in (other, pruned / "original" / "original.pt"))
    assert torch.allclose(before.model[1].conv.weight, after.model[1].conv.weight, atol=0.05)
    assert not torch.equal(before.model[1].conv.weight, after.model[1].conv.weight)


def test_the_second_time_nothing_is_trained(pruned: Path, other: Path, data: Path) -> None:
    best = pruned / "original" / "train" / "weights" / "best.pt"
    before = best.stat().st_mtime_ns
    answer = run("prune", *words(other, data, pruned.parent), "original.transfer=true")
    assert answer.code == 0 and best.stat().st_mtime_ns == before


def test_without_it_other_classes_are_refused_with_the_way_out(other: Path, data: Path, tmp_path: Path) -> None:
    answer = run("prune", *words(other, data, tmp_path / "runs"))
    refused(answer, "detects 2 classes", "original.transfer=true")


def test_the_same_classes_are_kept_as_they_are(best: Path, data: Path, tmp_path: Path) -> None:
    answer = run("prune", *words(best, data, tmp_path), "original.transfer=true", "original.train.lr0=0.0")
    assert answer.code == 0, answer.err
    was, now = (yolo_slim.load(path).model[-1].m[0] for path in (best, tmp_path / "slim" / "original" / "original.pt"))
    assert torch.allclose(was.weight, now.weight, atol=1e-3)


def test_one_class_of_all(other: Path, data: Path, tmp_path: Path) -> None:
    answer = run("prune", *words(other, data, tmp_path), "original.transfer=true", "original.train.single_cls=true")
    assert answer.code == 0, answer.err
    assert yolo_slim.load(tmp_path / "slim" / "pruned" / "pruned.pt").names == {0: "item"}


def test_an_untrained_one_has_nothing_to_transfer(data: Path, tmp_path: Path) -> None:
    answer = run("prune", *words(Path("yolov5n.yaml"), data, tmp_path / "runs"), "original.transfer=true")
    refused(answer, "original.transfer", "yolov5n.yaml")


def test_without_images_there_is_nothing_to_train_on(other: Path, tmp_path: Path) -> None:
    answer = run("prune", f"model={other}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.3", "original.transfer=true")
    refused(answer, "original.transfer", "data=")
