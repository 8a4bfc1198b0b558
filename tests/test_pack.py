"""A checkpoint as one small file, and back byte for byte; what strangers write is refused, nothing is half-written."""

import hashlib
import lzma
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yolov5_files
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PX, contents, refused, run
from torch import nn
from ultralytics import YOLO

from yolo_slim import checkpoint, packing
from yolo_slim.compress import Material
from yolo_slim.compress.cluster import Cluster
from yolo_slim.compress.coding.bits import number
from yolo_slim.compress.quantize import Quantize
from yolo_slim.compress.sizes import REST, Size, sizes, total
from yolo_slim.errors import SlimError

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def packed(original: Path) -> bytes:
    return packing.pack(original)


@pytest.fixture(scope="module")
def clustered(loaded: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = Cluster(bits=4)
    shared = method.apply(loaded, method.plan(loaded, Material(PX)))
    card = {"source": {"file": "a.pt", "sha256": "0"}, "steps": [{"stage": "cluster", "settings": {"bits": 4}}]}
    return checkpoint.save(shared, tmp_path_factory.mktemp("clustered") / "shared.pt", **{checkpoint.CARD: card})


# -------------------------------------------------------------------------------------------------------- the same


@pytest.mark.parametrize("kind", ["original", "slim", "clustered"])
def test_a_checkpoint_comes_back_byte_for_byte(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue(kind)
    small = packing.pack(path)
    assert packing.unpack(small) == path.read_bytes()
    assert len(small) < len(lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)), "with all its tables"


@yolov5_files.each
def test_checkpoints_of_the_yolov5_repository_come_back(path: Path) -> None:
    assert packing.unpack(packing.pack(path)) == path.read_bytes()


def test_a_yolov5_detector_with_anchors_goes_through_both_commands(tmp_path: Path) -> None:
    best = yolov5_files.small(tmp_path)
    answer = run("pack", f"model={best}", "pack.compare=false")
    assert answer.code == 0, answer.err
    answer = run("unpack", f"model={best.with_suffix('.yslim')}", f"unpack.to={tmp_path / 'again.pt'}")
    assert answer.code == 0, answer.err
    assert (tmp_path / "again.pt").read_bytes() == best.read_bytes()
    assert isinstance(checkpoint.load(tmp_path / "again.pt"), type(checkpoint.load(best)))


@torch.no_grad()
def test_numbers_of_every_type_come_back(detector: nn.Module, tmp_path: Path) -> None:
    """fp32, bfloat16, shared storages, views, nothing at all: whatever a training leaves."""
    weight = torch.randn(4, 6)
    live = {
        "wide": weight, "view": weight[1:, ::2], "again": weight, "turned": weight.T, "none": torch.empty(0, 3),
        "brain": weight.bfloat16(), "whole": torch.arange(9), "bool": weight > 0, "nan": torch.full((3,), torch.nan),
        "-0": -torch.zeros(5), "scalar": torch.tensor(1.5), "double": weight.double(), "small": weight.to(torch.int8),
    }  # fmt: skip
    path = checkpoint.save(detector, tmp_path / "live.pt", live=live)
    assert packing.unpack(packing.pack(path)) == path.read_bytes()


def test_the_unpacked_file_is_the_detector_everywhere(clustered: Path, tmp_path: Path) -> None:
    """Here with its card, and in stock Ultralytics, where it answers the same."""
    model = Path(shutil.copy(clustered, tmp_path / "shared.pt"))
    assert run("pack", f"model={model}").code == 0
    again = tmp_path / "again.pt"
    answer = run("unpack", str(tmp_path / "shared.yslim"), f"unpack.to={again}")
    assert answer.code == 0, answer.err
    assert again.read_bytes() == model.read_bytes()
    assert checkpoint.card(again) == checkpoint.card(clustered) != {}
    before, after = checkpoint.load(clustered).state_dict(), checkpoint.load(again).state_dict()
    assert all(before[name].numpy().tobytes() == t.numpy().tobytes() for name, t in after.items())
    image = np.random.default_rng(0).integers(0, 256, (PX, PX, 3), np.uint8)
    boxes = [YOLO(p).predict(image, imgsz=PX, conf=1e-3, verbose=False)[0].boxes.data for p in (clustered, again)]
    assert len(boxes[0]) and torch.equal(*boxes)


# --------------------------------------------------------------------------------------------------------- how large


def test_few_values_and_zeros_make_small_files(loaded: nn.Module, packed: bytes, tmp_path: Path) -> None:
    found = {"as it is": len(packed)}
    zeros = {n: torch.rand_like(w) < 0.2 for n, w in loaded.named_parameters() if w.ndim == 4}
    for name, method, masks in (
        ("8 bits", Quantize(), {}),
        ("32 values", Cluster(), {}),
        ("and 80 % zeros", Cluster(), zeros),
    ):
        made = method.apply(loaded, method.plan(loaded, Material(PX, zeros=masks)))
        found[name] = len(packing.pack(checkpoint.save(made, tmp_path / "made.pt")))
    assert [*found.values()] == sorted(found.values(), reverse=True), found
    assert found["and 80 % zeros"] < 0.6 * found["as it is"], found


def test_sizes_of_layers(loaded: nn.Module, clustered: Path) -> None:
    rows = {row.layer: row for row in sizes(loaded)}
    weight = loaded.get_parameter("model.1.conv.weight")
    n, channels = weight.numel(), len(weight)
    row = rows["model.1.conv"]
    assert (row.fp32, row.fp16, row.int8, row.clustered) == (4 * n, 2 * n, n + 2 * channels, None)
    assert row.sparse >= 2 * n and row.coded < row.fp16
    assert total(rows.values()).clustered is None
    few = {row.layer: row for row in sizes(checkpoint.load(clustered))}
    assert few["model.1.conv"].clustered == -(-n * 4 // 8) + 2 * 16
    assert few["model.1.conv"].coded < few["model.1.conv"].clustered + 60 < rows["model.1.conv"].coded
    whole = total(few.values())
    numbers = sum(t.numel() for t in (*loaded.parameters(), *loaded.buffers()) if t.is_floating_point())
    others = sum(t.nbytes for t in loaded.buffers() if not t.is_floating_point())
    assert whole.fp32 == 4 * numbers + others and whole.fp16 == 2 * numbers + others
    assert whole.coded == sum(row.coded for row in few.values())
    assert few[REST].clustered == few[REST].fp16


def test_sizes_of_a_sparse_layer_and_of_any_network() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.Linear(3, 2), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[0, 0, 0, 0] = 1
        for layer in network[1:]:
            layer.weight.fill_(0.3)
    rows = sizes(network)
    assert [row.layer for row in rows] == ["0", "1", "2", REST]
    assert rows[0].sparse < 16 and rows[0].coded < 30
    assert rows[1].clustered == 1 + 2 and rows[2].clustered is None, "a table of one for one weight saves nothing"
    assert rows[3] == Size(REST, 12, 6, 6, 6, 6, rows[3].coded)


def test_the_table_fits_80_columns_and_names_every_layer(clustered: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(clustered, tmp_path / "shared.pt"))
    answer = run("pack", f"model={model}", f"pack.to={tmp_path / 'small.yslim'}")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    table = lines[1 : next(i for i, line in enumerate(lines) if " -> " in line)]
    assert max(map(len, table)) <= 80
    rows = sizes(checkpoint.load(model))
    assert [row.layer for row in rows if not any(line.startswith(f" {row.layer} ") for line in table)] == []
    size = (tmp_path / "small.yslim").stat().st_size
    assert f"{size:,} bytes" in answer.out and "xz -9e makes" in answer.out and "times as many" in answer.out


def test_it_says_where_others_are_as_small(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strong = SimpleNamespace(ZstdCompressor=lambda level: SimpleNamespace(compress=lambda data: b"." * 10 * level))
    monkeypatch.setitem(sys.modules, "zstandard", strong)
    answer = run("pack", f"model={original}", f"pack.to={tmp_path / 'a.yslim'}")
    assert "zstd -22 makes 220 bytes of it: no more, so packing gains nothing" in answer.out
    answer = run("pack", f"model={original}", f"pack.to={tmp_path / 'a.yslim'}", "pack.compare=false")
    assert answer.code == 0 and "makes" not in answer.out


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["pack", "model=none.pt"], ["none.pt"], id="no file"),
        pytest.param(["pack", "model=yolov5n.yaml"], ["checkpoint .pt", "yolov5n.yaml"], id="untrained"),
        pytest.param(["pack", "model={pt}", "pack.to=x.zip"], ["pack.to=x.zip", ".yslim"], id="another kind of file"),
        pytest.param(["pack", "model={bad}"], ["bad.pt", "damaged"], id="a damaged checkpoint"),
        pytest.param(["unpack", "model={pt}"], [".yslim", "yolo-slim pack"], id="not packed"),
        pytest.param(["unpack", "model=none.yslim"], ["none.yslim", "No such file"], id="no packed file"),
        pytest.param(["unpack", "model={ys}", "unpack.to=x.onnx"], ["unpack.to=x.onnx", ".pt"], id="to another kind"),
        pytest.param(["unpack", "model={ys}"], ["tiny.pt is there", "unpack.to="], id="over another file"),
        pytest.param(["unpack", "model={odd}", "unpack.to={out}"], ["odd.yslim is no packed detector"], id="anything"),
        pytest.param(["unpack", "model={cut}", "unpack.to={out}"], ["cut.yslim", "damaged"], id="cut off"),
        pytest.param(["unpack", "model={zip}", "unpack.to={out}"], ["unpacked.pt"], id="no detector in it"),
        pytest.param(["prune", "model={ys}"], ["expected a checkpoint", "yolo-slim unpack"], id="pruned while packed"),
    ],
)
def test_what_is_refused(words: list[str], told: list[str], packed: bytes, original: Path, tmp_path: Path) -> None:
    names = {"pt": "sound.pt", "bad": "bad.pt", "ys": "tiny.yslim", "odd": "odd.yslim", "cut": "cut.yslim"}
    places = {key: tmp_path / name for key, name in names.items()} | {"out": tmp_path / "out.pt"}
    shutil.copy(original, places["pt"])
    content = original.read_bytes()
    places["bad"].write_bytes(content[:9000] + b"?" + content[9001:])
    (tmp_path / "tiny.pt").write_bytes(b"mine")
    places["ys"].write_bytes(packed)
    places["odd"].write_bytes(b"anything")
    places["cut"].write_bytes(packed[:-100])
    places["zip"] = tmp_path / "zip.yslim"
    places["zip"].write_bytes(built(b"no detector"))
    before = contents(tmp_path)
    answer = run(*(word.format(**places) for word in words), f"runs={tmp_path / 'runs'}")
    refused(answer, *told)
    assert contents(tmp_path) == before, "nothing is written"


