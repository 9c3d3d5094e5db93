"""A space for one dense model: its settings read for the sites and layers that the model has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lmcore import sites
from lmcore.errors import UserError
from lmcore.network_settings import NetworkSettings
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
    Occurrence,
    Parameter,
    Shapes,
)
from search.space.reader import SHARED, Reader, Sizes, given

EACH = ("layer", "kind")  # what sites can share settings by: words of their names


class ModelSpace:
    """What a study samples for one of its dense models.

    `dense` is that model's name among `names`, `words` the size of the vocabulary. `occurrences`
    maps each parameter's name to where it acts; `branches` are the occurrences of conditions. A
    matrix is dense where it is too small for the structure of a pattern. `named` are the sites that
    have settings of their own.
    Raises UserError for a template that cannot be read.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        dense: str,
        names: Collection[str],
        model: NetworkSettings,
        words: int,
    ) -> None:
        self.dense, self.model, self.words = dense, model, words
        patterns = template.get("sites", {})
        reader = _reader(dense, names, model)
        self.layers = reader.read(template.get("layers", {}), "layers")
        self.named = {site for site in patterns if site in model.every_site(words)}
        self.sites = {
            site: _read_site(site, pattern, patterns[pattern], reader)
            for site in model.every_site(words)
            if (pattern := _pattern_of(patterns, site)) is not None
        }
        rest = {k: value for k, value in template.items() if k not in ("layers", "sites")}
        self.rest = Mapped({name: reader.read(value, name) for name, value in rest.items()})
        self.occurrences: dict[str, list[Occurrence]] = {}
        self.branches = []
        for occurrence in self._walk():
            if isinstance(occurrence.node, Parameter):
                self.occurrences.setdefault(occurrence.node.name, []).append(occurrence)
            elif isinstance(occurrence.node, Conditional):
                self.branches.append(occurrence)

    def explore(self, elsewhere: Collection[str]) -> None:
        """Find the corners. `elsewhere` names the parameters of all dense models of the study.

        Sets `corners` (the answers and the recipe of each), `reached` (the parameters that some
        corner asks for), `possible_sites` (those that the model has in some corner) and
        `certain_sites` (those that it has in every corner). Raises UserError where a corner makes
        no recipe, and where a condition can never hold.
        """
        self.corners = corners(self.run, self.occurrences, self.branches, elsewhere)
        self.reached = {name for answers, _ in self.corners for name in answers.known}
        found = [set(answers.sites) for answers, _ in self.corners]
        self.possible_sites, self.certain_sites = set.union(*found), set.intersection(*found)

    def suggest(self, trial: Suggester) -> Recipe:
        """The resolved recipe that the trial's suggestions make."""
        return self.run(Suggested(trial))[1]

    def recall(self, recipe: Recipe) -> dict[str, Any] | None:
        """The parameter values whose recipe is nearest to a resolved recipe. None where the space
        lacks a kind of setting that the recipe has."""
        plain, found = recipe.plain(), dict[str, Any]()
        nodes = [(node, plain["sites"].get(site)) for site, node in self.sites.items()]
        nodes += [(self.layers, plain.get("layers")), (self.rest, plain)]
        fits = [node.recall(value, found) for node, value in nodes if value is not None]
        return found if all(fits) else None

    def smallest(self, size: Callable[[Recipe], int]) -> tuple[Answers, Recipe]:
        """A corner with a small `size`: another end of any one parameter makes it no smaller."""
        return smallest(self.run, self.occurrences, self.corners, size)

    def run(self, answerer: Answerer) -> tuple[Answers, Recipe]:
        """What the answerer was asked for and answered, and the resolved recipe of its answers."""
        answers = Answers(answerer, self.occurrences, self._sites)
        layers = self._layers(answers)
        sites = {
            site: value
            for site in answers.sites
            if site in self.sites and (value := self.sites[site].fill(answers)) is not LEFT_OUT
        }
        data = {"layers": layers, "sites": sites, **self.rest.fill(answers)}
        recipe = parse(Recipe, data, "space")
        fitting = {
            site: settings if site in self.named else settings.fitted(answers.sites[site])
            for site, settings in recipe.sites.items()
        }
        recipe = recipe.model_copy(update={"sites": fitting})
        return answers, resolve(recipe, self.model, self.words)

    def _layers(self, answers: Answers) -> Any:
        layers = answers.settle("layers", lambda: self.layers.fill(answers))
        return {} if layers is LEFT_OUT else layers

    def _sites(self, answers: Answers) -> Shapes:
        """The sites of the model once its layers are reshaped as answered."""
        layers = parse(LayerSettings, self._layers(answers), "space.layers")
        return layers.canonical(self.model, self.words).site_shapes(self.model, self.words)

    def _walk(self) -> Iterator[Occurrence]:
        nodes: list[tuple[Node, str | None]] = [(self.layers, None)]
        nodes += [(node, site) for site, node in self.sites.items()]
        for top, site in [*nodes, (self.rest, None)]:
            yield from (Occurrence(node, conditions, site) for node, conditions in top.walk())


def _reader(dense: str, names: Collection[str], model: NetworkSettings) -> Reader:
    """The reader of the layers and of what is global."""
    layers: tuple[Sizes, ...] = tuple({"units": _always(units)} for units in model.units)
    sizes: Sizes = {name: _always(size) for name, size in model.sizes.items()}
    if len(set(model.units)) == 1:
        sizes = {**sizes, **layers[0]}
    return Reader(sizes, dense, tuple(names), layers=layers)


def _always(size: int) -> Callable[[Answers], int]:
    return lambda answers: size


def _read_site(site: str, pattern: str, value: Mapping[str, Any], reader: Reader) -> Node:
    """The node of the settings that a pattern gives to a site."""
    value = given(value)
    name, each = str(value.get("tie", site)), value.get("foreach")
    if each is not None:
        if each not in EACH:
            raise UserError(
                f"space.sites.{pattern}.foreach: got {each!r}; it is one of {', '.join(EACH)}"
            )
        inside = sites.layer_and_matrix(site)
        group = inside[EACH.index(each)] if inside else site
        name = f"{value.get('tie', pattern)}.{group}"
    sizes: Sizes = {
        "rank": lambda answers: min(answers.sites[site]),
        "rows": lambda answers: answers.sites[site][0],
        "columns": lambda answers: answers.sites[site][1],
    }
    rest = {name: inner for name, inner in value.items() if name not in SHARED}
    return replace(reader, sizes=sizes, site=name, layers=()).read(rest, name)


def _pattern_of(patterns: Mapping[str, Any], site: str) -> str | None:
    """The pattern whose settings the site takes, by the precedence of recipes: its exact name, else
    the first pattern that matches it."""
    if site in patterns:
        return site
    return next((pattern for pattern in patterns if fnmatchcase(site, pattern)), None)
