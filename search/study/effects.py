"""Measure each part of a space alone, without training."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lmcore.bundle import leaf_bytes
from lmcore.network import Network
from lmcore.recipe import Recipe, resolve
from search.bench.dense import DENSE
from search.bench.workbench import Workbench
from search.config import StudyConfig
from search.rules.sensitivity import BIASES, LAYERS, Effects
from search.space.model_space import ModelSpace
from search.space.parts import Part, alone, parts_of, settings_of
from search.store.store import MeasuredPart
from search.study.context import StudyContext, WorkContext
from search.terminal import progress_bar

SHARE = 1 / 20  # of what a study spends at least, that its prior may cost
# Costs, in tokens that the model reads. All of them grow with the model's weights.
MAKING = 70_000  # to make and write a file (measured)
TRAINING = 3  # to train on a token: forward, and backward
LEAST = 16 * 256  # to read one window of the text

Wanted = tuple[Part, dict[str, Any], Recipe]


def measure_effects(
    context: WorkContext[StudyConfig], bench: Workbench, most: int, tokens: float = math.inf
) -> Effects:
    """Measure each part of the space at about `most` settings, and store the effects.

    `bench` is that of the study's own dense model. The work is to cost no more than reading
    `tokens` tokens: with less, there are fewer settings, but at least all options of choices, and
    less of the validation text is read, but at least a window. Settings of infinite perplexity are
    left out.
    """
    store, space = context.store, context.space.own()
    (_, _, recipe), *wanted = _within(space, most, tokens)
    measured = store.measurement(bench.key(recipe)) or bench.measure(recipe)
    store.keep(measured)
    base = bench.untrained(recipe)
    comparison, whole = bench.comparison(base), _site_bytes(base, base.sites.keys() | {BIASES})
    found = [MeasuredPart("", {}, measured.key, whole, 0.0)]
    left = tokens - _cost_of_making(space, wanted)
    what = f"{context.name}: each part of a recipe alone, to predict a front"
    with progress_bar(what, "settings") as bar:
        for number, (part, values, recipe) in enumerate(wanted):
            bar.to(number, len(wanted))
            model = bench.untrained(recipe).to(bench.device)
            nats, read = comparison(model, left / (len(wanted) - number))
            left -= read
            if math.isfinite(nats):
                site_bytes = whole | _site_bytes(model.cpu(), _changed(part, model))
                found.append(MeasuredPart(part.name, values, bench.key(recipe), site_bytes, nats))
    store.keep_effects(context.name, found)
    effects = store.effects(context.name)
    assert effects, "the first of them is the dense model"
    return effects


def affordable(context: StudyContext[StudyConfig]) -> float:
    """What the study's prior may cost, in tokens to read: a share of what the trials cost if each
    of them ends at its first rung with training."""
    config, corpus = context.config, context.corpus
    costs = []
    for corner in context.space.corners:
        ladder = config.fidelity.ladder(corner.recipe)[:2]
        epochs = ladder[-1].finetuning.epochs if ladder[-1].finetuning else 0.0
        trained = epochs * corpus.tokens("train")
        costs.append(len(ladder) * (MAKING + corpus.tokens("valid")) + TRAINING * trained)
    return SHARE * config.trials * min(costs)


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


def _within(space: ModelSpace, most: int, tokens: float) -> list[Wanted]:
    """The recipes to measure: at as many settings of each part as can be made and read for the cost
    of `tokens` tokens, but at no fewer than 2."""
    for settings in range(most, 2, -1):
        wanted = list(_wanted(space, settings))
        if _cost_of_making(space, wanted) + LEAST * len(wanted) <= tokens:
            return wanted
    return list(_wanted(space, 2))


def _wanted(space: ModelSpace, most: int) -> Iterator[Wanted]:
    """The recipes to measure, each with its part and the part's values. The first, of no part, is
    what all recipes of the space share."""
    model, words = space.model, space.words
    base = resolve(alone(space, None, {}, resolve(DENSE, model, words)), model, words)
    yield Part((), ()), {}, base
    for part in parts_of(space):
        for values in settings_of(space, part, most):
            yield part, values, resolve(alone(space, part, values, base), model, words)


def _cost_of_making(space: ModelSpace, wanted: Sequence[Wanted]) -> float:
    """What it costs to make the sites that the recipes change, in tokens to read."""
    shapes = space.model.site_shapes(space.words)
    weights = {site: rows * columns for site, (rows, columns) in shapes.items()}
    weights[LAYERS] = sum(weights.values())
    changed = sum(weights.get(name, 0) for part, _, _ in wanted for name in part.acts_on)
    return MAKING * changed / weights[LAYERS]


def _changed(part: Part, model: Network) -> Collection[str]:
    """What differs in a model from the base: sites and `BIASES`."""
    return model.sites.keys() | {BIASES} if LAYERS in part.acts_on else part.acts_on


def _site_bytes(model: Network, of: Collection[str]) -> dict[str, int]:
    """Site, or `BIASES` -> its bytes in a file of the model, for those in `of`."""
    leaves = {site: weight.leaves.values() for site, weight in model.sites.items()}
    every = {**leaves, BIASES: model.biases.values()}
    return {name: sum(map(leaf_bytes, every[name])) for name in every if name in of}
