"""Detectors that load and are not what they seem: one message at the door, which names the place."""

from __future__ import annotations

import copy
import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spoiling import circle, deep, endless, infinite, layer, nan, repeated, slim, tensors, value, without
from tiny import CLASSES, PX, build, refused, run
from torch import nn
from ultralytics.utils import IterableSimpleNamespace

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.formats.modules import check_modules
from yolo_slim.formats.writing import write_whole

pytest_plugins = ["tiny"]


def stored(detector: nn.Module, path: Path, **entries: Any) -> Path:
    """As Ultralytics would store it, whatever it is."""
    torch.save({"model": detector, "ema": None, "train_args": {}, **entries}, path)
    return path


SPOILT = {
    # weights
    "integer weights": (tensors("model.1.conv.weight", lambda t: t.to(torch.int32)), "model.1.conv.weight", "int32"),
    "weights of yes and no": (tensors("model.1.conv.weight", lambda t: t > 0), "model.1.conv.weight", "bool"),
    "NaN in weights": (tensors("model.1.conv.weight", nan), "NaN", "model.1.conv.weight"),
    "NaN in a scale": (tensors("model.4.cv1.bn.weight", nan), "NaN", "model.4.cv1.bn.weight"),
    "infinity in a bias": (tensors("model.10.cv3.0.2.bias", infinite), "infinity", "model.10.cv3.0.2.bias"),
    "infinity in a mean": (tensors("model.0.bn.running_mean", infinite), "model.0.bn.running_mean"),
    "infinity in a variance": (tensors("model.0.bn.running_var", infinite), "model.0.bn.running_var"),
    "a variance below zero": (tensors("model.0.bn.running_var", lambda t: -t), "below zero", "model.0.bn.running_var"),
    "weights of another shape": (tensors("model.1.conv.weight", lambda t: t[:, :3]), "model.1", "expected (32, 16"),
    "statistics of another width": (tensors("model.1.bn.running_mean", lambda t: t[:3]), "model.1.bn", "(3,)"),
    "no weights": (value("model.1.conv._parameters", {"weight": None, "bias": None}), "model.1.conv", "None"),
    "weights without their layer's": (without("model.1.conv.weight"), "model.1.conv", "None"),
    "no statistics": (value("model.1.bn._buffers", {}), "model.1.bn", "running_mean"),
    # layers
    "a norm by image": (layer("model.1.bn", nn.InstanceNorm2d(32)), "model.1.bn", "InstanceNorm2d"),
    "a norm without statistics": (layer("model.1.bn", nn.BatchNorm2d(32, track_running_stats=False)), "model.1.bn"),
    "a width that is none": (value("model.1.conv.in_channels", "x"), "model.1.conv", "'x'"),
    "another width": (value("model.1.conv.out_channels", 31), "model.1.conv", "(31, 16"),
    "an absurd width": (value("model.1.conv.out_channels", 10**12), "model.1.conv", "1000000000000"),
    "a layer without its width": (without("model.1.conv.out_channels"), "model.1.conv", "None"),
    "a layer without its kernel": (without("model.1.conv.kernel_size"), "model.1.conv", "kernel_size"),
    "a kernel that is a number": (value("model.1.conv.kernel_size", 3), "model.1.conv", "kernel_size 3"),
    "a stride of zero": (value("model.1.conv.stride", (0, 0)), "model.1.conv", "stride (0, 0)"),
    "no groups": (value("model.1.conv.groups", 0), "model.1.conv", "groups"),
    "padding of another kind": (value("model.1.conv.padding", "some"), "model.1.conv", "'some'"),
    "an eps that is none": (value("model.1.bn.eps", "x"), "model.1.bn", "eps 'x'"),
    "an eps below zero": (value("model.1.bn.eps", -1.0), "model.1.bn", "eps -1.0"),
    "a momentum that is none": (value("model.1.bn.momentum", [1]), "model.1.bn", "momentum"),
    "pooling without its kernel": (without("model.6.m.kernel_size"), "does not run"),
    "pooling without end": (value("model.6.n", 10**9), "40,000 operations"),
    "upsampling without end": (value("model.7.scale_factor", 2.0**20), "comes to a tensor of"),
    # modules
    "no modules": (without("model.2._modules"), "model.2", "_modules"),
    "modules that are none": (value("model.2._modules", 3), "model.2", "_modules"),
    "a module that is a text": (layer("model.2.cv1", "x"), "model.2.cv1", "str"),
    "a module in itself": (circle, "without end"),
    "no parameters": (without("model.1.conv._parameters"), "model.1.conv", "_parameters"),
    "a hidden forward": (value("model.1.forward", nn.BCEWithLogitsLoss()), "model.1", "forward"),
    "a hidden state_dict": (value("state_dict", 3), "state_dict"),
    "hidden parameters": (value("model.1.named_parameters", "x"), "model.1", "named_parameters"),
    "a hidden convolution": (value("model.1.conv", "x"), "conv", "model.1"),
    "a module that is in no list": (value("model.1.spare", nn.Identity()), "model.1.spare", "Identity"),
    "a tensor in its description": (lambda d: d.yaml.update(scales=torch.zeros(3)), "Tensor", "scales"),
    "hooks": (value("model.1._forward_hooks", OrderedDict({0: nn.BCEWithLogitsLoss()})), "hooks", "model.1"),
    "hooks before": (value("_forward_pre_hooks", OrderedDict({0: nn.BCEWithLogitsLoss()})), "hooks", "the detector"),
    "hooks backwards": (value("model.1._backward_hooks", OrderedDict({0: nn.BCEWithLogitsLoss()})), "hooks", "model.1"),
    "hooks of weights": (value("model.1._state_dict_hooks", OrderedDict({0: nn.BCEWithLogitsLoss()})), "hooks"),
    "a mode that is none": (value("model.1.training", "x"), "model.1"),
    # order and head
    "no layers": (without("model"), "no layers"),
    "layers that are no list": (layer("model", nn.Identity()), "no layers"),
    "a layer that is not run": (without("model.2.f"), "model.2", "None"),
    "from a layer to come": (value("model.8.f", [-1, 99]), "model.8", "99"),
    "from a text": (value("model.2.f", "x"), "model.2", "'x'"),
    "another number": (value("model.2.i", 7), "model.2", "7"),
    "saved layers that are none": (value("save", ["x"]), "save"),
    "another head": (layer("model.10", nn.Identity()), "model.10"),
    "no classes": (value("model.10.nc", 0), "nc 0"),
    "another number of classes": (value("model.10.nc", 3), "nc 3"),
    "classes as a text": (value("model.10.nc", "4"), "nc '4'"),
    "another number of levels": (value("model.10.nl", 3), "nl 3"),
    "levels without end": (value("model.10.nl", 10**9), "nl 1000000000"),
    "a dfl of another width": (value("model.10.reg_max", 8), "reg_max 8"),
    "boxes without number": (value("model.10.max_det", "x"), "max_det 'x'"),
    # entries
    "strides as a list": (value("stride", [8, 16]), "stride"),
    "strides as a text": (value("stride", "x"), "stride", "'x'"),
    "strides of zero": (value("stride", torch.zeros(2)), "stride"),
    "strides that are not so": (value("stride", torch.tensor([4.0, 8.0])), "[4.0, 8.0]", "[8.0, 16.0]"),
    "strides that are none": (value("stride", torch.tensor([float("nan"), 8])), "stride"),
    "more strides": (value("stride", torch.ones(9)), "stride"),
    "names as a number": (value("names", 3), "names"),
    "too few names": (value("names", {0: "a"}), "names", f"{CLASSES} classes"),
    "names of other numbers": (value("names", dict(zip("abcd", "abcd", strict=True))), "names"),
    "names that are numbers": (value("names", dict(enumerate([1, 2, 3, 4]))), "names"),
    "endless names": (value("names", dict(enumerate(["x" * 5000] * 4))), "names"),
    "a YAML that is a text": (value("yaml", "x"), "yaml"),
    "a YAML that is a list": (value("yaml", []), "yaml"),
    "a YAML without a head": (value("yaml", {"backbone": []}), "yaml.head"),
    "a cut that is a list": (slim(cuts=[[1]]), "yaml.slim.cuts[0]"),
    "cuts that are a number": (slim(cuts=3), "yaml.slim"),
    "a cut that keeps texts": (slim(cuts=[{"model.1.conv": ["x"]}]), "yaml.slim.cuts[0]", "'x'"),
    "a cut that keeps less than nothing": (slim(cuts=[{"model.1.conv": [-1]}]), "yaml.slim.cuts[0]"),
    "a cut of what was cut": (slim(cuts=[{"a": [0, 1]}, {"a": [0, 5]}]), "yaml.slim.cuts[1]"),
    "a cut that keeps one twice": (slim(cuts=[{"a": [1, 1]}]), "yaml.slim.cuts[0]"),
    "no full description": (slim(full=3), "yaml.slim"),
    "a full description of nothing": (slim(full={}), "yaml.slim.full"),
    "a full description without layers": (slim(full={"backbone": [], "head": []}), "yaml.slim.full"),
    "ten million layers": (repeated(10**7), "yaml.slim.full", "10000000 times"),
    "a note that is a text": (lambda detector: detector.yaml.__setitem__("slim", "x"), "yaml.slim"),
    "values without end": (value("model.1.spare", endless()), "without end"),
    "values too deep": (value("note", deep()), "without end"),
}


