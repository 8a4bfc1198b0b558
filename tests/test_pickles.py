"""Checkpoints that would do more than store a detector: refused before anything in them is done."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import refused, run
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import Archive, opened
from yolo_slim.formats.names import layers, objects
from yolo_slim.formats.pickles import walk
from yolo_slim.formats.unpickle import Unpickler
from yolo_slim.formats.vocabulary import ultralytics

pytest_plugins = ["tiny"]


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(module: str, name: str) -> bytes:
    """The instruction that pushes a class or a function."""
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, *args: bytes) -> bytes:
    """Instructions that call something."""
    return named(module, name) + b"(" + b"".join(args) + b"tR"


def number(value: int) -> bytes:
    """The instruction that pushes an integer."""
    return b"J" + struct.pack("<i", value)


def entry(value: bytes) -> bytes:
    """The pickle of {"model": value}."""
    return b"\x80\x02}" + text("model") + value + b"s."


def zipped(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, how: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint as torch would write it, of a pickle made by hand."""
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr("mine/data.pkl", pickled)
        file.writestr("mine/version", "3\n")
        file.writestr("mine/byteorder", "little")
        for key, content in (storages or {}).items():
            file.writestr(f"mine/data/{key}", content)
    return path


@pytest.fixture(params=["", "0"], ids=["as it is", "Ultralytics' restricted loading is off"])
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused does not depend on what the environment says of loading."""
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", request.param)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1" if request.param else "")


MARK = "was-run"
HOSTILE = {
    "a shell": (called("os", "system", text(f"touch {MARK}")), "os.system"),
    "a shell by its other name": (called("posix", "system", text(f"touch {MARK}")), "posix.system"),
    "eval": (called("builtins", "eval", text(f"open({MARK!r}, 'w')")), "builtins.eval"),
    "eval in Python 2": (called("__builtin__", "eval", text(f"open({MARK!r}, 'w')")), "builtins.eval"),
    "getattr": (called("builtins", "getattr", named("torch", "FloatStorage"), text("__new__")), "builtins.getattr"),
    "a second file": (
        called("ultralytics.nn.distill_model", "DistillationModel", text("second.pt"), b"N"),
        "calls ultralytics.nn.distill_model.DistillationModel",
    ),
    "a download": (
        called("ultralytics.nn.modules.block", "TorchVision", number(9), text("resnet18"), text("DEFAULT")),
        "ultralytics.nn.modules.block.TorchVision",
    ),
    "a download, made anew": (
        named("ultralytics.nn.modules.block", "TorchVision") + b")\x81",
        "ultralytics.nn.modules.block.TorchVision",
    ),
    "1.6 GB": (
        called("torch.nn.modules.linear", "Linear", number(20000), number(20000)),
        "calls torch.nn.modules.linear.Linear",
    ),
    "1.6 GB, made anew": (
        named("torch.nn.modules.linear", "Linear") + number(20000) + number(20000) + b"\x86\x81",
        "makes a torch.nn.modules.linear.Linear with arguments",
    ),
    "a description that is evaluated": (
        called("ultralytics.nn.tasks", "DetectionModel", text("mine.yaml")),
        "calls ultralytics.nn.tasks.DetectionModel",
    ),
    "Ultralytics' loader": (
        called("ultralytics.nn.tasks", "load_checkpoint", text("second.pt")),
        "ultralytics.nn.tasks.load_checkpoint",
    ),
    "a function as a value": (named("collections", "OrderedDict"), "keeps collections.OrderedDict as a value"),
    "a class in a list": (b"]" + named("ultralytics.nn.tasks", "DetectionModel") + b"a", "as a value"),
    "a call of what was called": (
        called("collections", "OrderedDict") + b")R",
        "calls something that is no function",
    ),
    "an instruction of Python's own": (named("os", "system") + b"\x93", "os.system"),
    "a codec that unpacks": (called("_codecs", "encode", text("x" * 9), text("bz2_codec")), "calls _codecs.encode"),
    "a NumPy object": (
        called("numpy", "dtype", text("O8"), b"\x89", b"\x88"),
        "calls numpy.dtype",
    ),
    "a set of tensors": (called("builtins", "set", b"]" + called("torch", "Size", b")") + b"a"), "calls builtins.set"),
    "an endless integer": (b"\x8a\xff" + b"\x01" * 255, "an integer of 255 bytes"),
    "a device that is none": (called("torch", "device", text("cuda:" + "9" * 50)), "calls torch.device"),
    "a tuple as a key": (b"}" + b")" + b"N" + b"s", "a key that is neither"),
}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("what", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_that_does_more_is_refused_before_it_does(
    what: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("goes online"))
    zipped(tmp_path / "mine.pt", entry(what))
    with pytest.raises(SlimError) as caught:
        checkpoint.load("mine.pt")
    assert str(caught.value).startswith("mine.pt ") and said in str(caught.value), caught.value
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.pt"]


def test_what_stands_between_is_refused_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose outcome is thrown away, after which a sound checkpoint follows."""
    monkeypatch.chdir(tmp_path)
    hidden = b"\x80\x02" + called("os", "system", text(f"touch {MARK}")) + b"q\x00}."
    zipped(tmp_path / "mine.pt", hidden)
    refused(run("inspect", "mine.pt"), "os.system", "refused")
    assert not Path(MARK).exists()


