"""Measure each part of a space alone, without training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmcore import sites
from lmcore.bundle import Bundle, load
from lmcore.errors import UserError
from lmcore.progress import DivergedError
from lmcore.recipe import Recipe, resolve
from search.bench.dense import DENSE
from search.bench.workbench import Workbench
from search.config import StudyConfig
from search.measurement import Measurement
from search.rules.sensitivity import BIASES, Effects
from search.space.model_space import ModelSpace
from search.space.parts import Part, alone, parts_of, settings_of
from search.store.store import MeasuredPart, Store
from search.study.context import StudyContext, WorkContext
from search.terminal import progress


def measure_effects(context: WorkContext[StudyConfig], bench: Workbench, most: int) -> Effects:
    """Measure each part of the space at about `most` settings, and store the effects.

    `bench` is that of the study's own dense model. Recipes that were measured before are not
    measured again. Settings whose file has an infinite perplexity are left out.
    """
    study, store = context.name, context.store
    wanted = list(_wanted(context.space.own(), most))
    found = []
    with progress(f"parts of {study}", "settings") as bar:
        for number, (part, values, recipe) in enumerate(wanted):
            bar.to(number, len(wanted))
            try:
                measured, bundle = _measured(recipe, bench, store)
            except DivergedError:
                continue
            name = part.name if part else ""
            found.append(MeasuredPart(name, values, measured.key, _site_bytes(bundle)))
    store.keep_effects(study, found)
    effects = store.effects(study)
    assert effects, "the first of them is the dense model"
    return effects


def known_effects(
    context: StudyContext[StudyConfig], bench: Workbench, most: int
) -> Effects | None:
    """The effects that the study has stored, where all of them are of this space and this dense
    model; else None. They may be at more settings than `most`."""
    effects = context.store.effects(context.name)
    keys = context.store.effect_keys(context.name)
    if effects is None:
        return None
    most = max([most, *map(len, effects.parts.values())])
    wanted = {bench.key(recipe) for _, _, recipe in _wanted(context.space.own(), most)}
    return effects if keys <= wanted else None


def _wanted(space: ModelSpace, most: int) -> Iterator[tuple[Part | None, dict[str, Any], Recipe]]:
    """The recipes to measure, each with its part and the part's values. The first, of no part, is
    what all recipes of the space share."""
    model, words = space.model, space.words
    base = resolve(alone(space, None, {}, resolve(DENSE, model, words)), model, words)
    yield None, {}, base
    for part in parts_of(space):
        for values in settings_of(space, part, most):
            yield part, values, resolve(alone(space, part, values, base), model, words)


def _measured(recipe: Recipe, bench: Workbench, store: Store) -> tuple[Measurement, Bundle]:
    """The recipe's measurement and its file, from the cache or made now."""
    known = store.measurement(bench.key(recipe))
    if known:
        try:
            return known, load(bench.path(known.key))
        except UserError:
            pass  # its file is not in the cache any more
    measured = bench.measure(recipe)
    store.keep(measured)
    return measured, load(bench.path(measured.key))


def _site_bytes(bundle: Bundle) -> dict[str, int]:
    """Site, or `BIASES` -> its bytes in the file."""
    found: dict[str, int] = {}
    for name, sizes in bundle.parts.leaves.items():
        site = sites.site_of(name) or BIASES
        found[site] = found.get(site, 0) + sum(sizes)
    return found
