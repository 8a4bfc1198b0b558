"""Checkpoints that look like ultralytics/yolov5's and are not: one message, nothing run, no traceback."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spoiling import circle, deep, endless, infinite, layer, nan, slim, tensors, value, without
from test_pickles import called, entry, named, number, text, zipped
from tiny import PX, refused, run
from torch import nn
from yolov5_files import FUSED, of, small, spoilt

import yolo_slim
from yolo_slim.formats.yolov5.storing import PICKLING

MARK = "was-run"
MODEL = named("models.yolo", "Model")
NEW = b")\x81"


NDARRAY = named("numpy", "ndarray")
EIGHT_BYTES = called("_codecs", "encode", text("12345678"), text("latin1"))


def array(kind: bytes, size: bytes, dtype: str, content: bytes) -> bytes:
    """Instructions that make an empty array, and fill it."""
    begun = called("_codecs", "encode", text("b"), text("latin1"))
    made = called("numpy.core.multiarray", "_reconstruct", kind, b"(" + number(0) + b"t", begun)
    numbers = called("numpy", "dtype", text(dtype), b"\x89", b"\x88")
    return made + b"(" + number(1) + b"(" + size + b"t" + numbers + b"\x89" + content + b"tb"


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("best"))


# ---------------------------------------------------------------------------------------------------------------------
# What a pickle would do


PICKLES = {
    "a shell": (called("os", "system", text(f"touch {MARK}")), "os.system"),
    "a shell by its other name": (called("posix", "system", text(f"touch {MARK}")), "posix.system"),
    "eval in Python 2": (called("__builtin__", "eval", text(f"open({MARK!r}, 'w')")), "builtins.eval"),
    "getattr": (called("__builtin__", "getattr", named("torch", "FloatStorage"), text("__new__")), "builtins.getattr"),
    "code of the repository's own": (called("utils.downloads", "attempt_download", text("x.pt")), "attempt_download"),
    "a layer called with arguments": (called("models.common", "Conv", number(3)), "calls models.common.Conv"),
    "a detector called with a YAML": (called("models.yolo", "Model", text("mine.yaml")), "calls models.yolo.Model"),
    "a head called with nothing": (called("models.yolo", "Detect"), "calls models.yolo.Detect"),
    "a layer made with arguments": (
        named("models.common", "Conv") + b"(" + number(3) + b"t\x81", "makes a models.common.Conv with arguments"),
    "an array of objects": (array(NDARRAY, number(1), "O8", b"]"), "numpy.dtype"),
    "an array larger than its bytes": (
        array(NDARRAY, number(10**9), "f8", EIGHT_BYTES), "fills a numpy.core.multiarray._reconstruct"),
    "an array of a shape below zero": (array(NDARRAY, number(-1), "f8", EIGHT_BYTES), "fills a numpy.core"),
    "an array that is another class": (
        array(MODEL, number(1), "f8", EIGHT_BYTES), "keeps models.yolo.Model as a value"),
    "a class as a value": (named("numpy", "ndarray"), "keeps numpy.ndarray as a value"),
    "a class of the `ultralytics` package": (named("ultralytics.nn.tasks", "DetectionModel") + NEW, "ultralytics.nn"),
    "a class of ours": (named("yolo_slim.formats.yolov5.model", "AnchorModel") + NEW, "yolo_slim.formats"),
    "a layer that is not read": (named("models.experimental", "MixConv2d") + NEW, "models.experimental.MixConv2d"),
    "another task": (named("models.yolo", "SegmentationModel") + NEW, "Segmentation is not supported"),
    "a second filling": (MODEL + NEW + b"}b}b", "a second time"),
    "a dunder": (MODEL + NEW + b"}" + text("__class__") + b"Nsb", "fills a models.yolo.Model"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "said"), PICKLES.values(), ids=PICKLES)
def test_what_no_checkpoint_does_is_not_done(
    harm: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside something that makes it one of the repository's."""
    monkeypatch.chdir(tmp_path)
    pickled = b"\x80\x02}" + text("ema") + MODEL + NEW + b"s" + text("model") + harm + b"s."
    mine = zipped(tmp_path / "mine.pt", pickled)
    refused(run("inspect", mine), mine, said)
    assert not os.path.exists(MARK)


