"""Standard output and error, wherever they lead."""

from __future__ import annotations

import os
import re
import sys

# control characters, and those that turn the direction of the text around them
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def open_streams() -> None:
    """Let both take any text, also where they are closed (`>&-`) or know only ASCII."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        getattr(sys, name).reconfigure(errors="backslashreplace")


def harmless(text: str) -> str:
    """The text with whatever would make a terminal do something as an escape. Names of studies,
    reasons of failures and published files are other people's. Line feeds and tabs stay."""
    return ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(answer: str) -> None:
    """Print it, to whoever wants to hear all of it. Exits with 1 where it cannot be written."""
    try:
        print(harmless(answer), flush=True)
    except OSError as error:
        # at its end, Python would try once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` has read enough
            print(f"lmpareto: the answer cannot be written: {error.strerror}", file=sys.stderr)
            sys.exit(1)
