"""`import yolo_slim` as a user calls it: what a detector may be given as, what is refused, how a result prints."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from networks import Act, randomise_norms
from tiny import PX
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import SegmentationModel

import yolo_slim
from yolo_slim import SlimError, SlimTrainer, checkpoint, cost, load, prune, save, trace
from yolo_slim.importance import Evidence

pytest_plugins = ["tiny"]

SMALL = {"criterion": "l1", "round_to": 1, "min_channels": 2, "ratio": 0.3}


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---- what a detector may be given as ----

GIVEN = {
    "a path as text": str,
    "a path": Path,
    "a YOLO object": lambda path: YOLO(path),
    "its model": lambda path: YOLO(path).model,
    "in training": lambda path: YOLO(path).model.train(),
    "in half precision": lambda path: YOLO(path).model.half(),
    "in bfloat16": lambda path: YOLO(path).model.bfloat16(),
    "frozen": lambda path: YOLO(path).model.requires_grad_(False),
    "wrapped for several GPUs": lambda path: nn.DataParallel(YOLO(path).model),
}


@pytest.fixture(scope="module")
def expected(original):
    """Of what `load` gives: what is kept of it, what it costs, how it is wired."""
    kept = prune(load(original), imgsz=PX, **SMALL).kept
    return kept, cost(load(original), PX), repr(trace(load(original), PX))


@pytest.mark.parametrize("how", GIVEN)
def test_a_detector_comes_in_many_ways(how, original, expected, tmp_path):
    """All give what `load` gives; what was given is left alone."""
    given = GIVEN[how](original)
    kept, costs, wiring = expected
    module = given if isinstance(given, nn.Module) else None
    before, modes = (state_of(module), [m.training for m in module.modules()]) if module else (None, None)
    pruned = prune(given, imgsz=PX, **SMALL)
    assert pruned.kept == kept or how == "in bfloat16"  # which rounds: scores may change places
    assert not pruned.model.training
    assert {p.dtype for p in pruned.model.parameters()} == {torch.float32}
    assert cost(given, PX) == costs
    assert repr(trace(given, PX)) == wiring
    saved = checkpoint.load(save(given, tmp_path / "again.pt"))
    assert cost(saved, PX) == costs
    if module is not None:
        assert same(state_of(module), before)
        assert [m.training for m in module.modules()] == modes


def test_a_yolo_object_learns_from_a_data_set(original, data):
    """As the detector that it holds: by the loss, and by least squares."""
    pruned = prune(YOLO(original), imgsz=PX, data=data, target={"flops": 0.7}, calib_images=4, min_channels=2)
    assert pruned.cost.achieved["flops"] <= 0.7


def test_a_yaml_is_a_detector_too():
    assert cost("yolov5n.yaml", PX) == cost(YOLO("yolov5n.yaml"), PX)


def test_a_module_of_ones_own_comes_as_it_is():
    network = randomise_norms(nn.Sequential(Act(3, 16, 3), Act(16, 16, 3), nn.Conv2d(16, 5, 1)))
    pruned = prune(network, imgsz=PX, **SMALL)
    assert pruned.model(torch.rand(1, 3, PX, PX)).shape == (1, 5, PX, PX)
    assert prune(copy.deepcopy(network).half(), imgsz=PX, **SMALL).cost.after == pruned.cost.after
    with pytest.raises(SlimError, match=r"loss on labelled images is that of Ultralytics' detectors.*Sequential"):
        prune(network, imgsz=PX, data="any.yaml", **SMALL)
    with pytest.raises(SlimError, match="no weights: it is on the meta device"):
        cost(copy.deepcopy(network).to("meta"), PX)


def test_a_slim_detector_is_cut_again(slim, tmp_path):
    first = load(slim)
    second = prune(YOLO(slim), imgsz=PX, **SMALL)
    assert second.cost.before.params == sum(p.numel() for p in first.parameters())
    assert second.cost.after.params < second.cost.before.params
    again = YOLO(save(second.model, tmp_path / "again.pt"))
    assert len(again.model.yaml["slim"]["cuts"]) == 2
    assert again.model(torch.rand(1, 3, PX, PX))[0].shape == first(torch.rand(1, 3, PX, PX))[0].shape


def test_a_slim_detector_given_as_an_object_is_trained_on(slim, data, tmp_path):
    args = {"data": str(data), "epochs": 1, "imgsz": PX, "batch": 4, "device": "cpu", "plots": False}
    model = YOLO(slim)
    model.train(trainer=SlimTrainer, project=str(tmp_path), **args)
    assert cost(model, PX) == cost(slim, PX)
    assert prune(model, **SMALL).trace.imgsz == (PX, PX)  # what it was trained at


# ---- what is no detector ----


def fused(path):
    model = YOLO(path)
    model.fuse()
    return model


WRONG = {
    "a number": (lambda path: 3, "expected a detector: a path.*YOLO or a torch.nn.Module, got a int"),
    "nothing": (lambda path: None, "got a NoneType"),
    "a checkpoint's dict": (lambda path: {"model": 1}, "got a dict"),
    "a result": (lambda path: prune(path, imgsz=PX, **SMALL), "got a Pruned: give its .model"),
    "a fused object": (fused, r"YOLO\('.*tiny.pt'\) is fused.*give its path"),
    "a fused model": (lambda path: fused(path).model, "this detector is fused.*Load the checkpoint again"),
    "another task": (
        lambda path: SegmentationModel("yolov8n-seg.yaml", verbose=False),
        "expected a detection model in this detector, got SegmentationModel",
    ),
    "another task's object": (lambda path: YOLO("yolov8n-seg.yaml"), "got SegmentationModel"),
    "no such file": (lambda path: path.with_name("other.pt"), "no checkpoint at .*other.pt"),
    "a folder": (lambda path: path.parent, "expected a checkpoint at .*found a folder"),
    "a path in bytes": (lambda path: bytes(path), "expected a detector.*got a bytes"),
    "a class": (lambda path: YOLO, "got a type"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_detector_is_told(what, original):
    make, said = WRONG[what]
    given = make(original)
    for call in (lambda: prune(given, imgsz=PX, **SMALL), lambda: cost(given, PX), lambda: trace(given, PX)):
        with pytest.raises(SlimError, match=said):
            call()


def test_an_exported_file_is_no_detector(tmp_path):
    (tmp_path / "slim.onnx").touch()
    model = YOLO(tmp_path / "slim.onnx", task="detect")
    with pytest.raises(SlimError, match=r"is an exported file: give the checkpoint \(.pt\)"):
        prune(model, **SMALL)


# ---- saving ----


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param(
            "x.onnx", r"ending in \.pt, such as .*x\.pt, got .*yolo-slim export.*format='onnx'", id="an export"
        ),
        pytest.param("x", r"such as .*x/slim\.pt", id="no suffix"),
        pytest.param("", r"such as .*slim\.pt", id="a folder"),
        pytest.param("x.PT", r"such as .*x\.pt", id="capitals"),
        pytest.param("a_file/x.pt", "a_file is a file, not a folder", id="a folder that is a file"),
        pytest.param("a_file/deeper/x.pt", "cannot write .*a_file", id="a folder in a file"),
        pytest.param("folder.pt", r"such as .*folder.pt/slim\.pt", id="a folder with such a name"),
        pytest.param("yolov5n.pt", "would be looked up by Ultralytics", id="a name of Ultralytics'"),
    ],
)
def test_a_path_that_cannot_be_saved_to_is_told(path, said, loaded, tmp_path):
    (tmp_path / "a_file").write_text("")
    (tmp_path / "folder.pt").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SlimError, match=said):
        save(loaded, tmp_path / path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_detector_is_not_saved(tmp_path):
    with pytest.raises(SlimError, match=r"expected a detector of Ultralytics to save.*got a Linear"):
        save(nn.Linear(1, 1), tmp_path / "x.pt")
    with pytest.raises(SlimError, match=r"expected a path as text or as a pathlib.Path, got a int: 3"):
        save(nn.Linear(1, 1), 3)
    with pytest.raises(SlimError, match=r"expected a path .* got a NoneType"):
        load(None)
    assert not list(tmp_path.iterdir())


class Somewhere:
    """A path as other packages have them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_any_kind_of_path_will_do(original, tmp_path):
    for make in (str, Path, Somewhere):
        written = save(make(original), make(tmp_path / "deep" / "er" / "x.pt"))
        assert written == tmp_path / "deep/er/x.pt"
        assert cost(load(make(written)), PX) == cost(make(original), PX)