@pytest.mark.usefixtures("environment")
def test_a_class_that_is_allowed_is_not_called_whatever_was_allowed_before(tmp_path: Path) -> None:
    """Ultralytics' own restricted loader allows classes for the whole process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([(os.mkdir, "os.mkdir"), (os.mkdir, "posix.mkdir"), nn.Linear])
    try:
        zipped(tmp_path / "mine.pt", entry(called("os", "mkdir", text(str(tmp_path / MARK)))))
        with pytest.raises(SlimError, match=r"os\.mkdir"):
            checkpoint.load(tmp_path / "mine.pt")
        assert (os.mkdir, "os.mkdir") in torch.serialization.get_safe_globals(), "and others' lists are left alone"
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert not (tmp_path / MARK).exists()


def test_nothing_stays_allowed_once_a_checkpoint_is_read(original: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        checkpoint.load(original)
        assert torch.serialization.get_safe_globals() == []
    finally:
        torch.serialization.add_safe_globals(before)


def test_notes_are_numbered_as_far_as_there_are_any(tmp_path: Path) -> None:
    """Whoever unpickles makes an array for as many: four bytes would take 64 GB."""
    zipped(tmp_path / "mine.pt", b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(SlimError, match="takes note number 4,294,967,295"):
        checkpoint.read(tmp_path / "mine.pt")


def test_a_name_that_no_walk_has_found_is_not_unpickled(original: Path) -> None:
    """Were the walk to miss one."""
    archive, words = opened(original), ultralytics()
    sizes = {key: len(content) for key, content in archive.storages.items()}
    found = walk(archive.pickle, sizes) - {"torch._utils._rebuild_tensor_v2"}
    with pytest.raises(pickle.UnpicklingError, match="_rebuild_tensor_v2 is none of the names that were found"):
        Unpickler(archive, found, words).load()
    mine = Archive(b"\x80\x02" + called("os", "getpid") + b".", {})
    with pytest.raises(pickle.UnpicklingError, match=r"(os|posix|nt)\.getpid is none"):
        Unpickler(mine, frozenset(), words).load()


def storage(kind: str, key: str, count: int) -> bytes:
    """Instructions that push a tensor's storage."""
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(stored: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Instructions that push a tensor."""
    shape, steps = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    hooks = called("collections", "OrderedDict")
    return called("torch._utils", "_rebuild_tensor_v2", stored, number(offset), shape, steps, b"\x89", hooks)


EIGHT = storage("FloatStorage", "0", 2)
TENSORS = {
    "more numbers than are stored": (storage("FloatStorage", "0", 400_000_000), "says storage 0 is 400,000,000"),
    "fewer numbers than are stored": (storage("FloatStorage", "0", 1), "says storage 0 is 1"),
    "numbers of another kind": (storage("DoubleStorage", "0", 2), "says storage 0 is 2"),
    "complex numbers": (storage("ComplexFloatStorage", "0", 1), "torch.ComplexFloatStorage"),
    "a storage that is missing": (storage("FloatStorage", "7", 2), "storage 7 is missing"),
    "one number 400,000,000 times": (tensor(EIGHT, 0, (400_000_000,), (0,)), "calls torch._utils._rebuild_tensor_v2"),
    "beyond the end": (tensor(EIGHT, 0, (2,), (2,)), "calls torch._utils._rebuild_tensor_v2"),
    "before the beginning": (tensor(EIGHT, -1, (2,), (1,)), "calls torch._utils._rebuild_tensor_v2"),
    "a stride below zero": (tensor(EIGHT, 1, (2,), (-1,)), "calls torch._utils._rebuild_tensor_v2"),
    "nine dimensions": (tensor(EIGHT, 0, (1,) * 9, (1,) * 9), "calls torch._utils._rebuild_tensor_v2"),
    "the same numbers again and again": (
        b"(" + tensor(EIGHT, 0, (2,), (1,)) * 17 + b"t",
        "the same numbers in ever more tensors",
    ),
    "a tensor that is filled": (tensor(EIGHT, 0, (2,), (1,)) + b")b", "fills a torch._utils._rebuild_tensor_v2"),
}


@pytest.mark.parametrize(("what", "said"), TENSORS.values(), ids=TENSORS)
def test_a_tensor_is_no_more_than_the_bytes_that_it_has(what: bytes, said: str, tmp_path: Path) -> None:
    zipped(tmp_path / "mine.pt", entry(what), {"0": bytes(8)})
    with pytest.raises(SlimError) as caught:
        checkpoint.read(tmp_path / "mine.pt")
    assert said in str(caught.value)


def test_two_tensors_agree_on_what_their_storage_holds(tmp_path: Path) -> None:
    both = tensor(EIGHT, 0, (2,), (1,)) + tensor(storage("LongStorage", "0", 1), 0, (1,), (1,)) + b"\x86"
    zipped(tmp_path / "mine.pt", entry(both), {"0": bytes(8)})
    with pytest.raises(SlimError, match=r"says storage 0 is 1 numbers of torch\.LongStorage"):
        checkpoint.read(tmp_path / "mine.pt")


def test_a_pickle_is_walked_as_torch_reads_it(original: Path) -> None:
    """What it names, and how many tensors of how many numbers it makes."""
    with zipfile.ZipFile(original) as file:
        root = file.namelist()[0].partition("/")[0]
        data = file.read(f"{root}/data.pkl")
        sizes = {n.rpartition("/")[2]: file.getinfo(n).file_size for n in file.namelist() if f"{root}/data/" in n}
    assert {name for name in walk(data, sizes) if name.startswith("ultralytics")} == {
        f"{kind.__module__}.{kind.__name__}"
        for kind in {type(m) for m in checkpoint.load(original).modules()}
        if kind.__module__.startswith("ultralytics")
    }


# ---------------------------------------------------------------------------------------------------------------------
# What may be named


def test_no_class_that_may_be_named_reads_files_or_goes_online() -> None:
    assert not [name for name in objects() if name.endswith(("TorchVision", "DataParallel", ".Module"))]
    assert all(issubclass(kind, nn.Module) for kind in layers().values())
    assert all(name.startswith(("torch.nn.modules.", "ultralytics.")) for name in objects())


def test_what_older_versions_called_otherwise_is_read() -> None:
    assert objects()["ultralytics.nn.modules.Conv"] is objects()["ultralytics.nn.modules.conv.Conv"]
    assert objects()["ultralytics.nn.modules.block.Silence"] is nn.Identity
    assert objects()["ultralytics.nn.tasks.YOLOv10DetectionModel"] is DetectionModel
    assert "ultralytics.yolo.utils.loss.v8DetectionLoss" in objects()


BENIGN = {
    "a number of NumPy's": {"best_fitness": np.float64(0.5), "other": np.int64(3)},
    "a path": {"save_dir": Path("runs/detect")},
    "a device": {"device": torch.device("cuda", 1)},
    "an optimizer's state": {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}},
    "large integers": {"seed": 2**62, "less": -(2**40)},
    "weights with their versions": {"live": nn.Linear(2, 2).state_dict()},
    "views of one storage": {"halves": list(torch.arange(8.0).chunk(2)), "turned": torch.ones(2, 3).t()},
    "an empty tensor": {"anchors": torch.empty(0)},
    "sets and shapes": {"set": {"a", "b"}, "shape": torch.Size([1, 2]), "ordered": OrderedDict(a=1)},
    "numbers of every kind": {
        str(kind): torch.ones(3).to(kind)
        for kind in (torch.float64, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.bool)
    },
}


@pytest.mark.parametrize("entries", BENIGN.values(), ids=BENIGN)
def test_what_checkpoints_have_is_read(entries: dict, tmp_path: Path) -> None:
    torch.save({"model": None, **entries}, tmp_path / "mine.pt")
    found = checkpoint.read(tmp_path / "mine.pt")
    assert found.keys() == {"model", *entries}
    for key, value in entries.items():
        if not isinstance(value, (torch.Tensor, dict, list)):
            assert found[key] == value and type(found[key]) is type(value)


# ---------------------------------------------------------------------------------------------------------------------
# The zip


@pytest.fixture
def mine(tmp_path: Path, original: Path) -> Path:
    """A checkpoint to do with as one likes."""
    return Path(shutil.copy(original, tmp_path / "mine.pt"))


def test_a_flipped_byte_is_seen_wherever_it_is(mine: Path) -> None:
    sound = mine.read_bytes()
    with zipfile.ZipFile(mine) as file:
        entries = [e for e in file.infolist() if "/data/" in e.filename and e.file_size]
    for record in entries[:: max(1, len(entries) // 12)]:
        name, extra = struct.unpack_from("<HH", sound, record.header_offset + 26)
        at = record.header_offset + 30 + name + extra
        mine.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(SlimError, match=r"damaged .*CRC"):
            checkpoint.load(mine)


def test_two_records_of_one_name_are_refused(mine: Path) -> None:
    with zipfile.ZipFile(mine, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        name = next(n for n in file.namelist() if n.endswith("data.pkl"))
        file.writestr(name, entry(b"N"))
    refused(run("inspect", mine), mine, "two records named")


def test_a_packed_checkpoint_is_refused_and_not_unpacked(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "mine.pt", entry(b"N"), {"0": bytes(200_000_000)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1_000_000
    refused(run("inspect", bomb), bomb, "is compressed, which torch never does")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.pt", "w") as file:
        file.writestr("best.pt", b"")
    refused(run("inspect", tmp_path / "mine.pt"), "no checkpoint: it has no data.pkl", "give the .pt in it")


def test_a_second_folder_in_the_zip_is_refused(mine: Path) -> None:
    with zipfile.ZipFile(mine, "a") as file:
        file.writestr("other/data.pkl", entry(b"N"))
    refused(run("inspect", mine), mine, "damaged", "more than the folder")


def test_the_format_before_torch_1_6_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": None}, tmp_path / "mine.pt", _use_new_zipfile_serialization=False)
    refused(run("inspect", tmp_path / "mine.pt"), "before 1.6", "torch.save")


def test_a_layer_of_a_repository_that_is_not_read_is_told_honestly(tmp_path: Path) -> None:
    """YOLOv7's files look like YOLOv5's up to their layers."""
    zipped(tmp_path / "mine.pt", entry(named("models.yolo", "Model") + named("models.common", "SPPCSPC")))
    answer = run("inspect", tmp_path / "mine.pt")
    refused(answer, "models.common.SPPCSPC", "no layer of ultralytics/yolov5 that is read here", "C3")
    assert "onvert" not in answer.err


def test_what_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    refused(run("inspect", tmp_path / "folder.pt"), "found a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pt")
        refused(run("inspect", tmp_path / "pipe.pt"), "got a pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(mine: Path) -> None:
    mine.chmod(0)
    refused(run("inspect", mine), "cannot be read: Permission denied")


ADDRESSES = (
    "http://127.0.0.1:9/x.pt",
    "https://127.0.0.1:9/x.pt",
    "ul://a/b",
    "http:/127.0.0.1/x.yaml",
    "HTTPS://a/b.pt",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused_and_not_asked(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_OFFLINE", "0")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("goes online"))
    with pytest.raises(SlimError, match="nothing is downloaded here: download it, and give the file's path"):
        checkpoint.load(address)
    assert list(tmp_path.iterdir()) == []


def test_an_asset_that_is_not_here_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("goes online"))
    with pytest.raises(SlimError, match=r"no checkpoint at yolov5nu.pt\. Nothing is downloaded here"):
        checkpoint.load("yolov5nu.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mine.zip", "mine.tar.gz"])
def test_an_archive_is_to_be_unpacked_first(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(SlimError, match="unpack it first"):
        checkpoint.load(tmp_path / name)