@pytest.mark.parametrize("name", ["Conv", "Detect"])
def test_other_files_may_not_use_the_repository_s_names(name: str, tmp_path: Path) -> None:
    """Nothing makes this one of the repository's: the words are Ultralytics', which has no such layer."""
    mine = zipped(tmp_path / "mine.pt", entry(named("models.common", name) + NEW))
    refused(run("inspect", mine), mine, f"models.common.{name}", "not part of Ultralytics' checkpoint format")


def test_a_text_that_looks_like_a_name_opens_nothing(tmp_path: Path) -> None:
    """It makes the file one of the repository's, and there Ultralytics' names are unknown."""
    pickled = entry(text("cmodels.yolo\nModel\n") + b"0" + named("ultralytics.nn.tasks", "DetectionModel") + NEW)
    refused(run("inspect", zipped(tmp_path / "mine.pt", pickled)), "mine.pt")


def test_the_container_before_torch_1_6_is_refused_with_the_way_out(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt"
    hollow = type("Model", (nn.Module,), {})()
    torch.save({"model": hollow.state_dict()}, mine, _use_new_zipfile_serialization=False)
    refused(run("inspect", mine), mine, "before 1.6", "torch.save")


def test_a_damaged_one_is_told_as_damaged(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt"
    content = of("v7.0").read_bytes()
    for cut in (len(content) // 3, len(content) - 100):
        mine.write_bytes(content[:cut])
        refused(run("inspect", mine), mine, "damaged")


def test_a_missing_storage_is_told(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt"
    with zipfile.ZipFile(of("v7.0")) as old, zipfile.ZipFile(mine, "w") as new:
        for item in old.infolist():
            if not item.filename.endswith("/data/5"):
                new.writestr(item.filename, old.read(item))
    refused(run("inspect", mine), mine, "storage 5 is missing")


# ---------------------------------------------------------------------------------------------------------------------
# What a detector would be


def buffers(place: str, what: Any) -> Callable[[nn.Module], None]:
    name, _, attribute = place.rpartition(".")
    return lambda detector: detector.get_submodule(name)._buffers.__setitem__(attribute, what)


SPOILT = {
    # weights
    "integer weights": (tensors("model.1.conv.weight", lambda t: t.to(torch.int32)), "model.1.conv.weight", "int32"),
    "NaN in weights": (tensors("model.1.conv.weight", nan), "NaN", "model.1.conv.weight"),
    "infinity in a bias": (tensors("model.10.m.0.bias", infinite), "infinity", "model.10.m.0.bias"),
    "a variance below zero": (tensors("model.0.bn.running_var", lambda t: -t), "below zero"),
    "weights of another shape": (tensors("model.1.conv.weight", lambda t: t[:, :3]), "model.1", "expected (32, 16"),
    "no weights": (value("model.1.conv._parameters", {"weight": None, "bias": None}), "model.1.conv", "None"),
    "no statistics": (value("model.1.bn._buffers", {}), "model.1.bn", "running_mean"),
    "an eps that is none": (value("model.1.bn.eps", "x"), "model.1.bn", "eps 'x'"),
    "an eps of infinity": (value("model.1.bn.eps", float("inf")), "model.1.bn", "eps inf"),
    "pooling without end": (value("model.6.n", 10**9), "40,000 operations"),
    "upsampling without end": (value("model.7.scale_factor", 2.0**20), "comes to a tensor of"),
    # modules
    "no modules": (without("model.2._modules"), "model.2", "_modules"),
    "a module that is a text": (layer("model.2.cv1", "x"), "model.2.cv1", "str"),
    "a module in itself": (circle, "without end"),
    "a hidden forward": (value("model.1.forward", nn.BCEWithLogitsLoss()), "model.1", "forward"),
    "a hidden decoding": (value("model.10.decoded", nn.BCEWithLogitsLoss()), "model.10", "decoded"),
    "hidden sizes": (value("model.10.sizes", 3), "model.10", "sizes"),
    "a hidden loss": (value("init_criterion", nn.BCEWithLogitsLoss()), "init_criterion"),
    "hooks": (value("model.1._forward_hooks", OrderedDict({0: nn.BCEWithLogitsLoss()})), "hooks", "model.1"),
    "a convolution without its parts": (without("model.1.conv"), "does not run"),
    "a shortcut that is a text": (without("model.4.m"), "does not run"),
    # order and head
    "no layers": (without("model"), "no layers"),
    "a layer that is not run": (without("model.2.f"), "model.2", "None"),
    "from a layer to come": (value("model.8.f", [-1, 99]), "model.8", "99"),
    "saved layers that are none": (value("save", ["x"]), "save"),
    "another head": (layer("model.10", nn.Identity()), "model.10"),
    "a head of v1.0, without convolutions": (without("model.10.m"), "v1.0", "not read"),
    "no classes": (value("model.10.nc", 0), "nc 0"),
    "another number of classes": (value("model.10.nc", 3), "nc 3"),
    "another number of outputs": (value("model.10.no", 10), "no 10"),
    "classes as a text": (value("model.10.nc", "4"), "nc '4'"),
    "another number of anchors": (value("model.10.na", 4), "expected 36 outputs"),
    "another number of levels": (value("model.10.nl", 3), "nl 3"),
    "a head's layer that is none": (layer("model.10.m.0", nn.Identity()), "level 0", "expected 27 outputs"),
    "no anchors": (without("model.10.anchors"), "anchors", "None"),
    "anchors that are a text": (buffers("model.10.anchors", None), "anchors", "None"),
    "anchors of another shape": (buffers("model.10.anchors", torch.ones(3, 3, 2)), "anchors", "(3, 3, 2)"),
    "anchors of whole numbers": (buffers("model.10.anchors", torch.ones(2, 3, 2, dtype=torch.int64)), "anchors"),
    "anchors below zero": (buffers("model.10.anchors", -torch.ones(2, 3, 2)), "anchors", "above 0"),
    "anchors that are none": (buffers("model.10.anchors", torch.full((2, 3, 2), float("nan"))), "anchors"),
    "anchors in pixels of another shape": (buffers("model.10.anchor_grid", torch.ones(2, 3, 2)), "two parts named"),
    "anchors in two places": (value("model.10.anchors", torch.ones(2, 3, 2)), "two parts named anchors"),
    # entries
    "strides as a list": (value("stride", [8, 16]), "stride"),
    "no strides of the head": (without("model.10.stride"), "stride", "its head"),
    "strides of zero": (value("stride", torch.zeros(2)), "stride"),
    "strides that are not so": (value("stride", torch.tensor([4.0, 8.0])), "[4.0, 8.0]", "[8.0, 16.0]"),
    "names as a number": (value("names", 3), "names"),
    "too few names": (value("names", ["a"]), "names", "4 classes"),
    "names that are numbers": (value("names", [1, 2, 3, 4]), "names"),
    "names that are a tensor": (value("names", torch.ones(4)), "names"),
    "no YAML": (without("yaml"), "`yaml`"),
    "a YAML that is a text": (value("yaml", "x"), "`yaml`"),
    "a YAML without a head": (value("yaml", {"backbone": []}), "yaml.head"),
    "cuts that are a number": (slim(cuts=3), "yaml.slim"),
    "a cut of what was cut": (slim(cuts=[{"a": [0, 1]}, {"a": [0, 5]}]), "yaml.slim.cuts[1]"),
    "no full description": (slim(full=3), "yaml.slim"),
    "gains without end": (value("hyp", {"box": endless()}), "without end"),
    "gains that are a module": (value("hyp", nn.Identity()), "hyp", "Identity"),
    "values too deep": (value("note", deep()), "without end"),
    "an array in a layer": (value("model.1.note", np.ones(1)), "model.1.note", "ndarray"),
    "a source that is a text": (value("source", "x"), "`source`"),
    "a source of other keys": (value("source", {"entries": {}, "more": 1}), "`source`"),
    "a source of numbers": (value("source", {"entries": {1: 2}, "listed": True}), "`source`"),
}


@pytest.mark.parametrize(("spoil", "said"), [(row[0], row[1:]) for row in SPOILT.values()], ids=SPOILT)
def test_a_detector_that_is_not_what_it_seems(
    spoil: Callable, said: tuple[str, ...], best: Path, tmp_path: Path
) -> None:
    mine = spoilt(best, tmp_path / "mine.pt", spoil)
    refused(run("inspect", mine, f"imgsz={PX}"), mine, *said)


ENTRIES = {
    "an average that is a text": ({"ema": "x"}, "'ema'", "str"),
    "a pair without an average": ({"ema": (3, 4)}, "'ema'", "int"),
    "an empty pair": ({"ema": ()}, "'ema'", "tuple"),
    "an average that is another module": ({"ema": nn.Identity()}, "expected a detection model", "Identity"),
    "nothing at all": ({"model": None}, "no detector under 'model' or 'ema'"),
    "an epoch that is a text": ({"epoch": "x"}, "'epoch'"),
    "an optimizer that is a list": ({"optimizer": []}, "'optimizer'"),
    "a fitness of two numbers": ({"best_fitness": np.ones(2)}, "ndarray", "best_fitness"),
    "options with an array": ({"opt": {"imgsz": np.ones(1)}}, "ndarray", "opt.imgsz"),
    "an entry without end": ({"note": endless()}, "without end"),
    "a module among the entries": ({"note": [nn.Identity()]}, "note", "Identity"),
    "a card that is a text": ({"yolo_slim": "x"}, "model card"),
}


@pytest.mark.parametrize(("entries", "said"), [(row[0], row[1:]) for row in ENTRIES.values()], ids=ENTRIES)
def test_an_entry_of_another_type(entries: dict, said: tuple[str, ...], best: Path, tmp_path: Path) -> None:
    mine = spoilt(best, tmp_path / "mine.pt", **entries)
    refused(run("inspect", mine, f"imgsz={PX}"), mine, *said)


BENIGN: dict[str, Callable[[nn.Module], Any]] = {
    "gains that are none": value("hyp", None),
    "gains of other types": value("hyp", {"box": "x", "obj": None, "cls": [1]}),
    "names as a mapping": value("names", dict(enumerate("abcd"))),
    "left in the middle of an export": value("model.10.export", True),
    "a grid of another image": value("model.10.grid", [torch.ones(1, 1, 8, 8, 2), torch.ones(1, 1, 4, 4, 2)]),
    "notes": value("note", {"a": [1, 2, (3, "x")]}),
    "an upsampling that does not say how it counts": without("model.7.recompute_scale_factor"),
}


@pytest.mark.parametrize("spoil", BENIGN.values(), ids=BENIGN)
def test_what_is_harmless_is_let_in(spoil: Callable, best: Path, tmp_path: Path) -> None:
    detector = yolo_slim.load(spoilt(best, tmp_path / "mine.pt", spoil))
    image = torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(detector(image)[0], yolo_slim.load(best)(image)[0])


def test_a_fused_one_is_refused_however_it_was_saved(best: Path, tmp_path: Path) -> None:
    """Without norms and without the bound method that the repository leaves in it."""

    def fuse(detector: nn.Module) -> None:
        for module in detector.modules():
            if "bn" in module._modules:
                module._modules["bn"] = nn.Identity()

    refused(run("inspect", spoilt(best, tmp_path / "mine.pt", fuse)), "is fused")
    refused(run("inspect", FUSED), "is fused")


def test_a_detector_alone_is_no_checkpoint(best: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt"
    torch.save(yolo_slim.formats.yolov5.storing.read(best)["model"], mine, pickle_module=PICKLING)
    refused(run("inspect", mine), mine, "expected an Ultralytics checkpoint, a dict")
