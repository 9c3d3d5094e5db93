"""A space for one dense model: its settings read for the sites and layers that the model has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lmcore.errors import UserError
from lmcore.model_settings import ModelSettings
from lmcore.recipe import LayerSettings, Recipe, resolve
from lmcore.settings import parse
from search.space.answerers import Suggested, Suggester
from search.space.corners import corners, smallest
from search.space.nodes import (
    LEFT_OUT,
    Answerer,
    Answers,
    Conditional,
    Mapped,
    Node,
    Parameter,
    Place,
    Shapes,
)
from search.space.reader import SHARED, Reader, Sizes, given

EACH = ("layer", "kind")  # what the settings of sites can be shared by: the parts of their names


class ModelSpace:
    """What a study samples of the dense model of the given name, one of `names`.

    `places` are where each parameter is asked for, by its name.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        dense: str,
        names: Collection[str],
        model: ModelSettings,
        words: int,
    ) -> None:
        self.dense, self.model, self.words = dense, model, words
        patterns = template.get("sites", {})
        reader = _reader(dense, names, model)
        self.layers = reader.read(template.get("layers", {}), "layers")
        self.sites = {
            site: _read_site(site, pattern, patterns[pattern], reader)
            for site in every_site(model, words)
            if (pattern := _pattern_of(patterns, site)) is not None
        }
        rest = {k: value for k, value in template.items() if k not in ("layers", "sites")}
        self.rest = Mapped({name: reader.read(value, name) for name, value in rest.items()})
        self.places: dict[str, list[Place]] = {}
        self.branches = []
        for place in self._walk():
            if isinstance(place.node, Parameter):
                self.places.setdefault(place.node.name, []).append(place)
            elif isinstance(place.node, Conditional):
                self.branches.append(place)

    def explore(self, elsewhere: Collection[str]) -> None:
        """Find the corners; parameters that are asked for with other dense models have the names
        `elsewhere`.

        Of each corner, `corners` has what was answered and the recipe; `asked` are all parameters
        that are. Some sites are `possible`; those that the model has in every corner `certain`.
        """
        self.corners = corners(self.run, self.places, self.branches, elsewhere)
        self.asked = {name for answers, _ in self.corners for name in answers.known}
        found = [set(answers.sites) for answers, _ in self.corners]
        self.possible_sites, self.certain_sites = set.union(*found), set.intersection(*found)

    def suggest(self, trial: Suggester) -> Recipe:
        """The resolved recipe that the trial's suggestions make."""
        return self.run(Suggested(trial))[1]

    def recall(self, recipe: Recipe) -> dict[str, Any] | None:
        """Parameter values with which the space comes nearest to a resolved recipe; None where it
        has not the kinds of settings that the recipe has."""
        plain, found = recipe.plain(), dict[str, Any]()
        nodes = [(node, plain["sites"].get(site)) for site, node in self.sites.items()]
        nodes += [(self.layers, plain.get("layers")), (self.rest, plain)]
        fits = [node.recall(value, found) for node, value in nodes if value is not None]
        return found if all(fits) else None

    def smallest(self, size: Callable[[Recipe], int]) -> tuple[Answers, Recipe]:
        """A corner that no single parameter's other end makes smaller by that measure."""
        return smallest(self.run, self.places, self.corners, size)

    def run(self, answerer: Answerer) -> tuple[Answers, Recipe]:
        """What a trial is asked for and answers, and the resolved recipe that this makes."""
        answers = Answers(answerer, self.places, self._sites)
        layers = self._layers(answers)
        sites = {
            site: value
            for site in answers.sites
            if site in self.sites and (value := self.sites[site].fill(answers)) is not LEFT_OUT
        }
        data = {"layers": layers, "sites": sites, **self.rest.fill(answers)}
        return answers, resolve(parse(Recipe, data, "space"), self.model, self.words)

    def _layers(self, answers: Answers) -> Any:
        layers = answers.settle("layers", lambda: self.layers.fill(answers))
        return {} if layers is LEFT_OUT else layers

    def _sites(self, answers: Answers) -> Shapes:
        """The sites that the model has after the layers."""
        layers = parse(LayerSettings, self._layers(answers), "space.layers")
        return layers.canonical(self.model, self.words).site_shapes(self.model, self.words)

    def _walk(self) -> Iterator[Place]:
        nodes: list[tuple[Node, str | None]] = [(self.layers, None)]
        nodes += [(node, site) for site, node in self.sites.items()]
        for top, site in [*nodes, (self.rest, None)]:
            yield from (Place(node, conditions, site) for node, conditions in top.walk())


def every_site(model: ModelSettings, words: int) -> Shapes:
    """The model's sites, and those that layers can make."""
    widths = tuple(units + 1 for units in model.units)  # another, so that there is each site
    every = model.model_copy(update={"projection": widths, "embedding": widths[-1] + 1})
    return {**model.site_shapes(words), **every.site_shapes(words)}


def _reader(dense: str, names: Collection[str], model: ModelSettings) -> Reader:
    """Reads what stands beside the sites."""
    layers: tuple[Sizes, ...] = tuple({"units": _always(units)} for units in model.units)
    sizes: Sizes = {"embedding": _always(model.embedding)}
    if len(set(model.units)) == 1:
        sizes = {**sizes, **layers[0]}
    return Reader(sizes, dense, tuple(names), layers=layers)


def _always(size: int) -> Callable[[Answers], int]:
    return lambda answers: size


def _read_site(site: str, pattern: str, value: Mapping[str, Any], reader: Reader) -> Node:
    """The settings of a site that the pattern gives it."""
    value = given(value)
    name, each = str(value.get("tie", site)), value.get("foreach")
    if each is not None:
        if each not in EACH:
            raise UserError(
                f"space.sites.{pattern}.foreach: got {each!r}; it is one of {', '.join(EACH)}"
            )
        parts = site.split(".")  # CELL.LAYER.KIND, or a site that is no layer's
        group = parts[EACH.index(each) + 1] if len(parts) == 3 else site
        name = f"{value.get('tie', pattern)}.{group}"
    sizes: Sizes = {
        "rank": lambda answers: min(answers.sites[site]),
        "rows": lambda answers: answers.sites[site][0],
        "columns": lambda answers: answers.sites[site][1],
    }
    rest = {name: inner for name, inner in value.items() if name not in SHARED}
    return replace(reader, sizes=sizes, site=name, layers=()).read(rest, name)


def _pattern_of(patterns: Mapping[str, Any], site: str) -> str | None:
    """The site's part of the template, by the precedence of recipes."""
    if site in patterns:
        return site
    return next((pattern for pattern in patterns if fnmatchcase(site, pattern)), None)
