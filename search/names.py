"""Names that become folders and files: those of studies and of baselines."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

RESERVED = '/\\:*?"<>|'  # by a file system somewhere
LONGEST = 200  # bytes in UTF-8: file systems allow 255, which leaves room for what is added


def check_name(name: str) -> str:
    """The name. Raises ValueError unless every file system can have a folder of that name."""
    if not name.isprintable() or set(name) & set(RESERVED):
        raise ValueError(
            f"a name becomes a folder: it has printable characters, none of {' '.join(RESERVED)}"
        )
    if name != name.strip() or not name.strip("."):
        raise ValueError(
            "a name becomes a folder: it has no blanks at its ends, and more than dots"
        )
    if len(name.encode()) > LONGEST:
        raise ValueError(f"a name becomes a folder: it has at most {LONGEST} bytes")
    return name


Name = Annotated[str, AfterValidator(check_name)]
AnyName = Annotated[str, Field(min_length=1)]  # of a study that Optuna's own tools made
