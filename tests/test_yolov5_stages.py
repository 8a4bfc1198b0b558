"""A checkpoint of ultralytics/yolov5 goes through every stage, and comes out as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import PX, refused, run
from torch import nn
from yolov5_files import small, spoilt

import yolo_slim
from yolo_slim import checkpoint, record
from yolo_slim.deploy import difference, opened
from yolo_slim.formats.families import YOLOV5, family_at

pytest_plugins = ["tiny"]

TRAIN = {"batch": 4, "nbs": 4, "optimizer": "SGD"}
STAGES = ["original", "sparse", "pruned", "finetuned", "plan", "export", "bench", "report"]


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("best"))


class Whole:
    """A finished run."""

    def __init__(self, folder: Path, model: Path, data: Path) -> None:
        self.folder = folder / "runs" / "whole"
        settings = {
            "name": "whole",
            "model": str(model),
            "data": str(data),
            "runs": str(folder / "runs"),
            "sparse_train": {"mode": "uniform", "epochs": 1, "train": TRAIN},
            "prune": {"target": {"flops": 0.6}, "round_to": 4, "min_channels": 4, "calib_images": 8},
            "finetune": {"epochs": 1, "distill": {"teacher": "original", "features": "mimic"}, "train": TRAIN},
            "report": {"latency_runs": 2},
            "export": {"formats": ["onnx"], "images": 2, "int8": ["onnx"], "calib_images": 2, "int8_tolerance": 1.0},
            "bench": {"runtimes": ["onnxruntime"], "runs": 3},
        }
        (folder / "whole.yaml").write_text(yaml.safe_dump(settings))
        self.answer = run("run", folder / "whole.yaml")

    def record(self, stage: str) -> record.Record:
        found = record.read(self.folder / stage)
        assert found is not None, self.answer
        return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, best: Path, data: Path) -> Whole:
    """Read only."""
    return Whole(tmp_path_factory.mktemp("whole"), best, data)


def test_it_comes_to_the_end(whole: Whole) -> None:
    assert whole.answer.code == 0, whole.answer
    assert sorted(p.name for p in whole.folder.iterdir()) == sorted([*STAGES, "run.json", "log.txt"])


@pytest.mark.parametrize("stage", ["original", "sparse", "pruned", "finetuned"])
def test_every_stage_s_detector_is_one_of_the_repository(whole: Whole, best: Path, stage: str) -> None:
    path = whole.record(stage).output(whole.folder / stage)
    assert family_at(path) is YOLOV5
    assert list(checkpoint.read(path)) == [*checkpoint.read(best), checkpoint.CARD]
    steps = [step["stage"] for step in checkpoint.card(path)["steps"]]
    assert steps == STAGES[: STAGES.index(stage) + 1]


def test_it_is_slimmer_and_says_so(whole: Whole) -> None:
    rows = {stage: whole.record(stage).metrics for stage in STAGES[:4]}
    assert rows["pruned"]["flops"] < 0.62 * rows["original"]["flops"]
    assert rows["finetuned"]["flops"] == rows["pruned"]["flops"]
    told = json.loads((whole.folder / "report" / "report.json").read_text())
    assert [row["stage"] for row in told["rows"]] == STAGES[:4]


def test_the_anchor_loss_is_what_it_was_trained_with(whole: Whole) -> None:
    columns = (whole.folder / "finetuned" / "train" / "results.csv").read_text().partition("\n")[0].split(",")
    assert {"train/box_loss", "train/obj_loss", "train/cls_loss", "train/mimic", "val/obj_loss"} <= {*columns}


def test_the_exported_file_gives_what_the_detector_gives(whole: Whole) -> None:
    detector = yolo_slim.load(whole.folder / "finetuned" / "slim.pt")
    file = opened(whole.folder / "export" / "slim.onnx", "onnxruntime", 1)
    images = torch.rand(2, 1, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    found = difference(detector, file, images)
    assert found is not None and found < 1e-5
    rows = whole.record("export").metrics["files"]
    assert [(row["precision"], row["error"]) for row in rows] == [("fp32", None), ("int8", None)]


def test_checkpoints_in_the_middle_of_a_training_name_nothing_of_ours(whole: Whole) -> None:
    """last.pt holds an optimizer's state and Ultralytics' arguments, under the repository's names all the same."""
    last = whole.folder / "sparse" / "train" / "weights" / "last.pt"
    assert family_at(last) is YOLOV5
    ckpt = checkpoint.read(last)
    assert ckpt["optimizer"]["state"] and ckpt["live"] and ckpt["train_args"]["epochs"] == 1
    again = checkpoint.detector_of(ckpt, last)
    assert again.source["listed"] and "opt" in again.source["entries"]


def test_inspect_tells_how_it_came_about(whole: Whole) -> None:
    answer = run("inspect", whole.folder / "finetuned" / "slim.pt", f"imgsz={PX}")
    assert "Made from best.pt" in answer.out and "pruned" in answer.out and "Plan: " in answer.out


def test_a_slim_one_runs_again(whole: Whole, tmp_path: Path, data: Path) -> None:
    """In rounds, from the file that another run has written."""
    model = whole.folder / "finetuned" / "slim.pt"
    answer = run(
        "prune", f"model={model}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", "name=again",
        "prune.ratio=0.2", "prune.round_to=1", "prune.min_channels=1", "prune.criterion=l1",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    slim = yolo_slim.load(tmp_path / "again" / "pruned" / "pruned.pt")
    assert len(slim.yaml["slim"]["cuts"]) == 2


def test_losses_of_predictions_are_refused_before_anything_is_trained(best: Path, data: Path, tmp_path: Path) -> None:
    answer = run("run", f"model={best}", f"data={data}", f"runs={tmp_path}", "prune.ratio=0.3",
                 "sparse_train.epochs=0", "finetune.distill={features: mimic, outputs: [binary]}")  # fmt: skip
    refused(answer, "finetune.distill: binary", "head with anchors", "mimic")
    assert not [*tmp_path.rglob("*.pt")]


def test_a_detector_is_not_built_anew_from_its_yaml(best: Path, data: Path, tmp_path: Path) -> None:
    answer = run("sparse-train", f"model={best}", f"data={data}", f"runs={tmp_path}", "sparse_train.mode=uniform",
                 "sparse_train.epochs=1", "sparse_train.train={pretrained: false, batch: 4}")  # fmt: skip
    refused(answer, "pretrained")


def test_classes_that_differ_are_told(data: Path, tmp_path: Path) -> None:
    def spoil(detector: nn.Module) -> None:
        detector.names = ["RBC", "WBC", "Platelets", "other"]

    mine = spoilt(small(tmp_path), tmp_path / "mine.pt", spoil)
    refused(run("prune", f"model={mine}", f"data={data}", f"runs={tmp_path / 'runs'}"), "class 0 is 'RBC'")