@pytest.mark.parametrize(("spoil", "said"), [(row[0], row[1:]) for row in SPOILT.values()], ids=SPOILT)
def test_a_detector_that_is_not_what_it_seems(
    spoil: Callable, said: tuple[str, ...], detector: nn.Module, tmp_path: Path
) -> None:
    spoil(detector)
    path = stored(detector, tmp_path / "mine.pt")
    refused(run("inspect", path, f"imgsz={PX}"), path, *said)


def test_a_module_is_called_by_its_class_alone(detector: nn.Module) -> None:
    """Pickling leaves this one out, but what fills a module from a pickle does not."""
    value("model.1._compiled_call_impl", nn.BCEWithLogitsLoss())(detector)
    with pytest.raises(SlimError, match=r"hides the method __call__ of model\.1"):
        check_modules(detector)


ENTRIES = {
    "an average that is a text": ({"ema": "x"}, "'ema'", "str"),
    "an average that is a tensor": ({"ema": torch.zeros(3)}, "'ema'", "Tensor"),
    "an average that is another module": ({"ema": nn.Identity()}, "expected a detection model", "Identity"),
    "a model that is a number": ({"model": 3}, "'model'", "int"),
    "arguments that are a list": ({"train_args": [1]}, "'train_args'"),
    "arguments that are a text": ({"train_args": "x"}, "'train_args'"),
    "an argument of another type": ({"train_args": {"box": [1]}}, "train_args.box"),
    "an epoch that is a text": ({"epoch": "x"}, "'epoch'"),
    "an optimizer that is a list": ({"optimizer": []}, "'optimizer'"),
    "an entry without end": ({"note": endless()}, "without end"),
    "a card that is a text": ({"yolo_slim": "x"}, "model card"),
}


