"""A terminal for tests: a pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

_PART = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|(.)", re.DOTALL)


class Seen:
    """The lines that a terminal of so many columns shows after some output, as a person sees them:
    those that went by and those that stand. It knows what rich writes, and wraps long lines."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows = columns, [""]
        self.row = self.column = 0
        self.hidden = False  # the cursor
        self.codes: set[str] = set()  # the letters of the codes that came

    def feed(self, text: str) -> Self:
        for code, letter, character in _PART.findall(text):
            if letter:
                self.codes.add(letter)
                self._obey(code, letter)
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self._down()
            elif character != "\x07":
                self._put(character)
        return self

    @property
    def lines(self) -> list[str]:
        return [row.rstrip() for row in self.rows]

    def _obey(self, code: str, letter: str) -> None:
        count = int(code) if code.isdigit() else 1
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "K":
            self.rows[self.row] = "" if code == "2" else self.rows[self.row][: self.column]
        elif letter in "hl" and code == "?25":
            self.hidden = letter == "l"
        else:
            assert letter == "m", f"{code}{letter} is no code that this terminal knows"

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self._down()
            self.column = 0
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
        self.column += 1


class Keyboard:
    """A command at a pseudo-terminal of a size, which leads its session as in a real one."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        cwd: Path,
        columns: int = 80,
        lines: int = 24,
        stdout: int | None = None,
    ) -> None:
        self.keys, terminal = pty.openpty()
        self.said = b""
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=terminal,
            stdout=terminal if stdout is None else stdout,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.keys)

    @property
    def text(self) -> str:
        return self.said.decode()

    def seen(self, columns: int = 80) -> list[str]:
        return Seen(columns).feed(self.text).lines

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.keys, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.keys, keys)

    def read(self, until: Callable[[str], bool], seconds: float = 300) -> None:
        """Read what the command writes until all of it so far is as wanted."""
        deadline = time.monotonic() + seconds
        while not until(self.text):
            assert time.monotonic() < deadline, self.text
            assert self._more(), self.text

    def end(self, seconds: float = 300) -> int:
        """The command's exit code, once it has ended and all that it wrote is read."""
        deadline = time.monotonic() + seconds
        while self._more():
            assert time.monotonic() < deadline, self.text
        return self.process.wait(timeout=seconds)

    def _more(self) -> bool:
        """Read what there is within a moment. Whether more may come."""
        if select.select([self.keys], [], [], 0.1)[0]:
            try:
                self.said += os.read(self.keys, 65536)
            except OSError:  # nobody has the terminal open any more
                return False
        return True
