"""What `prune`, `trace` and `cost` take beside a detector: sizes, images, costs of one's own; and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import PX

from yolo_slim import SlimError, cost, prune, trace

pytest_plugins = ["tiny"]

SMALL = {"criterion": "l1", "round_to": 1, "min_channels": 2, "ratio": 0.3}


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
