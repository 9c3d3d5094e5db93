"""Seeds: recipes that a search tries first, a person's own or the fronts of other studies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from lmcore.errors import UserError
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.config import StudyConfig
from search.front import Front
from search.space.space import OWN
from search.study.context import StudyContext
from search.study.results import results_of


def seeds_of(context: StudyContext[StudyConfig]) -> Iterator[dict[str, Any]]:
    """The parameter values nearest to each of the study's seeds, for its own dense model.

    A seed that the space has no settings for is left out, and standard error says so. Raises
    UserError for an unknown study, and for a recipe of `seeds.recipes` that the model cannot have.
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
    """The seeds with their names, resolved. A recipe of another study that the model cannot have is
    left out, and standard error says so."""

    def resolved(name: str, data: dict[str, Any]) -> Recipe:
        try:
            return resolve(parse(Recipe, data, "recipe"), context.model, context.words)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    for number, data in enumerate(context.config.seeds.recipes):
        yield f"seeds.recipes.{number}", resolved(f"seeds.recipes.{number}", data)
    for study in context.config.seeds.studies:
        for point in _front_of(context, study).points:
            name = f"{point.label} of {study}"
            try:
                yield name, resolved(name, point.recipe or {})
            except UserError as error:
                print(error, file=sys.stderr)


def _front_of(context: StudyContext[StudyConfig], study: str) -> Front:
    try:
        return results_of(context.but(name=study)).front
    except UserError as error:
        raise UserError(f"seeds.studies: {error}") from None
