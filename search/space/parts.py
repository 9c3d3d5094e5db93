"""The parts of a space: parameters that act on sites of their own, so that each can be measured
alone.

What a parameter acts on is found by changing it: those of a site belong together, and so do those
that a tie or a pattern binds to several sites. Parameters of the layers reshape the model for all
parts; what belongs to the training alone is no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lmcore.recipe import LayerSettings, Recipe, SiteSettings
from search.rules.sensitivity import BIASES, LAYERS
from search.space.answerers import Explored
from search.space.model_space import ModelSpace


@dataclass(frozen=True)
class Part:
    """Parameters by name, and the places that they act on: sites, `BIASES`, or `LAYERS`."""

    parameters: tuple[str, ...]
    places: tuple[str, ...]

    @property
    def name(self) -> str:
        """ "lstm.0.input, lstm.1.input"."""
        return ", ".join(self.places)


def parts_of(space: ModelSpace) -> list[Part]:
    """The parts of a space: what reshapes the layers first, where anything does.

    A parameter that alone binds together what would be several parts is in none of them.
    """
    known = {*_sites(space), BIASES}
    places = {
        name: frozenset({LAYERS} if LAYERS in touched else touched & known)
        for name, touched in _places(space).items()
    }
    found = [
        Part(tuple(names), tuple(sorted(frozenset().union(*(places[name] for name in names)))))
        for names in _groups({name: touched for name, touched in places.items() if touched})
    ]
    return sorted(found, key=lambda part: (LAYERS not in part.places, part.places))


def _groups(places: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Names that share places, directly or by others, without those that alone bind groups."""
    found = []
    for group in _joined(places):
        rest = [{n: places[n] for n in group if n != one} for one in _widest_first(group, places)]
        bound = next((others for others in rest if len(_joined(others)) > 1), None)
        found += _groups(bound) if bound else [group]
    return found


def _widest_first(group: list[str], places: Mapping[str, frozenset[str]]) -> list[str]:
    return sorted(group, key=lambda name: -len(places[name]))


def _joined(places: Mapping[str, frozenset[str]]) -> list[list[str]]:
    groups: list[list[str]] = []
    for name, touched in places.items():
        joined = [one for one in groups if any(places[other] & touched for other in one)]
        groups = [one for one in groups if one not in joined]
        groups.append([*(other for one in joined for other in one), name])
    order = list(places)
    return [sorted(group, key=order.index) for group in groups]


def settings_of(space: ModelSpace, part: Part, most: int) -> list[dict[str, Any]]:
    """Up to `most` settings of the part's parameters: all options of its choices in turn (more
    than `most`, where they are more), its ranges by a Halton sequence."""
    options = list(_options(space, part, {}))
    ranges = [name for name in part.parameters if not any(name in values for values in options)]
    rounds = -(-max(most, len(options)) // len(options))
    spread = _halton(len(ranges), rounds)
    found = []
    for number in range(max(most, len(options))):
        places = dict(zip(ranges, spread[number // len(options)], strict=True))
        asked = Explored(options[number % len(options)], places)
        space.run(asked)
        values = {name: asked.settled[name] for name in asked.settled if name in part.parameters}
        if values not in found:
            found.append(values)
    return found


def alone(space: ModelSpace, part: Part | None, values: Mapping[str, Any], base: Recipe) -> Recipe:
    """`base` with what the values make of the part; of nothing, what is the same in every recipe
    of the space and no part's."""
    _, asked = space.run(Explored(values))
    if part is None:
        taken = {site for part in parts_of(space) for site in part.places}
        places = {*_sites(space), BIASES} - taken
    else:
        places = set(part.places)
    sites = {site: _of(asked, site) if site in places else _of(base, site) for site in base.sites}
    layers = LayerSettings()
    if LAYERS in places:
        layers = asked.layers.model_copy(update={"units": None})
        sites = {site: base.sites.get(site, _plain(base)) for site in asked.sites}
    biases = asked.biases if BIASES in places else base.biases
    return Recipe(layers=layers, sites=sites, biases=biases)


def _of(recipe: Recipe, site: str) -> SiteSettings:
    return recipe.sites.get(site, _plain(recipe))


def _plain(recipe: Recipe) -> SiteSettings:
    return SiteSettings(bits=next(iter(recipe.sites.values())).bits)


def _sites(space: ModelSpace) -> list[str]:
    return list(space.model.site_shapes(space.words))


def _options(space: ModelSpace, part: Part, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that the part's choices can come to, together."""
    asked = Explored(values)
    space.run(asked)
    left = [name for name in asked.choices if name in part.parameters and name not in values]
    if not left:
        yield values
        return
    for option in asked.others[left[0]]:
        yield from _options(space, part, {**values, left[0]: option})


def _places(space: ModelSpace) -> dict[str, set[str]]:
    """Parameter -> the places of a recipe that change with it, of all that the space asks for."""
    found: dict[str, set[str]] = {}
    waiting: list[dict[str, Any]] = [{}]
    while waiting:
        values = waiting.pop(0)
        here = Explored(values)
        _, recipe = space.run(here)
        for name, others in here.others.items():
            known = name in found
            touched = found.setdefault(name, set())
            for value in others:
                changed = {**here.settled, name: value}
                if value != here.settled[name]:
                    touched |= _differing(recipe, space.run(Explored(changed))[1])
                    if not known:
                        waiting.append(changed)
    return found


def _differing(one: Recipe, other: Recipe) -> set[str]:
    changed = {site for site in {*one.sites, *other.sites} if _of(one, site) != _of(other, site)}
    changed |= {BIASES} if one.biases != other.biases else set()
    return changed | ({LAYERS} if one.layers != other.layers else set())


def _halton(dimensions: int, count: int) -> list[list[float]]:
    """The first points of the Halton sequence after the origin, each a number a dimension."""
    if not dimensions:
        return [[] for _ in range(count)]
    from scipy.stats import qmc  # takes a second to import

    sequence = qmc.Halton(dimensions, scramble=False)
    sequence.fast_forward(1)
    points: list[list[float]] = sequence.random(count).tolist()
    return points
