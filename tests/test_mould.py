"""What was read once is given out again as what a second reading would give, and never for another content."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import PX, build
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import trace
from yolo_slim.errors import SlimError
from yolo_slim.formats import unpickle
from yolo_slim.mould import Mould, Store, duplicate, fingerprint

tracing = sys.modules[trace.__module__]

pytest_plugins = ["tiny"]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> OrderedDict:
    """What is remembered, nothing at first."""
    monkeypatch.setattr(unpickle, "KEPT", Store(1 << 20))
    return unpickle.KEPT.moulds


def same(a: nn.Module, b: nn.Module) -> bool:
    """Numbers, kinds and structure."""
    one, two = a.state_dict(), b.state_dict()
    alike = all(torch.equal(v, two[k]) and v.dtype == two[k].dtype for k, v in one.items())
    grads = [[p.requires_grad for p in m.parameters()] for m in (a, b)]
    return alike and one.keys() == two.keys() and str(a) == str(b) and grads[0] == grads[1]


def test_a_second_reading_is_the_same_and_shares_nothing(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checkpoint.read(original)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read again"))
    second = checkpoint.read(original)
    assert first.keys() == second.keys() and same(first["model"], second["model"])
    for spoilt in (first, second):
        with torch.no_grad():
            spoilt["model"].float().model[0].conv.weight.zero_()
        spoilt["model"].names[0] = "another"
        spoilt.clear()
    third = checkpoint.read(original)["model"]
    assert third.model[0].conv.weight.abs().sum() > 0 and third.names[0] != "another"
    assert third.model[0].conv.weight.dtype == torch.float16


def test_a_file_that_was_replaced_is_seen(tmp_path: Path) -> None:
    """Whatever its size and times say."""
    path = checkpoint.save(build(tmp_path), tmp_path / "a.pt")
    before, times = checkpoint.load(path), path.stat()
    content = path.read_bytes()
    other = checkpoint.save(build(tmp_path, seed=1), tmp_path / "b.pt")
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert same(checkpoint.load(path), checkpoint.load(other)) and not same(checkpoint.load(path), before)
    spoilt = bytearray(content)
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(SlimError, match="not a readable checkpoint"):
        checkpoint.read(path)


def test_what_is_kept_is_bounded(
    original: Path, seeing: Path, kept: OrderedDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.read(original)
    monkeypatch.setattr(unpickle.KEPT, "room", 1)
    checkpoint.read(seeing)
    assert len(kept) == 1, "the older one went"
    kept.clear()
    monkeypatch.setattr(unpickle, "LARGEST_KEPT", original.stat().st_size // 2)
    assert same(checkpoint.read(original)["model"], checkpoint.read(original)["model"]) and not kept


def test_tensors_on_one_storage_stay_together() -> None:
    whole = torch.arange(6.0)
    first, second = Mould({"whole": whole, "part": whole[2:4], "again": whole}), None
    whole += 10  # the mould is of what was
    for _ in range(2):
        second = first.cast()
        assert second["whole"].tolist() == [0, 1, 2, 3, 4, 5] and second["again"] is second["whole"]
        second["part"].zero_()
        assert second["whole"].tolist() == [0, 1, 0, 0, 4, 5]


def test_a_tensor_that_is_more_than_its_numbers_stays_so() -> None:
    odd = torch.zeros(2, requires_grad=True)
    odd.note, odd.grad = "kept beside the numbers", torch.ones(2)
    found = Mould([odd]).cast()[0]
    assert found.note == odd.note and found.grad.tolist() == [1, 1] and found.grad is not odd.grad


class Own(nn.Module):
    """Says itself how it is copied."""

    def __deepcopy__(self, memo: dict) -> str:
        return "as it wants to be"


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(lambda: setattr_on(nn.Conv2d(3, 4, 1), "act", lambda x: x), id="a function without a name"),
        pytest.param(lambda: type("Net", (nn.Conv2d,), {})(3, 4, 1), id="a class that nobody can look up"),
        pytest.param(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), id="layers"),
    ],
)
def test_a_duplicate_is_a_deep_copy(part: Callable[[], nn.Module]) -> None:
    whole = nn.Sequential(part())
    with torch.no_grad():
        copied, state = duplicate(whole), {k: v.clone() for k, v in whole.state_dict().items()}
        for tensor in copied.state_dict().values():
            tensor.zero_()
    assert str(copied) == str(whole) and type(copied[0]) is type(whole[0])
    assert all(torch.equal(v, state[k]) for k, v in whole.state_dict().items())
    assert vars(copied[0]).get("act") is vars(whole[0]).get("act")


def test_who_says_how_it_is_copied_is_heard() -> None:
    assert duplicate([Own()]) == ["as it wants to be"]


def test_what_stands_instead_is_put_there() -> None:
    conv, other = nn.Conv2d(3, 4, 1), nn.Parameter(torch.zeros(1))
    assert duplicate(conv, {id(conv.weight): other}).weight is other


def setattr_on(module: nn.Module, name: str, value: object) -> nn.Module:
    setattr(module, name, value)
    return module


class Widening(nn.Conv2d):
    """Code of a test."""


def test_a_structure_is_told_by_all_that_is_not_a_number() -> None:
    def net(width: int = 8, **more: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3, **more), nn.SiLU())

    told = fingerprint(net())
    assert told is not None and told == fingerprint(net()), "numbers say nothing"
    assert told == fingerprint(net().eval().train())
    frozen, other = net(), net()
    frozen[0].weight.requires_grad_(False)
    other[0] = Widening(3, 8, 3)
    others = [net(9), net(bias=False), net(stride=2), net().double(), net().eval(), frozen, other]
    assert len({told, *map(fingerprint, others)}) == 1 + len(others)


def test_wiring_is_told_by_neither_precision_nor_what_learns() -> None:
    net, other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3).half().requires_grad_(False)
    assert fingerprint(net, exact=False) == fingerprint(other, exact=False) is not None
    others = [nn.Conv2d(3, 9, 3), nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(3, 8, 3).eval(), Widening(3, 8, 3)]
    assert len({fingerprint(n, exact=False) for n in (net, *others)}) == 1 + len(others)


def test_code_without_a_name_of_its_own_is_told_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of a notebook is another one after its cell was changed, under the same name."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    net.act = lambda x: x
    assert fingerprint(net) is None
    monkeypatch.setattr(sys.modules["__main__"], "Widening", Widening, raising=False)
    monkeypatch.setattr(Widening, "__module__", "__main__")
    assert fingerprint(nn.Sequential(Widening(3, 8, 3))) is None


def test_a_class_that_was_replaced_is_another_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(Widening(3, 8, 3))
    again = type("Widening", (nn.Conv2d,), {"__module__": __name__, "__qualname__": "Widening"})
    monkeypatch.setitem(globals(), "Widening", again)
    assert before != fingerprint(again(3, 8, 3)) is not None


def test_arrays_are_copied_as_well() -> None:
    original = {"numbers": np.arange(6), "net": nn.Conv2d(1, 1, 1)}
    mould = Mould(original)
    original["numbers"][:] = 9
    first, second = mould.cast(), mould.cast()
    first["numbers"][0] = 7
    assert second["numbers"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_trace_is_made_once_for_a_structure_and_shares_nothing(detector: nn.Module, monkeypatch) -> None:
    first = trace(detector, PX)
    monkeypatch.setattr(tracing, "_observe", lambda *_: pytest.fail("traced again"))
    name = next(iter(first.convs))
    first.convs[name].outputs[:] = -1
    with torch.no_grad():
        detector.model[0].conv.weight.zero_()
    assert (trace(detector, PX).convs[name].outputs >= 0).all()
