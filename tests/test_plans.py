"""Plans in files: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from yolo_slim.compress import Plan
from yolo_slim.errors import SlimError
from yolo_slim.training.plans import MAGIC, load_plan, save_plan

PLAN = Plan(
    layers={"model.1.conv": {"share": 0.5, "note": None, "list": [1, 2]}, "model.0.conv": {"bits": 4}},
    tensors={
        "model.1.conv.weight": torch.rand(3, 2, 3, 3) > 0.5,
        "a codebook": torch.randn(16),
        "half": torch.randn(5).half(),
        "numbers": torch.arange(-3, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "none": torch.zeros(0, 4, dtype=torch.bool),
        "one": torch.tensor(True),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    },
    kept={"model.2.conv": "it predicts"},
    refit={"new": "old"},
    undecided=True,
)


def sealed(header: object, tail: bytes = b"", length: int | None = None) -> bytes:
    """A file with such a header, whose sum is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = MAGIC + (len(text) if length is None else length).to_bytes(8, "little") + text + tail
    return body + hashlib.sha256(body).digest()


def empty(**changed: object) -> dict[str, object]:
    """The header of a plan without anything, or nearly so."""
    return {"layers": {}, "kept": {}, "refit": {}, "undecided": False, "tensors": {}, **changed}


def of_shape(dtype: str, *shape: object) -> dict[str, object]:
    """The header of a plan with one tensor."""
    return empty(tensors={"x": {"dtype": dtype, "shape": list(shape)}})


def test_what_is_read_is_what_was_written(tmp_path):
    found = load_plan(save_plan(PLAN, tmp_path / "there" / "a.plan"))
    assert (found.layers, found.kept, found.refit) == (PLAN.layers, PLAN.kept, PLAN.refit) and found.undecided
    assert list(found.layers) == list(PLAN.layers), "in the detector's order"
    assert found.tensors.keys() == PLAN.tensors.keys()
    for name, tensor in PLAN.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and found.tensors[name].shape == tensor.shape
        assert torch.equal(found.tensors[name], tensor)
    found.tensors["turned"].add_(1)  # is its own, and may be written to
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["a.plan"]


def test_the_same_plan_is_the_same_file_and_a_mask_takes_a_bit_a_number(tmp_path):
    plan = Plan({}, {"mask": torch.rand(8000) > 0.5})
    one, two = (save_plan(plan, tmp_path / name).read_bytes() for name in "ab")
    assert one == two and len(one) < 1000 + 200


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan({"a": {"share": float("nan")}}), id="no number"),
        pytest.param(Plan({"a": {"share": torch.ones(1)}}), id="a tensor among plain values"),
        pytest.param(Plan({"a": {"pair": (1, 2)}}), id="a tuple, which would come back as a list"),
        pytest.param(Plan({"a": {1: 2}}), id="a key that would come back as a text"),
        pytest.param(Plan({}, {"x": torch.zeros(1, dtype=torch.complex64)}), id="a type that is not kept"),
    ],
)
def test_what_would_not_come_back_as_it_was_is_not_written(tmp_path, plan):
    with pytest.raises(ValueError, match=r"expected a tensor of|plain values"):
        save_plan(plan, tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04", id="another kind of file"),
        pytest.param(MAGIC, id="only its first line"),
        pytest.param(sealed(b""), id="no header"),
        pytest.param(sealed(b"{" * 9), id="no JSON"),
        pytest.param(sealed(b"[" * 100_000), id="brackets without end"),
        pytest.param(sealed(empty(), length=1 << 62), id="a header longer than the file"),
        pytest.param(sealed([]), id="a list"),
        pytest.param(sealed(empty(layers=[])), id="layers without names"),
        pytest.param(sealed(empty(layers={"a": 1})), id="a layer without anything"),
        pytest.param(sealed(empty(kept={"a": 1})), id="a reason that is none"),
        pytest.param(sealed(empty(), b"more"), id="longer than its tensors"),
        pytest.param(sealed(of_shape("float32", 1 << 20)), id="shorter than its tensors"),
        pytest.param(sealed(of_shape("bool", 1 << 30, 1 << 30)), id="a mask larger than any memory"),
        pytest.param(sealed(of_shape("float32", -1)), id="a negative shape"),
        pytest.param(sealed(of_shape("float32", 1.5)), id="half a number"),
        pytest.param(sealed(of_shape("float32", *[1] * 99)), id="too many dimensions"),
        pytest.param(sealed(of_shape("object", 1), b"x" * 8), id="objects"),
    ],
)
def test_anything_else_is_refused(tmp_path, content):
    file = tmp_path / "a.plan"
    file.write_bytes(content)
    with pytest.raises(SlimError, match=r"a\.plan"):
        load_plan(file)


def test_any_byte_that_changed_is_seen(tmp_path):
    content = save_plan(PLAN, tmp_path / "a.plan").read_bytes()
    for at in range(0, len(content), 37):
        changed = bytearray(content)
        changed[at] ^= 4
        (tmp_path / "b.plan").write_bytes(changed)
        with pytest.raises(SlimError, match=r"b\.plan"):
            load_plan(tmp_path / "b.plan")


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SlimError, match=r"cannot read the plan .*none"):
        load_plan(tmp_path / "none")
