"""A checkpoint as one small file, `.yslim`, from which it comes back byte for byte.

A `.pt` is a zip: a pickle that describes the detector, and the numbers of each of its tensors. The numbers are coded
one by one (`compress/coding`), all else goes through lzma. So the file that is unpacked is the one that was packed: its
sha256, its card, whatever else it holds.

    YSLIM, a byte with the version, 4 + 4 bytes with the table's CRC-32 and size, the table, and the parts
    table (lzma): size and sha256 of the checkpoint, how many parts; of each part the bytes of the rest that come
    before it, its size, its size here, its CRC-32; the last part is the rest itself

Files may come from strangers: every size is held against what is there, and against what packing can have come to,
before anything is made of it.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim import checkpoint
from yolo_slim.compress.coding import decode, encode
from yolo_slim.compress.coding.bits import Reader, number
from yolo_slim.errors import SlimError, plain
from yolo_slim.formats.archive import LARGEST, MOST_RECORDS
from yolo_slim.formats.writing import write_whole

SUFFIX = ".yslim"
MAGIC, VERSION = b"YSLIM", 1
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME}]
MEMORY = 64 << 20
"""Bytes that lzma may take."""
MOST_TABLE = 64 * MOST_RECORDS
LEAST, RATIO = 64 << 20, 1000
"""A packed file may become so many bytes, or so many times its own; untrained detectors of zeros come to a tenth."""
KINDS = {torch.bfloat16: "<u2", torch.float16: "<f2", torch.float32: "<f4", torch.float64: "<f8", torch.int64: "<i8"}
"""How numbers are read for coding; others, and those of tensors that are not found, as whole numbers."""


@dataclass(frozen=True)
class Part:
    """A stretch of the checkpoint that is coded by itself."""

    before: int  # bytes of the rest between the part before it and this one
    size: int
    packed: int
    crc: int


def pack(path: Path) -> bytes:
    """A checkpoint, packed; what comes back is the same byte for byte, which is tried.

    Raises:
        SlimError: it is no checkpoint that is read here, or damaged.
    """
    if path.suffix != ".pt":
        raise SlimError(f"expected a checkpoint .pt to pack, got {plain(path)}: `yolo-slim convert` makes one")
    shapes = dict(_shapes(checkpoint.read(path)))
    content = path.read_bytes()
    rest, coded, parts, at = bytearray(), [], [], 0
    for start, size in _storages(content, path):
        numbers = content[start : start + size]
        coded.append(_coded(numbers, shapes.get(hashlib.sha256(numbers).digest())))
        parts.append(Part(start - at, size, len(coded[-1]), zlib.crc32(coded[-1])))
        rest += content[at:start]
        at = start + size
    rest += content[at:]
    coded.append(_squeezed(bytes(rest)))
    parts.append(Part(len(content) - at, 0, len(coded[-1]), zlib.crc32(coded[-1])))
    table = _squeezed(_table(content, parts))
    head = MAGIC + bytes([VERSION]) + zlib.crc32(table).to_bytes(4, "little") + len(table).to_bytes(4, "little")
    packed = b"".join((head, table, *coded))
    if unpack(packed) != content:
        raise SlimError(f"{plain(path)} does not come back as it was: it is not packed. Please report this")
    return packed


def unpack(packed: bytes) -> bytes:
    """The checkpoint's file that `pack` was given.

    Raises:
        SlimError: it was not packed so, is damaged, or claims to be more than it can be. It begins with a verb.
    """
    if not packed.startswith(MAGIC):
        raise SlimError(f"is no packed detector ({SUFFIX}): `yolo-slim pack` makes one of a checkpoint")
    try:
        return _unpacked(Reader(packed[len(MAGIC) :]), len(packed))
    except (lzma.LZMAError, MemoryError) as e:
        raise SlimError(f"is damaged ({type(e).__name__}): copy it again") from e


def write(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    write_whole({}, path, lambda _, file: file.write(content))


def _unpacked(reader: Reader, packed: int) -> bytes:
    if (version := reader.byte()) != VERSION:
        raise SlimError(f"is of version {version}, and {VERSION} is read here: a newer yolo-slim may read it")
    crc, size = (int.from_bytes(reader.take(4), "little") for _ in range(2))
    table = Reader(_unsqueezed(_sound(reader.take(size), crc, "its table"), MOST_TABLE))
    whole, sha256, parts = _read_table(table)
    told = sum(part.before + part.size for part in parts)
    if whole > min(max(LEAST, RATIO * packed), LARGEST) or told != whole:
        raise SlimError(f"claims to be {whole:,} bytes, which {packed:,} cannot hold: it is not unpacked")
    coded = [_sound(reader.take(part.packed), part.crc, f"part {i}") for i, part in enumerate(parts)]
    reader.end()
    rest = Reader(_unsqueezed(coded[-1], sum(part.before for part in parts)))
    out = bytearray()
    for part, data in zip(parts[:-1], coded[:-1], strict=True):
        out += rest.take(part.before)
        numbers = decode(data, part.size).tobytes()
        if len(numbers) != part.size:
            raise SlimError(f"is damaged (a part has {len(numbers)} bytes of {part.size}): copy it again")
        out += numbers
    out += rest.take(parts[-1].before)
    rest.end()
    if hashlib.sha256(out).digest() != sha256:
        raise SlimError("is damaged (the checkpoint's sha256 is another): copy it again")
    return bytes(out)


def _table(content: bytes, parts: list[Part]) -> bytes:
    sizes = (number(n) for part in parts for n in (part.before, part.size, part.packed, part.crc))
    return b"".join((number(len(content)), hashlib.sha256(content).digest(), number(len(parts)), *sizes))


def _read_table(table: Reader) -> tuple[int, bytes, list[Part]]:
    whole, sha256, count = table.number(), bytes(table.take(32)), table.number()
    if not 1 <= count <= MOST_RECORDS:
        raise SlimError(f"is damaged ({count} parts): copy it again")
    parts = [Part(table.number(), table.number(), table.number(), table.number()) for _ in range(count)]
    table.end()
    return whole, sha256, parts


def _sound(data: memoryview, crc: int, what: str) -> memoryview:
    if zlib.crc32(data) != crc:
        raise SlimError(f"is damaged ({what} is not as it was written): copy it again")
    return data


def _squeezed(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=FILTERS)


def _unsqueezed(data: memoryview, most: int) -> bytes:
    """At most so many bytes, whatever is in there."""
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY)
    found = reader.decompress(data, most + 1)
    if len(found) > most or not reader.eof or reader.unused_data:
        raise SlimError("is damaged (more or less is in it than it says): copy it again")
    return found


def _coded(numbers: bytes, known: tuple[str, int] | None) -> bytes:
    """The numbers of one storage; where nothing is known of them, as the whole numbers that make the least of them."""
    if known:
        kind, rows = known
        return encode(np.frombuffer(numbers, kind).reshape(rows, -1) if rows > 1 else np.frombuffer(numbers, kind))
    kinds = [kind for kind in ("<u1", "<u2", "<u4", "<u8") if not len(numbers) % np.dtype(kind).itemsize]
    return min((encode(np.frombuffer(numbers, kind)) for kind in kinds), key=len)


def _storages(content: bytes, path: Path) -> Iterator[tuple[int, int]]:
    """Where the numbers of each storage begin in a checkpoint's file, and how many bytes they are; from the front."""
    end = 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
            at = entry.header_offset
            name, extra = (int.from_bytes(content[at + i : at + i + 2], "little") for i in (26, 28))
            start = at + 30 + name + extra
            if start < end or start + entry.file_size > len(content):
                raise SlimError(f"{plain(path)} holds records that overlap: save it with torch again")
            end = start + entry.file_size
            if "/data/" in entry.filename and entry.file_size:
                yield start, entry.file_size


def _shapes(found: Any) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """Of the tensors in a checkpoint that was read: sha256 of their numbers -> what those are, and how many channels
    they are of. Storages are found again by their content: that says all that coding needs."""
    if isinstance(found, nn.Module):
        found = [*found.parameters(), *found.buffers()]
    if isinstance(found, Tensor):
        storage = found.untyped_storage()
        whole = found.is_contiguous() and found.nbytes == storage.nbytes() and found.numel()
        if whole and found.dtype in KINDS:
            numbers = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()
            yield hashlib.sha256(numbers).digest(), (KINDS[found.dtype], found.shape[0] if found.ndim > 1 else 1)
    elif isinstance(found, dict):
        for value in found.values():
            yield from _shapes(value)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from _shapes(value)
