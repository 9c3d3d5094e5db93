"""Measure each part of a space alone, without training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

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
from search.study.context import StudyContext


def measure_effects(context: StudyContext[StudyConfig], bench: Workbench, most: int) -> Effects:
    """What each part of the space does at about `most` settings; what was measured before is not
    measured again.

    `bench` is that of the study's own dense model. Settings whose file has an infinite perplexity
    are left out.
    """
    study, store = context.name, context.store
    asked = list(_asked(context.space.own(), most))
    found = []
    with tqdm(asked, desc=f"parts of {study}", mininterval=1) as bar:
        for part, values, recipe in bar:
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
    """What was measured before for the study, at `most` settings or others, where it is all of
    this space and this dense model; else None."""
    effects = context.store.effects(context.name)
    keys = context.store.effect_keys(context.name)
    if effects is None:
        return None
    most = max([most, *map(len, effects.parts.values())])
    asked = {bench.key(recipe) for _, _, recipe in _asked(context.space.own(), most)}
    return effects if keys <= asked else None


def _asked(space: ModelSpace, most: int) -> Iterator[tuple[Part | None, dict[str, Any], Recipe]]:
    """What all recipes of the space share, then each part's settings on that."""
    model, words = space.model, space.words
    base = resolve(alone(space, None, {}, resolve(DENSE, model, words)), model, words)
    yield None, {}, base
    for part in parts_of(space):
        for values in settings_of(space, part, most):
            yield part, values, resolve(alone(space, part, values, base), model, words)


def _measured(recipe: Recipe, bench: Workbench, store: Store) -> tuple[Measurement, Bundle]:
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
    found: dict[str, int] = {}
    for name, sizes in bundle.parts.leaves.items():
        site = name.rpartition("/")[0] or BIASES
        found[site] = found.get(site, 0) + sum(sizes)
    return found