# ---- what a result looks like ----


def test_results_print_in_a_line(loaded, tmp_path):
    image = torch.full((2, 3, PX, PX), 0.5)
    pruned = prune(loaded, imgsz=PX, calibration=image, **SMALL)
    before, after = (f"{b.params / 1e6:.3f} M" for b in (pruned.cost.before, pruned.cost.after))
    assert f"{before} -> {after} parameters" in repr(pruned)
    assert "asked for channels x0.7" in repr(pruned) and "masked and cut differ by" in repr(pruned)
    wiring = trace(loaded, PX)
    assert "64x64 px" in repr(wiring) and f"{len(wiring.convs)} convolutions" in repr(wiring)
    free, kept = wiring.free[0], next(g for g in wiring.groups if g.reason)
    assert repr(free).endswith("may go>") and kept.reason in repr(kept)
    results = [pruned, pruned.cost, pruned.plan, pruned.cost.before, pruned.trace, wiring, cost(loaded, PX)]
    results += [*wiring.groups, *wiring.convs.values(), *wiring.norms.values(), *wiring.blocks.values()]
    results += [Evidence(images=[image]), Evidence()]
    for result in results:
        assert len(repr(result)) < 400 and "array(" not in repr(result) and "\n" not in repr(result), repr(result)
        repr(result).encode("ascii")  # any console can print it


def test_everything_promised_is_there():
    assert all(callable(getattr(yolo_slim, name)) for name in yolo_slim.__all__)
    for name in ("load", "save", "trace", "prune", "cost"):
        words = getattr(yolo_slim, name).__doc__
        assert "Args:" in words and "Raises:" in words
