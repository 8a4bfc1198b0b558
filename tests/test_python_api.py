"""`import yolo_slim` as a user calls it: what a detector may be given as, what is refused, how a result prints."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize("how", GIVEN)
def test_a_detector_comes_in_many_ways(how, original, tmp_path):
    """All give what `load` gives; what was given is left alone."""
    given = GIVEN[how](original)
    expected = prune(load(original), imgsz=PX, **SMALL)
    module = given if isinstance(given, nn.Module) else None
    before, modes = (state_of(module), [m.training for m in module.modules()]) if module else (None, None)
    pruned = prune(given, imgsz=PX, **SMALL)
    assert pruned.kept == expected.kept or how == "in bfloat16"  # which rounds: scores may change places
    assert not pruned.model.training
    assert {p.dtype for p in pruned.model.parameters()} == {torch.float32}
    assert cost(given, PX) == cost(load(original), PX)
    assert repr(trace(given, PX)) == repr(trace(load(original), PX))
    saved = checkpoint.load(save(given, tmp_path / "again.pt"))
    assert cost(saved, PX) == cost(load(original), PX)
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
    "a folder": (lambda path: path.parent, "no checkpoint at"),
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


# ---- sizes ----


@pytest.mark.parametrize(
    ("imgsz", "said"),
    [
        pytest.param("64", "expected imgsz to be a side in pixels.*got '64'", id="text"),
        pytest.param(True, "got True", id="yes"),
        pytest.param(64.0, "got 64.0", id="a broken number"),
        pytest.param((64, 64, 64), r"got \(64, 64, 64\)", id="three"),
        pytest.param((), r"got \(\)", id="none"),
        pytest.param(0, "got 0", id="zero"),
        pytest.param(-64, "got -64", id="negative"),
        pytest.param(100, "multiple of 16, the detector's largest stride in pixels, got 100: take 96 or 112", id="100"),
        pytest.param(8, "got 8: take 16", id="too small"),
        pytest.param((64, 100), "got 100: take 96 or 112", id="one of two"),
        pytest.param(np.array(100), "got 100: take 96 or 112", id="numpy's"),
        pytest.param(2**70, "at most 32768", id="huge"),
    ],
)
def test_a_size_that_does_not_fit_is_told(imgsz, said, loaded):
    for of in (cost, trace):
        with pytest.raises(SlimError, match=said):
            of(loaded, imgsz)


@pytest.mark.parametrize("imgsz", ["big", True, 0, 100, (64, 64), 2**70])
def test_prune_takes_a_side_as_the_command_line_does(imgsz, loaded):
    with pytest.raises(SlimError, match="imgsz"):
        prune(loaded, imgsz=imgsz, **SMALL)


def test_a_size_may_be_numpys(loaded):
    assert cost(loaded, np.int64(PX)) == cost(loaded, (PX, np.int32(PX))) == cost(loaded, np.array([PX, PX]))
    given = {**SMALL, "ratio": np.float32(0.5), "round_to": np.int64(4)}
    assert (
        prune(loaded, imgsz=np.int64(PX), **given).kept
        == prune(loaded, imgsz=PX, **{**SMALL, "ratio": 0.5, "round_to": 4}).kept
    )


@pytest.mark.parametrize(
    ("said", "side"),
    [(96, 96), (100, 128), ([64, 96], 96), (None, 640), ("x", 640), (True, 640), (-3, 640), ([], 640), ([1, "x"], 640)],
)
def test_without_a_size_a_detector_is_taken_at_its_own(said, side, detector):
    detector.args = {**detector.args, "imgsz": said}
    assert trace(detector).imgsz == (side, side)
    assert cost(detector) == cost(detector, side)
    if side < 640:
        assert prune(detector, **SMALL).trace.imgsz == (side, side)


# ---- images ----

image = torch.full((2, 3, PX, PX), 0.5)

IMAGES = {
    "one batch": lambda: image,
    "a list": lambda: [image, image],
    "of other sizes": lambda: [image, image[:1, :, :32, :48]],
    "an iterator": lambda: iter([image]),
    "in half precision": lambda: [image.half()],
    "that gradients flow to": lambda: [image.clone().requires_grad_()],
    "a little beyond": lambda: [image * 2.004],
}


@pytest.mark.parametrize("what", IMAGES)
def test_images_come_in_many_ways(what, loaded):
    pruned = prune(loaded, imgsz=PX, calibration=IMAGES[what](), **SMALL)
    assert pruned.difference < 1e-5
    assert all(torch.isfinite(p).all() for p in pruned.model.parameters())


NO_IMAGES = {
    "none": ([], "got none: leave it out"),
    "a number": (3, "got a int"),
    "a path": ("images/", "number 0 is a str"),
    "one image": (image[0], r"of shape \(3, 64, 64\); image\[None\] is a batch of one"),
    "without a batch": ([image[0]], r"of shape \(3, 64, 64\); image\[None\] is a batch of one"),
    "of no image": ([image[:0]], r"of shape \(0, 3, 64, 64\)"),
    "of whole numbers": ([(image * 255).byte()], r"of torch.uint8: batch.float\(\) / 255"),
    "of 0 to 255": ([image, image * 255], "number 1 is from 127.5 to 127.5: batch / 255"),
    "below zero": ([image - 1], "number 0 is from -0.5 to -0.5"),
    "of no numbers": ([image * torch.nan], "from nan to nan"),
    "infinite": ([image / 0], "from inf to inf"),
    "of other channels": ([image[:, :1]], "images of 1 channels: this detector reads images of 3"),
    "of a side that does not fit": ([image[..., :50]], "needs sides that are multiples of 16"),
    "with labels": ([{"img": image}], r"number 0 is a dict; images alone are wanted: batch\['img'\] / 255"),
    "pairs": ([(image, 1)], "number 0 is a tuple; images alone"),
    "arrays": ([image.numpy()], "number 0 is a ndarray; torch.from_numpy"),
    "channels last": ([image.permute(0, 2, 3, 1)], "images of 64 channels"),
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_images_that_it_cannot_look_at_are_told(what, loaded):
    given, said = NO_IMAGES[what]
    with pytest.raises(SlimError, match=rf"calibration: expected batches of images.*{said}"):
        prune(loaded, imgsz=PX, calibration=given, **SMALL)


# ---- costs of one's own ----


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda n: np.ones(n), "got 32$", id="too short"),
        pytest.param(lambda n: np.full(n + 1, np.nan), "got nan for 0", id="no numbers"),
        pytest.param(lambda n: np.arange(n + 1.0) - 2, "got -2 for 0", id="negative"),
        pytest.param(lambda n: np.arange(n + 1.0)[::-1], "got 31 for 1", id="falling"),
        pytest.param(lambda n: ["a"] * (n + 1), "got something else", id="text"),
        pytest.param(lambda n: [[1.0], [1.0, 2.0]], "got something else", id="ragged"),
        pytest.param(lambda n: 3.0, r"got the shape \(\)", id="a number"),
        pytest.param(lambda n: np.ones((n + 1, 1)), r"got the shape \(33, 1\)", id="a column"),
    ],
)
def test_a_table_that_is_none_is_told(change, said, loaded):
    groups = trace(loaded, PX).groups
    table = {g.name: np.arange(g.size + 1.0) for g in groups} | {"model.1.conv": change(32)}
    with pytest.raises(SlimError, match=rf"the cost table energy to have 33 finite numbers for model.1.conv.*{said}"):
        prune(loaded, imgsz=PX, criterion="l1", tables={"energy": table}, target={"energy": 0.5})


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        pytest.param([1], "expected tables to be name -> .*got a list", id="no names"),
        pytest.param({"energy": [1]}, "cost table energy to be group name -> costs, got a list", id="no groups"),
        pytest.param({"energy": {"nowhere": [1], 3: [1]}}, "a group that this detector does not have: 3", id="strange"),
        pytest.param({"energy": {}}, "all that it says is 0", id="empty"),
        pytest.param({"flops": {}, "energy": {}}, "cannot be called flops", id="a name that is taken"),
    ],
)
def test_tables_that_are_none_are_told(tables, said, loaded):
    with pytest.raises(SlimError, match=said):
        prune(loaded, imgsz=PX, criterion="l1", tables=tables, target={"energy": 0.5})


# ---- what a result looks like ----


def test_results_print_in_a_line(loaded, tmp_path):
    pruned = prune(loaded, imgsz=PX, calibration=image, **SMALL)
    before, after = (f"{b.params / 1e6:.3f} M" for b in (pruned.cost.before, pruned.cost.after))
    assert f"{before} -> {after} parameters" in repr(pruned)
    assert "asked for channels x0.7" in repr(pruned) and "masked and cut differ by" in repr(pruned)
    wiring = trace(loaded, PX)
    assert "64x64 px" in repr(wiring) and f"{len(wiring.convs)} convolutions" in repr(wiring)
    free, kept = wiring.free[0], next(g for g in wiring.groups if g.reason)
    assert repr(free).endswith("may go>") and kept.reason in repr(kept)
    results = [pruned, pruned.cost, pruned.cost.plan, pruned.cost.before, pruned.trace, wiring, cost(loaded, PX)]
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
