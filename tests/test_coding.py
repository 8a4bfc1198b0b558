"""Numbers as few bytes: what is decoded is what was encoded, and damaged bytes are refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yolo_slim.compress.coding import decode, encode, huffman, positions, symbols
from yolo_slim.compress.coding.bits import Reader, number, packed, unpacked
from yolo_slim.compress.coding.tensors import TYPES
from yolo_slim.errors import SlimError

KINDS = [kind.str for kind in TYPES]
brief = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, NaN and -0 included."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


# ------------------------------------------------------------------------------------------ whole numbers and Huffman


@brief
@given(st.data(), st.integers(1, 32))
def test_whole_numbers_come_back(data: st.DataObject, width: int) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 2**width - 1))), np.uint32)
    coded = packed(values, width)
    assert len(coded) == -(-len(values) * width // 8)
    assert unpacked(coded, len(values), width).tolist() == values.tolist()


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_a_number_of_any_size_comes_back(value: int) -> None:
    assert Reader(number(value)).number() == value


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [
        pytest.param([8, 4, 2, 2], [1, 2, 3, 3], id="the specification's: 28 bits, the entropy"),
        pytest.param([2, 8, 2, 4], [3, 1, 3, 2], id="in any order"),
        pytest.param([5], [1], id="one symbol has length 1, not 0"),
        pytest.param([0, 7, 0], [0, 1, 0], id="one of several"),
        pytest.param([1, 1], [1, 1], id="two"),
        pytest.param([0, 0], [0, 0], id="none"),
        pytest.param([], [], id="no alphabet"),
        pytest.param([1, 1, 1, 1, 1], [2, 2, 2, 3, 3], id="no power of two"),
    ],
)
def test_lengths_of_codes(counts: list[int], lengths: list[int]) -> None:
    found = huffman.lengths(np.array(counts, np.int64))
    assert sorted(found.tolist()) == sorted(lengths)
    assert (found * counts).sum() == (np.array(lengths) * counts).sum()


def test_the_specifications_example_has_28_bits_where_a_fixed_width_has_32() -> None:
    ids = np.repeat([0, 1, 2, 3], [8, 4, 2, 2])
    bits = huffman.lengths(np.bincount(ids))[ids]
    assert (bits.sum(), 8 * len(packed(ids, 2))) == (28, 32)
    shares = np.array([8, 4, 2, 2]) / 16
    assert bits.sum() == -(shares * np.log2(shares)).sum() * 16


@brief
@given(hnp.arrays(np.int64, st.integers(2, 40), elements=st.integers(1, 10**9)))
def test_codes_are_as_short_as_huffmans_within_16_bits(counts: np.ndarray) -> None:
    bits = huffman.lengths(counts).astype(int)
    assert (2.0**-bits).sum() == 1, "a complete code"
    queue, total = sorted(counts.tolist()), 0  # Huffman's own way: join the two rarest
    while len(queue) > 1:
        total += queue[0] + queue[1]
        queue = sorted([queue[0] + queue[1], *queue[2:]])
    assert (bits * counts).sum() >= total
    if bits.max() < huffman.LONGEST:
        assert (bits * counts).sum() == total


def test_codes_never_have_more_than_16_bits() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    assert huffman.lengths(np.array(fibonacci)).max() == huffman.LONGEST
    with pytest.raises(ValueError, match="at most 4"):
        huffman.lengths(np.ones(5, int), 2)


def test_codes_are_canonical_and_none_begins_another() -> None:
    bits = huffman.lengths(np.array([3, 9, 1, 30, 5, 5, 2]))
    found = [f"{code:0{n}b}" for code, n in zip(huffman.codes(bits), bits, strict=True)]
    assert not any(a != b and b.startswith(a) for a in found for b in found)
    order = sorted(range(len(bits)), key=lambda i: (bits[i], i))
    assert [found[i] for i in order] == sorted(found)


@brief
@given(st.integers(0, 3000), st.integers(1, 300), st.integers(0, 9))
def test_symbols_come_back(count: int, alphabet: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.geometric(0.3, count) % alphabet
    for module in (symbols, huffman):
        coded = module.encode(ids, alphabet)
        reader = Reader(coded)
        assert module.decode(reader, count, alphabet).tolist() == ids.tolist()
        assert reader.left == 0


@pytest.mark.parametrize("count", [huffman.CHUNK - 1, huffman.CHUNK, huffman.CHUNK + 1, huffman.AT_ONCE + 5])
def test_chunks_of_any_length_come_back(count: int) -> None:
    ids = np.random.default_rng(0).geometric(0.2, count) % 50
    assert (huffman.decode(Reader(huffman.encode(ids, 50)), count, 50) == ids).all()


# -------------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize(
    ("at", "width", "steps"),
    [
        pytest.param([0, 1, 2], 3, [0, 0, 0], id="side by side"),
        pytest.param([1, 4, 15], 3, [1, 2, 7, 3], id="a filler: seven zeros, then three"),
        pytest.param([7], 3, [7, 0], id="a gap that a filler fills exactly"),
        pytest.param([14], 3, [7, 7, 0], id="two of them"),
        pytest.param([3], 1, [1, 1, 1, 0], id="one bit"),
        pytest.param([], 3, [], id="nothing there"),
    ],
)
def test_steps(at: list[int], width: int, steps: list[int]) -> None:
    found = positions.relative(np.array(at, int), width)
    assert found.tolist() == steps
    assert positions.symbols_of(np.array(at, int), width) == len(steps)
    assert positions.absolute(found, width).tolist() == at


@brief
@given(st.integers(0, 4000), st.floats(0, 1), st.integers(0, 99))
def test_positions_come_back(count: int, share: float, seed: int) -> None:
    there = np.random.default_rng(seed).random(count) < share**3
    coded = positions.encode(there)
    assert (positions.decode(Reader(coded), count) == there).all()
    assert len(coded) <= 1 + -(-count // 8), "never more than a bitmap"


# ---------------------------------------------------------------------------------------------------------- tensors


def of_shape(kind: str) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))


@brief
@given(st.sampled_from(KINDS).flatmap(of_shape))
def test_any_array_comes_back(array: np.ndarray) -> None:
    assert same(decode(encode(array)), array)


@brief
@given(st.sampled_from(KINDS), st.integers(0, 400), st.integers(0, 999))
def test_any_bits_come_back(kind: str, size: int, seed: int) -> None:
    """NaN with any payload, infinities, denormals, whatever the bytes are."""
    assume(kind != "|b1")
    raw = np.random.default_rng(seed).bytes(size * np.dtype(kind).itemsize)
    array = np.frombuffer(raw, kind)
    assert same(decode(encode(array)), array)


HALVES = np.random.default_rng(0).normal(0, 0.1, (16, 60)).astype(np.float16)
SPARSE = np.where(np.random.default_rng(1).random((16, 60)) < 0.9, np.float16(0), HALVES)
BOOK = HALVES[0, :16][np.random.default_rng(2).integers(0, 16, (16, 60))]
STEPS = np.abs(HALVES).max(1, keepdims=True).astype(np.float32) / 127
GRID = (np.rint(HALVES / STEPS) * STEPS + np.float32(0)).astype(np.float16)


@pytest.mark.parametrize(
    ("array", "most"),
    [
        pytest.param(np.array(1.5, np.float32), 6, id="a scalar"),
        pytest.param(np.empty((0, 3), np.float16), 4, id="nothing"),
        pytest.param(np.array([np.nan, -0.0, np.inf, -np.inf], np.float16), 11, id="not a number, less than nothing"),
        pytest.param(np.zeros((300, 300), np.float32), 16, id="all zeros"),
        pytest.param(np.full(800, -0.0, np.float32), 112, id="all -0: a bit each"),
        pytest.param(np.ones(800, np.float32), 112, id="all the same"),
        pytest.param(HALVES.astype(np.float32), 2 * HALVES.size + 8, id="fp32 that fp16 holds"),
        pytest.param(SPARSE, 0.35 * SPARSE.nbytes, id="nine of ten are zero"),
        pytest.param(np.where(SPARSE, BOOK, np.float16(0)), 0.25 * SPARSE.nbytes, id="sparse and clustered"),
        pytest.param(BOOK, 0.3 * BOOK.nbytes, id="16 values: four bits each, and the table"),
        pytest.param(GRID, 0.55 * GRID.nbytes, id="a grid of 8 bits for each channel"),
        pytest.param(GRID.astype(np.float64), 0.55 * GRID.nbytes, id="the same, twice and four times as wide"),
        pytest.param(-GRID, GRID.nbytes, id="its negative has -0, which no grid has"),
        pytest.param(np.arange(1000, 1900, dtype=np.int64), 1150, id="whole numbers that lie together"),
        pytest.param(np.arange(64, dtype=np.float32)[::2], 70, id="not contiguous"),
        pytest.param(np.asfortranarray(HALVES), 2 * HALVES.size + 8, id="columns first"),
        pytest.param(np.array([True, False] * 100), 32, id="bool"),
        pytest.param(np.array([1, 2], ">i4"), 12, id="big-endian comes back little-endian"),
    ],
)
def test_the_smallest_way_is_found(array: np.ndarray, most: float) -> None:
    coded = encode(array)
    assert len(coded) <= most
    assert same(decode(coded), array.astype(array.dtype.newbyteorder("<")))


@brief
@given(st.integers(4, 8), st.floats(1e-7, 400), st.integers(0, 99))
def test_a_grid_of_any_scale_is_found_again(bits: int, size: float, seed: int) -> None:
    rng, most = np.random.default_rng(seed), (1 << bits - 1) - 1
    whole = rng.integers(-most, most + 1, (3, 300))
    whole[:, 0] = most
    scales = np.float32(size / most) * rng.uniform(0.5, 1, (3, 1)).astype(np.float32)
    stored = (whole * scales + np.float32(0)).astype(np.float16)
    coded = encode(stored)
    assert same(decode(coded), stored)
    if size > 1e-2:  # below, fp16's numbers lie too far apart
        assert len(coded) <= bits / 8 * stored.size + 90


def test_millions_come_back() -> None:
    rng = np.random.default_rng(0)
    ids = rng.geometric(0.15, (512, 2000)) % 32
    weights = rng.normal(size=32).astype(np.float16)[ids]
    assert same(decode(encode(weights)), weights)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.array(["2020"], "M8[D]")])
def test_what_is_no_number_is_refused(array: np.ndarray) -> None:
    with pytest.raises(SlimError, match="expected numbers"):
        encode(array)


# ---------------------------------------------------------------------------------------------------------- strangers

PACKED = [encode(a) for a in (HALVES, SPARSE, BOOK, GRID, BOOK.astype(np.float32), np.arange(50), np.zeros(9))]


@pytest.mark.parametrize("coded", PACKED)
def test_truncated_bytes_are_refused(coded: bytes) -> None:
    for size in {*range(min(40, len(coded))), *range(0, len(coded), 17)}:
        with pytest.raises(SlimError):
            decode(coded[:size])
    with pytest.raises(SlimError, match="too many"):
        decode(coded + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(PACKED))
def test_damaged_bytes_are_refused_or_give_other_numbers(data: st.DataObject, coded: bytes) -> None:
    spoilt = bytearray(coded)
    for at in data.draw(st.lists(st.integers(0, min(len(coded), 60) - 1), min_size=1, max_size=4)):
        spoilt[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SlimError):
        decode(bytes(spoilt), most=1 << 20)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_refused_or_numbers(data: bytes) -> None:
    with contextlib.suppress(SlimError):
        decode(data, most=1 << 20)


def large(kind: bytes, *shape: int) -> bytes:
    return kind[:1] + b"".join(map(number, shape)) + kind[1:]


@pytest.mark.parametrize(
    ("coded", "why"),
    [
        pytest.param(large(b"\x01s\x08\0\0r", 1 << 40), "bytes are expected at most", id="a terabyte of zeros"),
        pytest.param(large(b"\x02r", 1 << 62, 0), "bytes are expected at most", id="an axis without end"),
        pytest.param(large(b"\x01r", 1 << 29), "are left", id="raw"),
        pytest.param(large(b"\x01b\x01\0\0\0", 1 << 29), "are left", id="of one value"),
        pytest.param(large(b"\x01b\xff\xff\xff\x7f", 1 << 29), "are left", id="a table without end"),
        pytest.param(large(b"\x01b\x01\0\0\x01\x01\x01\x80\xff", 1 << 29), "are left", id="Huffman's"),
        pytest.param(large(b"\x01i\0\x21", 1 << 29), "bits|large", id="numbers that are too wide"),
        pytest.param(b"\x00" + b"n" * 40, "damaged", id="ways in ways"),
        pytest.param(b"\x10" + b"n" * 40, "damaged", id="half of half"),
        pytest.param(b"\xf0", "kind", id="of no type"),
        pytest.param(b"\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", "without an end", id="a number"),
        pytest.param(b"", "are left", id="nothing"),
    ],
)
def test_nothing_is_made_of_a_strangers_number(coded: bytes, why: str) -> None:
    with pytest.raises(SlimError, match=why):
        decode(coded)
