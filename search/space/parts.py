"""The parts of a space. A part is a set of parameters that act on the same sites and on no others,
so that each part can be measured alone.

What a parameter acts on is found by changing its value and comparing the recipes. Parameters that
share a site belong to the same part: the rank and the bits of one matrix, or those that a tie gives
to several matrices. Parameters of the layers reshape all sites, so they form one part of their own,
which acts on `LAYERS`. Parameters of the training act on no site and are in no part; so do those of
a codec that act in training alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lmcore.recipe import LayerSettings, Recipe, SiteSettings
from search.rules.sensitivity import BIASES, LAYERS
from search.space.answerers import Explored
from search.space.model_space import ModelSpace


@dataclass(frozen=True)
class Part:
    """The names of parameters, and what they act on: sites, `BIASES`, or `LAYERS`."""

    parameters: tuple[str, ...]
    acts_on: tuple[str, ...]

    @property
    def name(self) -> str:
        """ "lstm.0.input, lstm.1.input"."""
        return ", ".join(self.acts_on)


def parts_of(space: ModelSpace) -> list[Part]:
    """The parts of a space, sorted by what they act on; the part of the layers comes first.

    A parameter that binds several parts together is in no part. For example, two sites that have
    a step each and share one tied `rounding` are two parts, of one step each. While the parts are
    measured, such a parameter has its first option or its low end: see `bindings_of`.
    """
    acts_on = {name: of for name, (of, _) in _known_acts(space).items()}
    found = [
        Part(tuple(names), tuple(sorted(frozenset().union(*(acts_on[name] for name in names)))))
        for names in _groups({name: sites for name, sites in acts_on.items() if sites})
    ]
    return sorted(found, key=lambda part: (LAYERS not in part.acts_on, part.acts_on))


def bindings_of(space: ModelSpace) -> dict[str, Any]:
    """The parameters that bind parts together, each with its value while the parts are measured,
    as Optuna stores it. What is predicted of the parts together holds for these values."""
    in_parts = {name for part in parts_of(space) for name in part.parameters}
    return {
        name: value
        for name, (acts_on, value) in _known_acts(space).items()
        if acts_on and name not in in_parts
    }


def _known_acts(space: ModelSpace) -> dict[str, tuple[frozenset[str], Any]]:
    """Parameter -> what it acts on in the dense model, and its first value."""
    known = {*_sites(space), BIASES}
    return {
        name: (frozenset({LAYERS} if LAYERS in touched else touched & known), value)
        for name, (touched, value) in _acted_on(space).items()
    }


def _groups(acts_on: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Groups of parameters that share sites. A group that falls apart without one of its
    parameters is split, and that parameter is left out."""
    found = []
    for group in _joined(acts_on):
        rest = [{n: acts_on[n] for n in group if n != one} for one in _widest_first(group, acts_on)]
        split = next((others for others in rest if len(_joined(others)) > 1), None)
        found += _groups(split) if split else [group]
    return found


def _widest_first(group: list[str], acts_on: Mapping[str, frozenset[str]]) -> list[str]:
    return sorted(group, key=lambda name: -len(acts_on[name]))


