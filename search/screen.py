"""What is drawn again and again at the bottom of a terminal, while lines go by above it.

rich is imported where something is drawn: commands that only read, and workers, do without it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

DUMB = ("dumb", "unknown")  # values of TERM of terminals whose cursor cannot go up
USUAL = (80, 24)  # columns and lines of a terminal that does not say how large it is
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Size:
    """How much a screen may show: columns and lines, and whether of ASCII alone."""

    columns: int
    lines: int
    ascii: bool = False


def can_draw(stream: TextIO) -> bool:
    """Whether the stream leads to a terminal in which something can be drawn in place."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in DUMB


def gauge(share: float, width: int, ascii: bool) -> tuple[str, str]:
    """A bar of `width` characters in two parts: what is done of it, and what is left."""
    done = min(max(int(share * width + 0.5), 0), width)
    full, empty = ("#", "-") if ascii else ("━", "─")
    return full * done, empty * (width - done)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of values in at most `width` characters: the lowest ▁, the highest █."""
    if not values:
        return ""
    count = min(width, len(values))
    shown = [values[(index + 1) * len(values) // count - 1] for index in range(count)]
    low, high = min(shown), max(shown)
    steps = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[int((value - low) * steps + 0.5)] for value in shown)


class Screen:
    """The bottom of a terminal. `draw` and `say` may be called by several threads."""

    def __init__(self, terminal: TextIO) -> None:
        from rich.console import Console

        self.terminal = terminal
        self._lock = threading.RLock()
        self._lines: list[Text] = []
        self._console = Console(file=terminal, force_terminal=True, highlight=False)
        self._console.size = _size_of(terminal)
        self._begin()

    @property
    def size(self) -> Size:
        """What a drawing may fill now. One line stays free, so that what is above is seen."""
        columns, lines = _size_of(self.terminal)
        return Size(columns, lines - 1, self._console.options.ascii_only)

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines instead of those before. What is too much for the terminal is cut."""
        from rich.console import Group

        with self._lock:
            self._fit()
            self._lines = list(lines)
            for line in self._lines:
                line.no_wrap, line.overflow = True, "crop"
            self._live.update(Group(*self._lines), refresh=True)

    def say(self, line: str) -> None:
        """Print a line above what is drawn, or below it once it has ended."""
        from rich.text import Text

        with self._lock:
            if self.terminal.closed:
                print(line, file=sys.stderr)
                return
            self._console.print(Text.from_ansi(line), soft_wrap=True)

    def end(self) -> None:
        """Leave the last lines where they are, and go on below them."""
        with self._lock:
            self._live.stop()
            self.terminal.close()

    def _begin(self) -> None:
        from rich.live import Live

        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def _fit(self) -> None:
        """Follow the terminal's size. One that became narrower has wrapped what was drawn, which
        takes more lines now: they are erased, and drawing begins anew."""
        columns, lines = _size_of(self.terminal)
        narrower = columns < self._console.width
        self._console.size = (columns, lines)
        if narrower and any(line.cell_len > columns for line in self._lines):
            wrapped = sum(max(1, ceil(line.cell_len / columns)) for line in self._lines)
            self._live.stop()
            _erase(self._console, wrapped)
            self._begin()


@contextmanager
def screen(of_processes: bool = False) -> Iterator[Screen]:
    """A screen on standard error, which `can_draw`. Inside the block, what this process prints
    there goes by above the screen; with `of_processes`, so does what processes started meanwhile
    write there, and C libraries."""
    number = sys.stderr.fileno()
    terminal = os.fdopen(
        os.dup(number), "w", encoding=sys.stderr.encoding, errors="backslashreplace"
    )
    shown = Screen(terminal)
    try:
        with _piped(number, shown) if of_processes else _printed(shown):
            yield shown
    finally:
        shown.end()


class _Above:
    """A standard error whose lines go by above a screen."""

    def __init__(self, shown: Screen, before: TextIO) -> None:
        self.shown, self.before, self.begun = shown, before, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            self.shown.say(line)
        return len(text)

    def flush(self) -> None:
        """A line is shown once it is whole."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.before, name)


@contextmanager
def _printed(shown: Screen) -> Iterator[None]:
    before = sys.stderr
    above = _Above(shown, before)
    sys.stderr = above
    try:
        yield
    finally:
        sys.stderr = before
        if above.begun:
            shown.say(above.begun)


@contextmanager
def _piped(number: int, shown: Screen) -> Iterator[None]:
    """The descriptor `number` is a pipe inside the block, and a thread says what comes out."""
    resource_tracker.ensure_running()  # a process of multiprocessing's, which outlives the pipe
    before = os.dup(number)
    out, into = os.pipe()

    def relay() -> None:
        with os.fdopen(out, encoding="utf-8", errors="backslashreplace") as said:
            for line in said:
                shown.say(line.rstrip("\n"))

    thread = threading.Thread(target=relay, daemon=True)
    sys.stderr.flush()
    os.dup2(into, number)
    os.close(into)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, number)
        os.close(before)
        thread.join(timeout=2)  # a process that has not ended may hold the pipe


def _size_of(terminal: TextIO) -> tuple[int, int]:
    try:
        found = os.get_terminal_size(terminal.fileno())
    except OSError:  # the terminal is gone
        return USUAL
    return found.columns or USUAL[0], found.lines or USUAL[1]


def _erase(console: Console, lines: int) -> None:
    """Erase the lines above the cursor, and go to the first of them."""
    from rich.control import Control
    from rich.segment import ControlType

    up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
    console.control(Control(ControlType.CARRIAGE_RETURN, *up * lines))