@pytest.mark.parametrize(("entries", "said"), [(row[0], row[1:]) for row in ENTRIES.values()], ids=ENTRIES)
def test_an_entry_of_another_type(entries: dict, said: tuple[str, ...], detector: nn.Module, tmp_path: Path) -> None:
    path = stored(detector, tmp_path / "mine.pt", **entries)
    refused(run("inspect", path, f"imgsz={PX}"), path, *said)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(value("names", list("abcd")), id="names as a list"),
        pytest.param(value("criterion", nn.BCEWithLogitsLoss()), id="a loss that was left in it"),
        pytest.param(value("args", IterableSimpleNamespace(imgsz=64, box=7.5)), id="arguments as a namespace"),
        pytest.param(lambda detector: detector.half(), id="fp16"),
        pytest.param(lambda detector: detector.to(torch.bfloat16), id="bf16"),
        pytest.param(lambda detector: detector.double(), id="fp64"),
        pytest.param(lambda detector: detector.to(memory_format=torch.channels_last), id="channels last"),
        pytest.param(lambda detector: detector.train(), id="in training"),
        pytest.param(lambda detector: detector(torch.zeros(1, 3, PX, PX)), id="after it was run"),
        pytest.param(slim(), id="with a cut"),
    ],
)
def test_a_sound_detector_comes_through(spoil: Callable, detector: nn.Module, tmp_path: Path) -> None:
    expected = copy.deepcopy(detector).float().eval()
    spoil(detector)
    found = checkpoint.load(stored(detector, tmp_path / "mine.pt"))
    image = torch.rand(1, 3, PX, PX)
    with torch.no_grad():
        assert torch.allclose(found(image)[0], expected(image)[0], rtol=0.05, atol=0.5)
    assert found.names.keys() == set(range(CLASSES))
    assert not any(m.training for m in found.modules())


def test_what_an_export_left_in_the_head_is_forgotten(detector: nn.Module, tmp_path: Path) -> None:
    """Anchors of another image under this image's shape would move every box."""
    expected = detector(torch.ones(1, 3, PX, PX))[0]
    head = detector.model[-1]
    head.anchors = head.anchors + 3
    head.export, head.format = True, "onnx"
    found = checkpoint.load(stored(detector, tmp_path / "mine.pt"))
    assert torch.allclose(found(torch.ones(1, 3, PX, PX))[0], expected, atol=1e-3)


def test_a_number_beyond_todays_bounds_is_todays_default(detector: nn.Module, tmp_path: Path) -> None:
    path = stored(detector, tmp_path / "mine.pt", train_args={"workers": -5, "box": 3.0, "lr0": "0.5", "foreign": 1})
    found = checkpoint.load(path).args
    assert (found["box"], found["lr0"]) == (3.0, 0.5) and "foreign" not in found


