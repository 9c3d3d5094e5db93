"""Coding is lossless, bounded by the raw form, deterministic, and safe on damaged data."""

from __future__ import annotations

import hashlib
from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmcore import coding, context_form, range_coding

Ints = NDArray[np.int32]


def trip(values: NDArray[Any], low: int, high: int) -> bytes:
    """Encode; check the round trip, the bound, and that the same input gives the same bytes."""
    data = coding.encode(values, low, high)
    back = coding.decode(data, values.shape, low, high)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, values)
    assert len(data) <= coding.raw_size(values.size, low, high)
    assert data == coding.encode(values.copy(order="F"), low, high)
    return data


def entropy_bytes(values: NDArray[Any]) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


def weights(rows: int, columns: int, step: float, seed: int = 0) -> Ints:
    """Codes of a matrix as training leaves it: scales by row and column, correlated columns."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, 20)) @ random.normal(size=(20, columns)) / 4
    matrix = random.normal(size=(rows, columns)) + mixed
    matrix *= np.exp(0.4 * random.normal(size=(rows, 1)) + 0.3 * random.normal(size=columns))
    codes: Ints = np.clip(np.rint(matrix / matrix.std() / step), -127, 127).astype(np.int32)
    return codes


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Ints, int, int]:
    """Any small array: 1-D or 2-D, possibly empty, from one level to 256, sparse to uniform."""
    low = draw(st.integers(-200, 50))
    high = low + draw(st.sampled_from([0, 1, 2, 3, 15, 100, 254, 255]))
    sizes = st.sampled_from([0, 1, 2, 3, 17, 40])
    shape = draw(st.one_of(st.tuples(sizes), st.tuples(sizes, sizes)))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    values = random.integers(low, high, size=shape, endpoint=True)
    kept = random.random(shape) < draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    most_common = draw(st.integers(low, high))
    return np.where(kept, values, most_common).astype(np.int32), low, high


@settings(max_examples=100)
@given(arrays())
@example((np.zeros((0, 5), np.int32), -1, 1))
@example((np.full((40, 40), 255, np.int32), 0, 255))
def test_round_trip(case: tuple[Ints, int, int]) -> None:
    values, low, high = case
    trip(values, low, high)
    for form in (coding.ORDER0, coding.CONTEXT):  # each, whether or not it is the smallest
        if coding._can_hold(form, values.shape, high - low):
            data = bytes([form]) + coding._write(form, values - np.int32(low), high - low)
            np.testing.assert_array_equal(coding.decode(data, values.shape, low, high), values)


@pytest.mark.parametrize("levels", [2, 3, 16, 255, 256, 1000, 65536])
def test_raw_form_is_as_wide_as_the_levels_need(levels: int) -> None:
    values = np.random.default_rng(0).integers(0, levels, 999)
    width = int(np.ceil(np.log2(levels)))
    assert coding.raw_size(values.size, 0, levels - 1) == 1 + -(-999 * width // 8)
    trip(values, 0, levels - 1)


def test_known_and_empty_arrays_cost_one_byte() -> None:
    assert coding.raw_size(1000, 7, 7) == 1
    assert len(trip(np.full((10, 100), 7), 7, 7)) == 1
    assert len(trip(np.zeros((0,), np.int8), -127, 127)) == 1


def test_constant_array_costs_next_to_nothing() -> None:
    assert len(trip(np.full((300, 50), 3), -127, 127)) < 12


def test_order_0_comes_near_the_entropy_without_a_table() -> None:
    for count, slack in ((800, 1.08), (10_000, 1.03)):
        values = np.rint(np.random.default_rng(1).laplace(scale=2, size=count)).astype(np.int8)
        assert len(trip(np.clip(values, -127, 127), -127, 127)) < slack * entropy_bytes(values)


@pytest.mark.parametrize(
    ("step", "transpose"), [(0.4, False), (0.8, True), (1.6, False), (2.5, True)]
)
def test_context_beats_the_entropy_on_weights(step: float, transpose: bool) -> None:
    values = weights(1200, 100, step)
    data = trip(values.T if transpose else values, -127, 127)
    assert data[0] == coding.CONTEXT
    assert len(data) < 0.9 * entropy_bytes(values)


@pytest.mark.slow
def test_realistic_matrix_of_full_width() -> None:
    assert len(trip(weights(2000, 200, 1.6), -127, 127)) < 0.85 * 2000 * 200 * 1.3 / 8


def test_mask_and_eight_bit_codes() -> None:
    values = weights(400, 40, 0.1)
    mask = (np.abs(values) > 12).astype(np.uint8)
    assert trip(mask, 0, 1)[0] == coding.CONTEXT
    assert trip(np.clip(values + 128, 0, 255), 0, 255)[0] == coding.CONTEXT
    trip(mask.astype(bool), 0, 1)


def test_wide_matrix_is_cut_into_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_form, "GROUP", 16)
    trip(weights(300, 50, 1.0), -127, 127)


def test_residuals_out_of_reach_escape() -> None:
    values = weights(400, 20, 1.6)
    values[np.random.default_rng(0).random(values.shape) < 0.01] = 120
    trip(values, -127, 127)


def test_bytes_never_change() -> None:
    """A file written today is read tomorrow: these hashes change only with a new tag."""
    values = np.arange(300 * 40).reshape(300, 40)
    values = (values * values % 1009 * (values % 7) // 1500 - (values % 3)).astype(np.int32)
    low, top, hashes = -2, 10, []
    for form in (coding.ORDER0, coding.CONTEXT):
        data = coding._write(form, values - np.int32(low), top)
        hashes.append(hashlib.sha256(data).hexdigest()[:16])
    assert hashes == ["bd15bd95259c62be", "1f0423821c6e7499"]


def test_bytes_of_wide_residuals_never_change() -> None:
    """Where the context form has escapes, low bits, and scales at which predictions tell nothing;
    and where the columns are in two groups."""
    index = np.arange(300 * 40).reshape(300, 40)
    escapes = np.where(index % 97 == 5, 254, index * index % 1009 * (index % 7) // 1500 + 3)
    low_bits = index % 40 * 5 + index * index % 1009 // 20 * (index // 40 % 5)
    groups = np.arange(60 * 420).reshape(60, 420) ** 2 % 1009 // 300
    hashes = []
    for values, top in ((escapes, 254), (low_bits, 510), (groups, 3)):
        data = coding._write(coding.CONTEXT, np.clip(values, 0, top).astype(np.int32), top)
        hashes.append(hashlib.sha256(data).hexdigest()[:16])
        back = coding.decode(bytes([coding.CONTEXT]) + data, values.shape, 0, top)
        np.testing.assert_array_equal(back, values.clip(0, top))
    assert hashes == ["466c9b0031238fa7", "a29dfda76c704ee6", "160105c7aade705d"]


def test_regression_agrees_with_least_squares() -> None:
    values = weights(500, 12, 0.5).T.astype(np.float64)
    gram = values @ values.T
    fast = context_form._regression(gram, 500)
    ridged = gram + np.eye(12) * context_form.RIDGE * gram.trace() / (500 * 12)
    for j in range(1, 12):
        slow = np.linalg.solve(ridged[:j, :j], ridged[:j, j])
        np.testing.assert_allclose(fast[j, :j], slow, atol=1 / 4096)
    assert not np.triu(fast).any()


def test_tables_are_exact_frequencies() -> None:
    """What coding.py says of constriction: a symbol of frequency f costs log2(2^24 / f) bits."""
    counts = np.array([1, 5, 1000, 3, 0], dtype=np.int64)
    table = range_coding.integer_tables(counts, 2)
    assert table.sum(dtype=np.float64) == range_coding.TOTAL - 5
    for symbol, frequency in enumerate(table.astype(np.float64) + 1):
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(
            np.full(4000, symbol, np.int32), range_coding.Categorical(table, perfect=False)
        )
        bits = 4000 * np.log2(range_coding.TOTAL / frequency)
        assert coder.num_bits() == pytest.approx(bits, abs=80)


@pytest.mark.parametrize("form", [coding.RAW, coding.ORDER0, coding.CONTEXT])
@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["flip", "cut", "random", "longer", "tag"]))
def test_damaged_data_raises_or_gives_the_right_shape(form: int, seed: int, kind: str) -> None:
    values = weights(60, 12, 0.3) + 127
    body = values.astype(np.uint8).tobytes() if not form else coding._write(form, values, 254)
    data, random = bytearray(bytes([form]) + body), np.random.default_rng(seed)
    if kind == "flip":
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    elif kind == "cut":
        data = data[: 1 + int(random.integers(len(data) // 4)) * 4]
    elif kind == "random":
        data[1:] = random.bytes(len(data) - 1)
    elif kind == "longer":
        data += random.bytes(8)
    else:
        data[0] = int(random.integers(256))
    try:
        back = coding.decode(bytes(data), values.shape, -127, 127)
    except ValueError:
        return
    assert back.shape == values.shape
    assert np.abs(back).max() <= 127


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\1", b"\2", b"\3abcd", b"\1abc", b"\2" + b"\xff" * 8]
)
def test_nonsense_is_refused_or_decoded(data: bytes) -> None:
    try:
        assert coding.decode(data, (30, 30), 0, 3).shape == (30, 30)
    except ValueError:
        return


def test_what_cannot_be_coded_says_so() -> None:
    with pytest.raises(ValueError, match="lie outside"):
        coding.encode(np.array([3]), -2, 2)
    with pytest.raises(ValueError, match="integers"):
        coding.encode(np.array([0.5]), 0, 1)
    with pytest.raises(ValueError, match="levels"):
        coding.encode(np.array([0]), 1, 0)