def _joined(acts_on: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Parameters in groups: two that share a site, directly or by way of others, are together."""
    groups: list[list[str]] = []
    for name, sites in acts_on.items():
        joined = [one for one in groups if any(acts_on[other] & sites for other in one)]
        groups = [one for one in groups if one not in joined]
        groups.append([*(other for one in joined for other in one), name])
    order = list(acts_on)
    return [sorted(group, key=order.index) for group in groups]


def settings_of(space: ModelSpace, part: Part, most: int) -> list[dict[str, Any]]:
    """About `most` settings of the part's parameters, as parameter -> value.

    Every combination of the options of its choices is among the settings, so there are more than
    `most` where there are more combinations. Values of ranges follow a Halton sequence. Equal
    settings appear once, so there may be fewer.
    """
    options = list(_options(space, part, {}))
    ranges = [name for name in part.parameters if not any(name in values for values in options)]
    rounds = -(-max(most, len(options)) // len(options))
    spread = _halton(len(ranges), rounds)
    found = []
    for number in range(max(most, len(options))):
        fractions = dict(zip(ranges, spread[number // len(options)], strict=True))
        explored = Explored(options[number % len(options)], fractions)
        space.run(explored)
        values = {name: v for name, v in explored.settled.items() if name in part.parameters}
        if values not in found:
            found.append(values)
    return found


def alone(space: ModelSpace, part: Part | None, values: Mapping[str, Any], base: Recipe) -> Recipe:
    """The recipe `base`, changed only where the part acts, to what the values make there.

    Without a part, the recipe is changed where no part acts: to what all recipes of the space have
    in common.
    """
    _, wanted = space.run(Explored(values))
    if part is None:
        taken = {site for part in parts_of(space) for site in part.acts_on}
        changed = {*_sites(space), BIASES} - taken
    else:
        changed = set(part.acts_on)
    sites = {site: _of(wanted if site in changed else base, site) for site in base.sites}
    layers = LayerSettings()
    if LAYERS in changed:
        layers = wanted.layers.model_copy(update={"units": None})  # those would have to be trained
        sites = {site: base.sites.get(site, _plain(base)) for site in wanted.sites}
    biases = wanted.biases if BIASES in changed else base.biases
    return Recipe(layers=layers, sites=sites, biases=biases)


def _of(recipe: Recipe, site: str) -> SiteSettings:
    return recipe.sites.get(site, _plain(recipe))


def _plain(recipe: Recipe) -> SiteSettings:
    return SiteSettings(bits=next(iter(recipe.sites.values())).bits)


def _sites(space: ModelSpace) -> list[str]:
    return list(space.model.site_shapes(space.words))


def _options(space: ModelSpace, part: Part, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the options of the part's choices, as choice -> option."""
    explored = Explored(values)
    space.run(explored)
    left = [name for name in explored.choices if name in part.parameters and name not in values]
    if not left:
        yield values
        return
    for option in explored.others[left[0]]:
        yield from _options(space, part, {**values, left[0]: option})


@lru_cache(maxsize=8)  # of a space of many choices, it takes seconds
def _acted_on(space: ModelSpace) -> dict[str, tuple[set[str], Any]]:
    """Parameter -> what of an untrained recipe changes with it (sites, `BIASES`, `LAYERS`), and the
    value that it has where no other is given."""
    found: dict[str, tuple[set[str], Any]] = {}
    waiting: list[dict[str, Any]] = [{}]
    while waiting:
        values = waiting.pop(0)
        here = Explored(values)
        _, recipe = space.run(here)
        for name, others in here.others.items():
            known = name in found
            touched, _ = found.setdefault(name, (set(), here.settled[name]))
            for value in others:
                changed = {**here.settled, name: value}
                if value != here.settled[name]:
                    touched |= _differing(recipe, space.run(Explored(changed))[1])
                    if not known:
                        waiting.append(changed)
    return found


def _differing(one: Recipe, other: Recipe) -> set[str]:
    """In what two recipes differ before training: sites, `BIASES`, `LAYERS`."""
    sites = {*one.sites, *other.sites}
    changed = {name for name in sites if _untrained(one, name) != _untrained(other, name)}
    changed |= {BIASES} if one.biases.untrained() != other.biases.untrained() else set()
    return changed | ({LAYERS} if one.layers != other.layers else set())


def _untrained(recipe: Recipe, site: str) -> SiteSettings:
    settings = _of(recipe, site)
    return settings.model_copy(update={"bits": settings.bits.untrained()})


def _halton(dimensions: int, count: int) -> list[list[float]]:
    """The first `count` points of the Halton sequence after the origin, each `dimensions` numbers
    from 0 to 1."""
    if not dimensions:
        return [[] for _ in range(count)]
    from scipy.stats import qmc  # takes a second to import

    sequence = qmc.Halton(dimensions, scramble=False)
    sequence.fast_forward(1)
    points: list[list[float]] = sequence.random(count).tolist()
    return points
