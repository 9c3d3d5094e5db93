import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcore.errors import UserError
from search.units import format_ranges, format_size, parse_size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (412_000, "412 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_070_000, "1.07 MB"),
        (1_904_999, "1.90 MB"),
        (18_600_000, "18.6 MB"),
        (264_100_000, "264 MB"),
        (1_234_567_890, "1235 MB"),
    ],
)
def test_sizes_are_written_with_three_digits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1MB", 10**6),
        ("500kB", 500_000),
        ("500 KB", 500_000),
        ("800 B", 800),
        ("1.07 mb", 1_070_000),
        (" 123456 ", 123_456),
        (123_456, 123_456),
        ("0.0019 kB", 1),
    ],
)
def test_sizes_are_read(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "MB", "1 MiB", "1 TB", "-1 kB", "1,5 MB", "1e6", "nan", "0", 0, -3, "0.4 B", True]
)
def test_what_is_no_size_is_refused_with_what_would_be(text: str | int) -> None:
    with pytest.raises(UserError, match=r'"1\.5 MB", "500kB", "800 B" or 123456'):
        parse_size(text)


@given(st.integers(1, 10**10))
def test_a_written_size_reads_back_to_three_digits(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.005)


def test_runs_of_numbers_are_written_in_short() -> None:
    assert format_ranges([]) == ""
    assert format_ranges([4]) == "4"
    assert format_ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert format_ranges(list(range(0, 40, 2)), most=4) == "0, 2, 4, ..., 38"
