"""Bytes of a checkpoint that were damaged on their way."""

from __future__ import annotations

import io
import random
import zipfile


def is_whole(raw: bytes) -> bool:
    """Whether every file in the zip is what its checksum says, and there once."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            return file.testzip() is None and len(set(file.namelist())) == len(file.namelist())
    except Exception:
        return False


def a_flipped_bit(rng: random.Random, raw: bytes) -> bytes:
    """Anywhere."""
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]


def flipped_in_tensors(rng: random.Random, raw: bytes) -> bytes:
    """One byte, in the data of a tensor."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        entry = rng.choice([e for e in file.infolist() if "/data/" in e.filename and e.file_size])
    start = raw.index(entry.filename.encode(), entry.header_offset)
    at = start + len(entry.filename) + int.from_bytes(raw[start - 2 : start], "little") + rng.randrange(entry.file_size)
    return raw[:at] + bytes([raw[at] ^ (1 + rng.randrange(255))]) + raw[at + 1 :]


def flipped_in_pickle(rng: random.Random, raw: bytes) -> bytes:
    """One to four bytes of the pickle, its checksum made right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as file, zipfile.ZipFile(out, "w") as copy_:
        for entry in file.infolist():
            content = bytearray(file.read(entry))
            if entry.filename.endswith("data.pkl"):
                for _ in range(rng.randint(1, 4)):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            copy_.writestr(entry, bytes(content))
    return out.getvalue()


def cut_short(rng: random.Random, raw: bytes) -> bytes:
    """A copy that was interrupted."""
    return raw[: rng.choice([0, 1, 4, 100, len(raw) - 1, len(raw) - 22, rng.randrange(len(raw))])]


def a_block(rng: random.Random, raw: bytes) -> tuple[int, int]:
    """Start and end."""
    size = rng.choice([16, 512, 4096])
    start = rng.randrange(max(1, len(raw) - size))
    return start, start + size


def zeroed(rng: random.Random, raw: bytes) -> bytes:
    """A block of a bad disk."""
    start, end = a_block(rng, raw)
    return raw[:start] + bytes(len(raw[start:end])) + raw[end:]


def swapped(rng: random.Random, raw: bytes) -> bytes:
    """Two blocks."""
    (a, b), (c, d) = sorted((s, s + 512) for s in (rng.randrange(len(raw) // 1024) * 1024 for _ in range(2)))
    return raw[:a] + raw[c:d] + raw[b:c] + raw[a:b] + raw[d:] if b <= c else zeroed(rng, raw)


def left_out(rng: random.Random, raw: bytes) -> bytes:
    """A block is missing, and all behind it moved."""
    start, end = a_block(rng, raw)
    return raw[:start] + raw[end:]


def noise(rng: random.Random, raw: bytes) -> bytes:
    """A block of something else."""
    start, end = a_block(rng, raw)
    return raw[:start] + rng.randbytes(end - start) + raw[end:]


def longer(rng: random.Random, raw: bytes) -> bytes:
    """Something before or behind."""
    more = rng.choice([b"\x00" * 100, b"PK\x03\x04", rng.randbytes(999), raw])
    return more + raw if rng.random() < 0.5 else raw + more


def text_mode(rng: random.Random, raw: bytes) -> bytes:
    """Sent as a text."""
    return rng.choice([raw.replace(b"\n", b"\r\n"), raw.decode("utf-8", "replace").encode(), raw.replace(b"\x00", b"")])


def without_an_entry(rng: random.Random, raw: bytes) -> bytes:
    """One of the zip's files is gone, or empty, or of another length."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as file, zipfile.ZipFile(out, "w") as copy_:
        chosen, how = rng.choice(file.namelist()), rng.randrange(3)
        for entry in file.infolist():
            content = file.read(entry)
            if entry.filename == chosen:
                content = [None, b"", content + content][how]
            if content is not None:
                copy_.writestr(entry.filename, content)
    return out.getvalue()


BYTES = [a_flipped_bit, flipped_in_tensors, flipped_in_tensors, flipped_in_pickle, flipped_in_pickle, cut_short, zeroed,
         swapped, left_out, noise, longer, text_mode, without_an_entry]  # fmt: skip
