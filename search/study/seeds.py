"""Recipes that a search tries first: a person's own, or the fronts of other studies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from lmcore.errors import UserError
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.config import StudyConfig
from search.space.space import OWN
from search.study.context import StudyContext
from search.study.results import results_of


def seeds_of(context: StudyContext[StudyConfig]) -> Iterator[dict[str, Any]]:
    """The parameter values that come nearest to the study's seeds, on its own dense model; those
    that its space has no settings for are left out, with a word.

    Raises UserError for a study that is not known and for a recipe that the model cannot have.
    """
    space = context.space
    own = {"dense": OWN} if space.dense else {}
    for name, recipe in _recipes(context):
        values = space.own().recall(recipe)
        if values is None:
            print(f"{name}: the space has no such settings", file=sys.stderr)
        else:
            yield space.start({**own, **values})


def _recipes(context: StudyContext[StudyConfig]) -> Iterator[tuple[str, Recipe]]:
    """The seeds by name, resolved; without those of other studies that the model cannot have."""

    def resolved(name: str, data: dict[str, Any]) -> Recipe:
        try:
            return resolve(parse(Recipe, data, "recipe"), context.config.model, context.words)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    for number, data in enumerate(context.config.seeds.recipes):
        yield f"seeds.recipes.{number}", resolved(f"seeds.recipes.{number}", data)
    for study in context.config.seeds.studies:
        for point in results_of(context.but(name=study)).front.points:
            name = f"{point.label} of {study}"
            try:
                yield name, resolved(name, point.recipe or {})
            except UserError as error:
                print(error, file=sys.stderr)