def test_a_full_disk_leaves_nothing(original: Path, tmp_path: Path) -> None:
    target = tmp_path / "file" / "a.yslim"
    target.parent.write_text("in the way")
    refused(run("pack", f"model={original}", f"pack.to={target}"), "cannot write", "Nothing was changed")
    assert [*contents(tmp_path)] == ["file"]


def built(content: bytes, *, told: int | None = None, parts: int | None = None, table: bytes | None = None) -> bytes:
    """A packed file without storages; its sizes may be lies."""
    rest = packing._squeezed(content)
    size = len(content) if told is None else told
    if table is None:
        listed = b"".join(map(number, (size, 0, len(rest), zlib.crc32(rest))))
        sha256 = hashlib.sha256(content).digest()
        table = number(size) + sha256 + number(1 if parts is None else parts) + listed
    squeezed = packing._squeezed(table)
    head = zlib.crc32(squeezed).to_bytes(4, "little") + len(squeezed).to_bytes(4, "little")
    return packing.MAGIC + bytes([packing.VERSION]) + head + squeezed + rest


def test_the_hand_built_file_is_one() -> None:
    assert packing.unpack(built(b"content")) == b"content"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        pytest.param(lambda: built(b"x", told=1 << 33), "claims to be 8,589,934,592 bytes", id="eight gigabytes"),
        pytest.param(lambda: built(bytes(100_000_000)), "claims to be 100,000,000 bytes", id="a bomb of zeros"),
        pytest.param(lambda: built(bytes(90_000), told=10_000), "more or less is in it", id="more than it says"),
        pytest.param(lambda: built(b"x", told=60_000_000), "more or less|left of", id="less than it says"),
        pytest.param(lambda: built(b"x", parts=1 << 40), "parts", id="parts without end"),
        pytest.param(lambda: built(b"x", parts=0), "parts", id="no part"),
        pytest.param(lambda: built(b"x", parts=9), "left of", id="parts that are not there"),
        pytest.param(lambda: built(b"x", table=bytes(50_000_000)), "more or less is in it", id="a table of 50 MB"),
        pytest.param(lambda: packing.MAGIC, "left of", id="nothing behind its name"),
        pytest.param(lambda: packing.MAGIC + b"\x02" + bytes(99), "version 2", id="a later version"),
        pytest.param(lambda: built(b"content") + b"more", "too many", id="something behind it"),
        pytest.param(lambda: b"", "no packed detector", id="empty"),
    ],
)
def test_sizes_are_not_believed(made: Callable[[], bytes], why: str) -> None:
    with pytest.raises(SlimError, match=why):
        packing.unpack(made())


def test_every_cut_and_every_flipped_byte_is_seen(packed: bytes) -> None:
    rng = np.random.default_rng(0)
    for at in (*range(12), *rng.integers(0, len(packed), 40)):
        with pytest.raises(SlimError):
            packing.unpack(packed[:at])
        spoilt = bytearray(packed)
        spoilt[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(SlimError) as told:
            packing.unpack(bytes(spoilt))
        assert re.match(r"(is|holds|claims) ", str(told.value)), "whoever reads it puts the file's name before it"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for content in (data, packing.MAGIC + b"\x01" + data, built(b"x", table=data)):
        with pytest.raises(SlimError):
            packing.unpack(content)
