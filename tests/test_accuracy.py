"""What a detector does at one confidence, class by class, and what is said of a split without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import CLASSES, PX, refused, run
from torch import nn

from yolo_slim import record
from yolo_slim.measure import NOT_MEASURED, accuracy
from yolo_slim.measure.bootstrap import RESAMPLES, draws
from yolo_slim.measure.matches import Matches
from yolo_slim.measure.scores import at, replicates_at, scores

pytest_plugins = ["tiny"]


def matches(boxes: list[tuple[float, bool, int]], objects: list[int], images: int = 3) -> Matches:
    """Of one class: boxes as score, whether right, image; objects as their images."""
    conf, tp, image = zip(*boxes, strict=True) if boxes else ((), (), ())
    right = np.repeat(np.array(tp, bool)[:, None], 10, 1).reshape(-1, 10)
    where, labels = np.array(image, int), np.array(objects)
    return Matches(right, np.array(conf, float), 0 * where, where, 0 * labels, labels, images)


@pytest.mark.parametrize(
    ("boxes", "objects", "expected"),
    [
        pytest.param([(0.9, True, 0), (0.5, False, 0), (0.2, True, 1)], [0, 1], (0.5, 0.5, 0.5), id="one lies below"),
        pytest.param([(0.25, True, 0)], [0, 1], (1.0, 0.5, 2 / 3), id="just as sure is sure enough"),
        pytest.param([(0.249, True, 0)], [0], (None, 0.0, 0.0), id="nothing shown: no precision, not a perfect one"),
        pytest.param([], [0], (None, 0.0, 0.0), id="nothing found"),
        pytest.param([(0.9, False, 2)], [0], (0.0, 0.0, 0.0), id="all wrong"),
    ],
)
def test_precision_recall_and_f1_at_a_quarter(boxes, objects, expected):
    found = at(matches(boxes, objects), 0.25)
    assert (found["precision"], found["recall"], found["f1"]) == (expected[0], *map(pytest.approx, expected[1:]))


@pytest.mark.parametrize(
    ("boxes", "best"),
    [
        pytest.param([(0.9, True, 0), (0.105, True, 1), (0.05, False, 2)], 0.10, id="scores that are low are no worse"),
        pytest.param([(0.9, True, 0), (0.85, True, 1), (0.75, False, 2)], 0.76, id="above what is wrong"),
        pytest.param([(0.9, True, 0), (0.85, True, 1)], 0.25, id="where many are as good, the usual one"),
    ],
)
def test_the_best_confidence(boxes, best):
    found = scores(matches(boxes, [0, 1]))
    assert (found["best_confidence"], found["f1_best"]) == (best, 1.0)
    assert found["f1_best"] >= found["f1_at_25"]


def test_what_is_said_at_a_quarter_is_said_of_other_draws_of_the_images():
    boxes = [(0.9, k % 2 == 0, k) for k in range(20)]  # every second one is right
    found = replicates_at(matches(boxes, list(range(20)), images=20), 0.25)
    assert {len(drawn) for drawn in found.values()} == {RESAMPLES}
    assert found["precision"] == found["recall"] == found["f1"], "a box in each image, an object in each"
    share = [draw[::2].sum() / 20 for draw in draws(20).T]
    assert found["f1"] == pytest.approx(share), "the draws that mAP50-95 is known on"


@pytest.mark.parametrize(
    ("boxes", "images", "lengths"),
    [
        pytest.param([(0.9, True, 0)], 9, (0, 0, 0), id="too few images"),
        pytest.param([(0.9, True, 0)], 12, (0, RESAMPLES, RESAMPLES), id="draws without a box have no precision"),
    ],
)
def test_draws_that_say_nothing_are_left_out(boxes, images, lengths):
    found = replicates_at(matches(boxes, list(range(images)), images=images), 0.25)
    assert tuple(len(found[name]) for name in ("precision", "recall", "f1")) == lengths


def test_blind_images_are_those_with_objects_and_no_box():
    boxes = [(0.9, True, 0), (0.2, True, 1), (0.95, False, 3)]
    found = scores(matches(boxes, [0, 0, 1, 2], images=5))  # 3 and 4 are background
    assert (found["labelled_images"], found["blind_images"]) == (3, 2)
    assert found["median_best_score"] == 0.2, "of 0.9, 0.2 and nothing"


@pytest.mark.parametrize("shift", [0.0, -2.0], ids=["as it is", "all scores lower"])
def test_the_numbers_are_those_of_predict(detector: nn.Module, data: Path, shift: float) -> None:
    """Lower scores in the same order: mAP is the same, and fewer boxes are shown."""
    whole = accuracy(detector, str(data), PX, "val")
    with torch.no_grad():
        for head in detector.model[-1].cv3:
            head[-1].bias.add_(shift)
    found = accuracy(detector, str(data), PX, "val")
    assert found["map50_95"] == pytest.approx(whole["map50_95"], abs=0.02)
    assert (found["images"], found["labelled_images"], found["replicates"]) == (4, 4, [])
    assert found["map50_95_low"] is None, "four images are too few to draw from"
    assert found["blind_images"] == (4 if shift else 0)
    assert (found["median_best_score"] < 0.25) == bool(shift)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["cell", "cell", "dot", "cell"], id="alike"),
        pytest.param([True, False, False, None], id="what YAML makes of yes, no, off and ~"),
    ],
)
def test_every_class_id_has_its_row(detector: nn.Module, data: Path, tmp_path: Path, names: list) -> None:
    usual = accuracy(detector, str(data), PX, "val")["per_class"]
    detector.names = dict(enumerate(names))
    own = tmp_path / "names.yaml"
    described = {**yaml.safe_load(data.read_text()), "path": str(data.parent), "names": list(map(str, names))}
    own.write_text(yaml.safe_dump(described))
    found = accuracy(detector, str(own), PX, "val")["per_class"]
    assert [of["id"] for of in found] == list(range(CLASSES))
    assert [of["name"] for of in found] == [str(name) for name in names]
    rest = [[{k: v for k, v in of.items() if k != "name"} for of in rows] for rows in (usual, found)]
    assert rest[0] == rest[1]


@pytest.fixture(params=["empty", "missing"])
def unlabelled(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> Path:
    """The data set with a val split in which no image has a label."""
    shutil.copytree(data.parent, tmp_path / "set", ignore=shutil.ignore_patterns("*.cache"))
    for file in (tmp_path / "set" / "labels" / "val").iterdir():
        file.write_text("") if request.param == "empty" else file.unlink()
    return tmp_path / "set" / data.name


def words(original: Path, unlabelled: Path, tmp_path: Path) -> list[str]:
    short = ["prune.ratio=0.3", "prune.criterion=l1", "prune.reconstruct=none", "prune.recalibrate=4"]
    short += ["sparse_train.epochs=0", "finetune.epochs=1", "finetune.train={batch: 4, workers: 0}"]
    return ["name=x", f"model={original}", f"data={unlabelled}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", *short]


def test_without_labels_nothing_is_measured(detector: nn.Module, unlabelled: Path) -> None:
    found = accuracy(detector, str(unlabelled), PX, "val")
    assert {found[key] for key in NOT_MEASURED} == {None}
    assert (found["images"], found["labels"], found["replicates"]) == (4, 0, [])
    assert [of["ap50_95"] for of in found["per_class"]] == [None] * CLASSES


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        pytest.param("sweep", [], id="sweep"),
        pytest.param("sensitivity", [], id="sensitivity by loss"),
        pytest.param("sensitivity", ["prune.sensitivity.metric=map50_95"], id="sensitivity by mAP"),
        pytest.param("prune", ["prune.solver=sensitivity"], id="a cut that goes by sensitivity"),
        pytest.param(
            "prune", ["prune.iterations.rounds=2", "prune.iterations.stop_if_map_drop=0.1"], id="rounds, by mAP"
        ),
    ],
)  # fmt: skip
def test_what_would_be_judged_without_labels_is_refused(stage, more, original, unlabelled, tmp_path):
    refused(run(stage, *words(original, unlabelled, tmp_path), *more), "no image there has a label", "val", unlabelled)
    assert not (tmp_path / "runs" / "x" / stage).exists()


@pytest.mark.parametrize("unlabelled", ["empty"], indirect=True)
def test_a_run_without_labels_goes_on_and_says_so(original, unlabelled, tmp_path):
    more = ["export.formats=[torchscript]", "export.images=1", "bench=null", "report.latency_runs=1"]
    answer = run("run", *words(original, unlabelled, tmp_path), *more)
    assert answer.code == 0, answer
    said = " ".join(answer.out.split())
    assert "mAP not measured: no image of val has a label" in said and "mAP50-95 0.000" not in said
    assert "the fitness of every epoch is 0, the last one is taken" in said
    folder = tmp_path / "runs" / "x"
    for stage in ("original", "pruned", "finetuned"):
        assert {record.read(folder / stage).metrics[key] for key in NOT_MEASURED} == {None}
    (file,) = record.read(folder / "export").metrics["files"]
    assert file["difference"] <= file["tolerance"] and file["map50_95_difference"] is None
    for page in ("report.md", "report.html"):
        text = (folder / "report" / page).read_text()
        assert "no image of val has a label" in text and "mAP50-95 0.000" not in text and ">0.000<" not in text


def test_a_test_split_without_labels_gives_way_to_val(original: Path, data: Path, tmp_path: Path) -> None:
    """Such as benchmarks give out; who asks for it gets it."""
    shutil.copytree(data.parent, tmp_path / "set", ignore=shutil.ignore_patterns("*.cache"))
    shutil.copytree(tmp_path / "set" / "images" / "val", tmp_path / "set" / "images" / "test")
    settings = yaml.safe_load(data.read_text()) | {"test": "images/test"}
    settings.pop("path", None)
    (tmp_path / "set" / data.name).write_text(yaml.safe_dump(settings))
    given = words(original, tmp_path / "set" / data.name, tmp_path)
    assert run("prune", *given).code == 0
    metrics = record.read(tmp_path / "runs" / "x" / "pruned").metrics
    assert (metrics["split"], metrics["images"]) == ("val", 4) and metrics["map50_95"] is not None
    asked = run("prune", *given[1:], "name=y", "report.split=test")
    assert asked.code == 0, asked
    assert "no image of test has a label; report.split=val would measure on val" in " ".join(asked.out.split())
