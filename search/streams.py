"""Standard output and error, wherever they lead."""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """Let both take any text, also where they are closed (`>&-`) or know only ASCII."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        getattr(sys, name).reconfigure(errors="backslashreplace")


def say(answer: str) -> None:
    """Print it, to whoever wants to hear all of it. Exits with 1 where it cannot be written."""
    try:
        print(answer, flush=True)
    except OSError as error:
        # at its end, Python would try once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` has read enough
            print(f"lmpareto: the answer cannot be written: {error.strerror}", file=sys.stderr)
            sys.exit(1)
