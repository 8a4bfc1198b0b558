"""What is written is a checkpoint of ultralytics/yolov5: its names, keys and tensors; of ours only a card."""

from __future__ import annotations

import pickletools
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import PX
from yolov5_files import FOLDER, each, of, spoilt

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.checkpoint import CARD
from yolo_slim.formats.families import YOLOV5, family_at
from yolo_slim.formats.notes import STOCK_TRAINER_STOP


def named(path: Path) -> set[str]:
    """All that a checkpoint's pickle names."""
    with zipfile.ZipFile(path) as archive:
        pickle = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    return {str(arg) for op, arg, _ in pickletools.genops(pickle) if op.name in ("GLOBAL", "STACK_GLOBAL")}


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pruned = yolo_slim.prune(of("v7.0"), imgsz=PX, ratio=0.4, criterion="l1", min_channels=1, round_to=1)
    return yolo_slim.save(pruned.model, tmp_path_factory.mktemp("slim") / "yolov5n.pt")


@each
def test_an_unpruned_one_comes_back_with_the_same_tensors_and_keys(path: Path, tmp_path: Path) -> None:
    written = yolo_slim.save(yolo_slim.load(path), tmp_path / "same.pt")
    before, after = checkpoint.read(path), checkpoint.read(written)
    assert list(after) == list(before)
    assert {k: v for k, v in after.items() if k != "model"} == {k: v for k, v in before.items() if k != "model"}
    states = [ckpt["model"].state_dict() for ckpt in (before, after)]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert {tensor.dtype for tensor in states[1].values()} == {torch.float16, torch.int64}
    ours = {"names", "yaml", "save", "stride", "hyp", "nc", "yaml_file"}
    for name in ours & vars(before["model"]).keys():
        old, new = (getattr(ckpt["model"], name) for ckpt in (before, after))
        assert torch.equal(old.float(), new.float()) if name == "stride" else old == new, name
    assert type(after["model"].names) is list


@each
def test_one_that_was_trained_here_says_its_size(path: Path, tmp_path: Path) -> None:
    """As its repository's own say it, whatever else it has there."""
    detector = yolo_slim.load(path)
    before = checkpoint.read(path)
    detector.args["imgsz"] = 96
    after = checkpoint.read(yolo_slim.save(detector, tmp_path / "other.pt"))
    assert checkpoint.says_size(after)
    assert after.pop("opt") == {**(before.pop("opt", None) or {}), "imgsz": 96}
    assert {k: v for k, v in after.items() if k != "model"} == {k: v for k, v in before.items() if k != "model"}
    assert yolo_slim.load(tmp_path / "other.pt").args["imgsz"] == 96


@each
def test_names_are_the_repository_s_and_its_oldest(path: Path, tmp_path: Path) -> None:
    """`models.yolo.Model` is known to every release. NumPy is not named: versions 1 and 2 name it differently."""
    written = yolo_slim.save(yolo_slim.load(path), tmp_path / "same.pt")
    found = named(written)
    assert {name for name in found if "ultralytics" in name or "yolo_slim" in name or "numpy" in name} == set()
    assert "models.yolo Model" in found and "models.yolo DetectionModel" not in found
    assert found - {"models.yolo Model"} <= named(path)
    assert not {"models", "models.yolo"} & sys.modules.keys()


@each
def test_nothing_of_ours_stays_in_the_detector(path: Path, tmp_path: Path) -> None:
    before = vars(checkpoint.read(path)["model"]).keys()
    after = vars(checkpoint.read(yolo_slim.save(yolo_slim.load(path), tmp_path / "same.pt"))["model"]).keys()
    assert after <= before


def test_saving_leaves_the_detector_alone(tmp_path: Path) -> None:
    detector = yolo_slim.load(of("v7.0"))
    yolo_slim.save(detector, tmp_path / "a.pt")
    assert detector.names[0] == "RBC" and detector.args and next(detector.parameters()).dtype == torch.float32
    yolo_slim.save(detector, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").stat().st_size == (tmp_path / "b.pt").stat().st_size


def test_a_slim_one_stops_the_repository_s_trainer(slim: Path) -> None:
    """That builds from the YAML, and evaluates what stands there for a layer: a sentence is no Python."""
    (row,) = checkpoint.read(slim)["model"].yaml["backbone"]
    assert row[2] == STOCK_TRAINER_STOP.format(YOLOV5.trained) and "SlimTrainer(overrides=" in row[2]
    with pytest.raises(SyntaxError):
        compile(row[2], "yaml", "eval")


def test_any_name_will_do(slim: Path) -> None:
    """Ultralytics looks yolov5n.pt up under another name; files of this family it does not read at all."""
    assert slim.name == "yolov5n.pt" and family_at(slim) is YOLOV5


def test_a_card_is_one_more_key(slim: Path) -> None:
    before = checkpoint.read(slim)
    checkpoint.inscribe(slim, {"steps": [{"stage": "pruned"}]})
    after = checkpoint.read(slim)
    assert list(after) == [*before, CARD]
    assert checkpoint.card(slim) == {"steps": [{"stage": "pruned"}]}
    assert named(slim) == {name for name in named(slim) if "ultralytics" not in name}
    yolo_slim.load(slim)


def test_names_given_as_a_mapping_stay_one(tmp_path: Path) -> None:
    def spoil(detector: torch.nn.Module) -> None:
        detector.names = dict(enumerate(detector.names))

    mine = spoilt(of("v7.0"), tmp_path / "mine.pt", spoil)
    again = yolo_slim.save(yolo_slim.load(mine), tmp_path / "again.pt")
    assert checkpoint.read(again)["model"].names == {0: "RBC", 1: "WBC", 2: "Platelets"}


def test_a_training_s_state_is_left_out_and_its_key_kept(tmp_path: Path) -> None:
    average = checkpoint.read(of("v7.0"))["model"]
    state = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []}
    mine = spoilt(of("v7.0"), tmp_path / "mine.pt", ema=average, optimizer=state, epoch=7, updates=9, wandb_id="a1")
    after = checkpoint.read(yolo_slim.save(yolo_slim.load(mine), tmp_path / "again.pt"))
    assert (after["optimizer"], after["ema"], after["wandb_id"]) == (None, None, "a1")


def test_the_package_s_prefix_is_read_and_left_out(tmp_path: Path) -> None:
    """Files of the package `yolov5` say yolov5.models.yolo where the repository's say models.yolo."""
    mine = tmp_path / "mine.pt"
    with zipfile.ZipFile(of("v7.0")) as old, zipfile.ZipFile(mine, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/data.pkl"):
                content = content.replace(b"cmodels.", b"cyolov5.models.")
            new.writestr(entry.filename, content)
    written = yolo_slim.save(yolo_slim.load(mine), tmp_path / "again.pt")
    assert not {name for name in named(written) if "yolov5" in name}


def test_the_corpus_s_answers_are_of_its_files() -> None:
    with np.load(FOLDER / "answers.npz") as found:
        assert {*found} - {"image"} == {path.stem for path in FOLDER.glob("*.pt") if "fused" not in path.name}
