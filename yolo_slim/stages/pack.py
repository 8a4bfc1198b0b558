"""Pack: a checkpoint as one small file, and what each way to store its layers would take."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, fields
from importlib import import_module
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from yolo_slim import checkpoint, packing
from yolo_slim.compress.sizes import Size, sizes, total
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError, plain
from yolo_slim.text import printable


def pack(config: Complete) -> Path:
    """The checkpoint of `model` as the file `pack.to`."""
    source = Path(config.model)
    target = target_of(config.pack.to, source, packing.SUFFIX, "pack.to")
    packed = packing.pack(source)
    rows = sizes(checkpoint.load(source))
    packing.write(packed, target)
    console.print(_table(rows), soft_wrap=False)
    before = source.stat().st_size
    told = f"{source} {before:,} bytes -> {target} {len(packed):,} bytes: {before / len(packed):.2f} times less"
    console.print(told, markup=False)
    for line in _beside(source.read_bytes(), len(packed)) if config.pack.compare else ():
        console.print(line, markup=False)
    return target


def target_of(given: str | None, source: Path, suffix: str, setting: str) -> Path:
    """The file to write: the one that is given, or beside the model and called as it is.

    Raises:
        SlimError: it is of another kind, or the model itself.
    """
    target = Path(given) if given else source.with_suffix(suffix)
    if target.suffix != suffix:
        raise SlimError(f"{setting}={plain(target)}: expected a name that ends in {suffix}")
    if target.exists() and source.exists() and target.resolve() == source.resolve():
        raise SlimError(f"{setting}={plain(target)} is the model itself: give another name")
    return target


def _table(rows: list[Size]) -> Table:
    """Kilobytes of each layer, in all ways."""
    table = Table(title="kB of each layer's weights", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for field in fields(Size):
        first = field.name == "layer"
        table.add_column(field.name, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for row in (*rows, total(rows)):
        if row.layer == "total":
            table.add_section()
        layer, *numbers = astuple(row)
        table.add_row(Text(printable(layer)), *("-" if n is None else f"{n / 1e3:,.1f}" for n in numbers))
    return table


def _beside(content: bytes, packed: int) -> list[str]:
    """What general compressors make of the same file."""
    lines = []
    for name, compress in _compressors().items():
        size = len(compress(content))
        end = "no more, so packing gains nothing" if size <= packed else f"{size / packed:.2f} times as many"
        lines.append(f"{name} makes {size:,} bytes of it: {end}")
    return lines


def _compressors() -> dict[str, Callable[[bytes], bytes]]:
    """Those that are here, at their strongest."""
    found: dict[str, Callable[[bytes], bytes]] = {
        "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    }
    with suppress(ImportError):
        strongest = import_module("zstandard").ZstdCompressor(level=22)
        found["zstd -22"] = strongest.compress
    return found