def test_an_empty_table_of_hooks_is_made_anew(detector: nn.Module, tmp_path: Path) -> None:
    """Of another type torch could hang no hook into it: the trace of such a detector ended in a TypeError."""
    detector.model[1].bn._forward_hooks_with_kwargs = {}
    torch.save({"model": detector, "ema": None, "train_args": {}}, tmp_path / "best.pt")
    yolo_slim.trace(tmp_path / "best.pt", PX)


def test_a_variance_that_fp16_could_not_hold_is_its_largest_number(detector: nn.Module, tmp_path: Path) -> None:
    """Ultralytics stores detectors in fp16 as they are: there a large variance is infinite, and all else is sound."""
    detector.model[1].bn.running_var[0] = 1e6
    torch.save({"model": copy.deepcopy(detector).half(), "ema": None, "train_args": {}}, tmp_path / "best.pt")
    loaded = checkpoint.load(tmp_path / "best.pt").model[1].bn.running_var
    assert loaded[0] == torch.finfo(torch.float16).max
    assert torch.equal(loaded[1:], detector.model[1].bn.running_var[1:].half().float())


# ---------------------------------------------------------------------------------------------------------------------
# Saving


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["model.1.conv.weight", "model.1.bn.running_var", "model.1.bn.running_mean"])
def test_what_is_not_finite_is_not_written(number: float, place: str, detector: nn.Module, tmp_path: Path) -> None:
    detector.state_dict()[place][0] = number
    with pytest.raises(SlimError, match=f"the detector holds NaN or infinity in {place}"):
        checkpoint.save(detector, tmp_path / "slim.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["model.1.conv.weight", "model.1.bn.weight", "model.1.bn.running_mean"])
def test_what_fp16_cannot_hold_is_not_written_as_something_else(
    place: str, detector: nn.Module, tmp_path: Path
) -> None:
    detector.state_dict()[place][0] = -1e5
    with pytest.raises(SlimError, match=f"cannot be saved: {place} holds 1e.05, and fp16"):
        checkpoint.save(detector, tmp_path / "slim.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_has_its_name(
    detector: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    real = os.fsync

    def sync(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, (tmp_path / "slim.pt").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    path = checkpoint.save(detector, tmp_path / "slim.pt")
    assert synced[0] == (path.stat().st_size, False), "all of it, before the renaming"
    assert len(synced) == 2 and synced[1][1], "and then the folder"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        pytest.param(errno.ENOSPC, "free some space", id="a full disk"),
        pytest.param(errno.EACCES, "Permission denied. Nothing was changed", id="a folder of others"),
        pytest.param(errno.EROFS, "Read-only file system. Nothing was changed", id="a disk to read only"),
    ],
)
def test_what_cannot_be_written_is_told_as_it_is(
    number: int, said: str, detector: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(SlimError) as caught:
        write_whole({"model": None}, tmp_path / "slim.pt")
    assert said in str(caught.value) and ("space" in str(caught.value)) == (number == errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(detector: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(SlimError, match=r"cannot write .*Nothing was changed$"):
        checkpoint.save(detector, tmp_path / "folder" / "slim.pt")


# ---------------------------------------------------------------------------------------------------------------------
# Ultralytics' own ways to a checkpoint


def test_export_and_training_read_no_checkpoint_by_themselves(tmp_path: Path) -> None:
    """Each name under which Ultralytics' exporter and trainer read one leads here."""
    from ultralytics.engine import model, trainer
    from ultralytics.nn import distill_model
    from ultralytics.utils import torch_utils

    path = stored(nn.Identity(), tmp_path / "mine.pt")
    with checkpoint.reading_for_ultralytics():
        for reader in (model.load_checkpoint, trainer.load_checkpoint, distill_model.load_checkpoint):
            with pytest.raises(SlimError, match="expected a detection model"):
                reader(path)
        with pytest.raises(SlimError, match="no checkpoint at"):
            torch_utils.torch_load(tmp_path / "none.pt", map_location="cpu")
    assert torch_utils.torch_load.__module__.startswith("ultralytics")


def test_building_leaves_no_activation_behind(tmp_path: Path) -> None:
    from ultralytics.nn.modules import Conv

    before = Conv.default_act
    broken = "nc: 4\nactivation: nn.ReLU()\nbackbone: [[-1, 1, Conv, [8, 3]]]\n"
    (tmp_path / "mine.yaml").write_text(f"{broken}head: [[[0, 0], 1, Detect, [nc, 5, 5, 5, 5]]]\n")
    with pytest.raises(SlimError):
        checkpoint.build(str(tmp_path / "mine.yaml"))
    assert Conv.default_act is before
    assert isinstance(build(tmp_path).model[0].act, nn.SiLU)
