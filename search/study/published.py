"""What the folder of a published study says of the study itself: what it was begun with.

Its files are read in `results` and `history`. Studies that earlier versions published lack it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from lmcore.errors import UserError
from lmcore.files import write_json
from lmcore.methods import sentences
from lmcore.recipe import Recipe
from lmcore.settings import explain, parse
from lmcore.task import measured_in
from search.config import PUBLISHED
from search.measurement import Measurement
from search.names import check_bundle_name, check_name
from search.study.begun import BEGUN, BOX, CORPUS, LIMITS, SETTINGS, check_kept

RECORDS = "trials.jsonl"  # every measured file
STUDY = "study.json"
T = TypeVar("T")

# what reading a damaged record raises
WRONG = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
LARGEST = 2**53  # up to which a page and a float have every whole number
PLACED = ("corpus", "training")  # the settings that have paths
_MEASUREMENT = TypeAdapter(Measurement)
_BUNDLES = TypeAdapter(
    dict[Annotated[str, AfterValidator(check_bundle_name)], Annotated[int, Field(gt=0, lt=LARGEST)]]
)
_SPENT = TypeAdapter(dict[str, Annotated[float, Field(ge=0, lt=LARGEST)]])


def folder_of(study: str) -> Path | None:
    """The folder of the published study of that name, None where there is none."""
    try:
        folder = PUBLISHED / check_name(study)
    except ValueError:  # made by another program: its name is no folder's
        return None
    return folder if (folder / RECORDS).is_file() else None


def attributes_in(folder: Path) -> dict[str, Any]:
    """The attributes that the study had in its database, as far as lmpareto keeps them; empty where
    an earlier version published it. Raises UserError where they are damaged."""
    found = _document(folder).get("attributes", {})
    if not isinstance(found, dict):
        raise UserError(_damaged(folder / STUDY))
    check_kept(folder.name, found)
    return found


def trials_in(folder: Path) -> int | None:
    """How many trials the study was to have, None where that is not known."""
    found = _document(folder).get("trials")
    if found is None or type(found) is int:
        return found
    raise UserError(_damaged(folder / STUDY))


def bundles_in(folder: Path) -> dict[str, int]:
    """The names for limits that the study was published with: name -> bytes."""
    found = _document(folder).get("bundles", {})
    try:
        return _BUNDLES.validate_python(found)
    except ValidationError:
        raise UserError(_damaged(folder / STUDY)) from None


def write_study(
    attributes: Mapping[str, Any], trials: int | None, bundles: Mapping[str, int], folder: Path
) -> None:
    """Write what the study was begun with. Its files are written by their names alone: where they
    lie on this machine is nobody's business, and whoever goes on with the study has them
    elsewhere."""
    kept = {
        name: attributes[name]
        for name in (BEGUN, CORPUS, LIMITS, BOX, SETTINGS)
        if name in attributes
    }
    if SETTINGS in kept:
        kept[SETTINGS] = shareable(kept[SETTINGS])
    named = {"bundles": dict(bundles)} if bundles else {}
    write_json(folder / STUDY, {"trials": trials, **named, "attributes": kept})


def lines_in(path: Path, read: Callable[[Any], T]) -> Iterator[T]:
    """What the lines of a published file say; nothing where there is no such file. Raises UserError
    for a damaged line, and where the file cannot be read."""
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            yield read(json.loads(line))
        except (*WRONG, UserError) as error:
            raise UserError(
                f"{path}, line {number} is no record of a study: {said(error)}"
            ) from None


def said(error: Exception) -> str:
    """What is wrong with a record, for people."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return explain(error, "")[0] if isinstance(error, ValidationError) else str(error)


def measurement_in(row: Mapping[str, Any]) -> Measurement:
    """The measurement of a published line. Whoever shows it relies on what is checked here. Raises
    UserError, or one of `WRONG`."""
    measured = _MEASUREMENT.validate_python({**row, "valid_measure": measured_in(row, "valid")})
    for name in ("size_bytes", "updates", "seconds"):
        value = getattr(measured, name)
        if not (name == "size_bytes") <= value < LARGEST:
            raise ValueError(f"{name}: got {str(value)[:30]}, which it cannot be")
    _SPENT.validate_python(measured.provenance.get("seconds", {}))
    parse(Recipe, measured.recipe, "recipe")
    sentences(measured.recipe)  # it is written out in full, so that it can be said without parsing
    return measured


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A study's settings as others read them: each absolute path without its folders."""
    placed = {name: _without_folders(settings[name]) for name in PLACED if name in settings}
    return {**settings, **placed}


def _without_folders(group: Any) -> Any:
    if not isinstance(group, Mapping):
        return group
    return {
        name: Path(one).name if isinstance(one, str) and Path(one).is_absolute() else one
        for name, one in group.items()
    }


def _document(folder: Path) -> dict[str, Any]:
    path = folder / STUDY
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise UserError(_damaged(path)) from None
    if not isinstance(found, dict):
        raise UserError(_damaged(path))
    return found


def _damaged(path: Path) -> str:
    return f"{path} is damaged: it is no description of a study; lmpareto publish writes it again"
