"""Names that become folders and files: those of studies, of baselines and of bundles."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

RESERVED = '/\\:*?"<>|'  # by a file system somewhere
_TAKEN = re.compile(  # a file of a trial, and what Hydra reads as another value than a text
    r"\d+_rung_\d+|[\d_.]+e-?\d+|-?inf|nan|null|true|false", re.ASCII | re.IGNORECASE
)
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


def check_bundle_name(name: str) -> str:
    """The name of a limit. Raises ValueError unless it can be typed as that of a model, and is no
    name of a trial or its file."""
    if not re.fullmatch(r"[\w.-]*[A-Za-z_][\w.-]*", name, re.ASCII) or _TAKEN.fullmatch(name):
        raise ValueError(
            f"bundles.{name}: a name has letters, digits, dots, - and _, at least one letter, and "
            f"is not that of a trial or a number: 0.5MB, say"
        )
    try:
        return check_name(name)
    except ValueError as error:
        raise ValueError(f"bundles.{name}: {error}") from None


Name = Annotated[str, AfterValidator(check_name)]
AnyName = Annotated[str, Field(min_length=1)]  # of a study that Optuna's own tools made
