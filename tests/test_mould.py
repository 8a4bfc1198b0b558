"""What was read once is given out again as what a second reading would give, and never for another content."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from tiny import build
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.formats import unpickle
from yolo_slim.formats.mould import Mould

pytest_plugins = ["tiny"]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> OrderedDict:
    """What is remembered, nothing at first."""
    monkeypatch.setattr(unpickle, "_KEPT", OrderedDict())
    return unpickle._KEPT


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
    monkeypatch.setattr(unpickle, "MOST_KEPT", 1)
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


def test_a_tensor_that_is_more_is_not_cast() -> None:
    odd = torch.zeros(2)
    odd.note = "kept beside the numbers"
    with pytest.raises(Exception, match="more than its numbers"):
        Mould([odd])
