"""Numbers as people write them.

A kB is 10^3 bytes and a MB is 10^6, as in file managers and data sheets.
"""

from __future__ import annotations

import re
from decimal import Decimal

from lmcore.errors import UserError

STEPS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def format_size(size_bytes: int) -> str:
    """A size to three significant digits: "412 kB", "1.07 MB". Whole bytes below 1 kB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    for unit in ("kB", "MB"):
        number = size_bytes / STEPS[unit]
        for decimals in (2, 1, 0):
            text = f"{number:.{decimals}f}"
            if len(text.replace(".", "")) <= 3:
                return f"{text} {unit}"
    return f"{number:.0f} MB"


def parse_size(text: str | int) -> int:
    """Bytes from "1MB", "500 kB", "800 B", "123456" or 123456; a part of a byte is cut off.

    Raises UserError for anything else, and for less than one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?[bB])?\s*", str(text), re.ASCII)
    if match:
        number, unit = match.groups()
        step = {name.lower(): step for name, step in STEPS.items()}[(unit or "B").lower()]
        size_bytes = int(Decimal(number) * step)
        if size_bytes > 0:
            return size_bytes
    raise UserError(
        f"a size of {text!r} is not understood: write bytes, kB, MB or GB above zero, as in "
        '"1.5 MB", "500kB", "800 B" or 123456'
    )


def format_ranges(numbers: list[int], most: int = 8) -> str:
    """Ascending numbers in short: "0-12, 14, 17-29"; the middle of more than `most` is left out."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(texts if len(texts) <= most else [*texts[: most - 1], "...", texts[-1]])
