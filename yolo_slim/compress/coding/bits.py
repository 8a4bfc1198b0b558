"""Whole numbers of a fixed width in bits, and a reader of bytes that nobody vouches for."""

from __future__ import annotations

import numpy as np

from yolo_slim.errors import SlimError

WIDEST = 32
"""Bits of a number."""


def damaged(why: str) -> SlimError:
    """What is said of bytes that were not written so."""
    return SlimError(f"holds numbers that are damaged ({why}): copy it or pack it again")


class Reader:
    """Bytes, from the front; asking for more than are left raises SlimError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._at = memoryview(data), 0

    @property
    def left(self) -> int:
        """Bytes."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next so many bytes."""
        if not 0 <= count <= self.left:
            raise damaged(f"{self.left} bytes are left of {count}")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """The next whole number that `number` wrote."""
        found = shift = 0
        while True:
            byte = self.byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            if (shift := shift + 7) > 63:
                raise damaged("a number without an end")

    def numbers(self, count: int, width: int) -> np.ndarray:
        """The next so many numbers of a fixed width: uint32 (count,)."""
        if not 1 <= width <= WIDEST:
            raise damaged(f"numbers of {width} bits")
        return unpacked(self.take(-(-count * width // 8)), count, width)

    def end(self) -> None:
        """Nothing, if all was read."""
        if self.left:
            raise damaged(f"{self.left} bytes too many")


def number(value: int) -> bytes:
    """A whole number from 0 on, seven bits a byte, the lowest first; a byte of 128 and more is not the last."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def width_of(most: int) -> int:
    """Bits that numbers up to `most` take; one at least, so that no bytes never stand for any number of numbers."""
    return max(int(most).bit_length(), 1)


def packed(numbers: np.ndarray, width: int) -> bytes:
    """Numbers from 0 to 2^width - 1, the highest bit first, one after the other; the last byte is filled with zeros."""
    room = _room(width)
    bits = np.unpackbits(numbers.astype(f">u{room}")[:, None].view(np.uint8), axis=1)  # [N, 8 * room]
    return np.packbits(bits[:, 8 * room - width :]).tobytes()


def unpacked(data: bytes | memoryview, count: int, width: int) -> np.ndarray:
    """What `packed` was given, uint32 (count,); `data` holds as many bits."""
    room = _room(width)
    bits = np.zeros((count, 8 * room), np.uint8)
    read = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width)
    bits[:, 8 * room - width :] = read.reshape(count, width)
    return np.packbits(bits).view(f">u{room}").astype(np.uint32)


def _room(width: int) -> int:
    """Bytes of a type that holds such numbers."""
    return 1 if width <= 8 else 2 if width <= 16 else 4
