"""What a study was begun with: its settings, kept with it as attributes of Optuna's study.

So a study is known by its name alone. What a study may not change is `identity` in `beginning`;
what is kept here is all that its next command composes with, the places of its text included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.training_settings import DenseTrainingSettings
from search.config import OBJECTIVES, PLANE, Objective, StudyConfig, StudySettings
from search.rules.limits import Box, Limits

# names of attributes of Optuna's study
BEGUN = "lmpareto"  # the settings that the study may not change
CORPUS = "lmpareto_corpus"  # the kind of its corpus
LIMITS = "lmpareto_limits"  # the limits of its last sweep
BOX = "lmpareto_box"  # the box of its last sweep, in bytes and perplexity; empty for none
SETTINGS = "lmpareto_settings"  # the settings of its last sweep


def check_kept(study: str, attributes: Mapping[str, Any]) -> None:
    """Raises UserError where an attribute of the study is not as lmpareto keeps it."""
    kinds = {BEGUN: dict, CORPUS: str, LIMITS: dict, BOX: dict, SETTINGS: dict}
    wrong = [
        name for name, kind in kinds.items() if not isinstance(attributes.get(name, kind()), kind)
    ]
    if not wrong and not _are_limits(attributes.get(LIMITS, {})):
        wrong = [LIMITS]
    if not wrong and not _is_box(attributes.get(BOX, {})):
        wrong = [BOX]
    if not wrong and objectives_in(attributes) not in OBJECTIVES:
        wrong = [BEGUN]
    if wrong:
        raise UserError(damaged(study, wrong[0]))


def damaged(study: str, attribute: str) -> str:
    """What is said of an attribute that is not as lmpareto keeps it."""
    return (
        f"study {study}: its attribute {attribute} is damaged, so what it was begun with is not "
        f"known; restore the database, or begin another study: name={study}_2"
    )


def _are_limits(kept: Mapping[str, Any]) -> bool:
    names = {one.name for one in fields(Limits)}
    numbers = (one for one in kept.values() if one is not None)
    return kept.keys() <= names and all(type(one) in (int, float) and one > 0 for one in numbers)


def _is_box(kept: Mapping[str, Any]) -> bool:
    names = {one.name for one in fields(Box)}
    numbers = kept.values()
    known = not kept or kept.keys() == names
    return known and all(type(one) in (int, float) and 0 < one < math.inf for one in numbers)


def kept(config: StudyConfig) -> dict[str, Any]:
    """The study's settings as plain data, its files by absolute paths."""
    placed: dict[str, Any] = {"corpus": config.corpus.absolute()}
    if isinstance(config.training, DenseTrainingSettings):
        placed["training"] = config.training.absolute()
    here = config.model_copy(update=placed)
    return here.model_dump(mode="json", include=set(StudySettings.model_fields))


def kept_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a study's attributes; none where another of Optuna's tools made it. Whatever
    else the database has, such as another cache folder, is not taken from there.

    A study of an earlier version kept what it may not change, and the kind of its corpus without
    the files: its `corpus` is then that kind alone.
    """
    if SETTINGS in attributes:
        own = StudySettings.model_fields
        return {name: one for name, one in attributes[SETTINGS].items() if name in own}
    begun = {name: one for name, one in attributes.get(BEGUN, {}).items() if name != "corpus"}
    return {**begun, "corpus": attributes[CORPUS]} if CORPUS in attributes else begun


def objectives_in(attributes: Mapping[str, Any]) -> tuple[Objective, ...]:
    """The objectives of a study of these attributes; none where they are damaged."""
    kept = attributes.get(BEGUN, {}).get("objectives", PLANE)
    return tuple(kept) if isinstance(kept, list | tuple) else ()


def box_in(attributes: Mapping[str, Any]) -> Box | None:
    """The box of the last sweep of a study of these attributes; None where it had none."""
    return Box.of(attributes.get(BOX, {}))


def limits_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The limits in a study's attributes, as settings of a sweep or a worker."""
    limits = attributes.get(LIMITS, {})
    return {
        "max_size": limits.get("max_size_bytes"),
        "max_perplexity": limits.get("max_perplexity"),
    }


def text_of(config: StudyConfig, attributes: Mapping[str, Any]) -> Data:
    """The text of the settings. Raises UserError where it is not the one that the study of these
    attributes was begun with."""
    begun = attributes.get(BEGUN)
    places = config.corpus.places
    for setting, path in places.items() if begun else ():
        if not Path(path).exists():
            raise UserError(
                f"the text of study {config.study} is not at {path}; "
                f"give its new place: corpus.{setting}=..."
            )
    corpus = config.corpus.load(config.folder)
    if begun and corpus.key != begun["corpus"]:
        shown = " ".join(f"corpus.{name}={path}" for name, path in places.items())
        raise UserError(
            f"study {config.study} was begun with another text or vocabulary than "
            f"{shown or f'corpus={config.corpus.kind}'} has now; give that text again, "
            f"or begin another study with this one: name={config.study}_2"
        )
    return corpus
