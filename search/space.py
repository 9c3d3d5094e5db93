"""A space is a recipe with ranges in place of values.

    {low: 0.6, high: 4.0, log: true}        a number between; whole where both ends are whole
    {choice: [float16, {kind: uniform, step: {low: 1, high: 3}}]}    one of these
    {ordered: [0.25, 0.5, 1.0, 2.0]}        one of these, where neighbours are alike

An ordered list may grow at its end when the study has begun: the sampler sees the entry's place,
0 for the first. All else, `start` among it, names an option by its value, or its kind where it is
settings.

A range inside an option is asked for only when the option is chosen: a rank stands inside
`svd` and nowhere else. Under `sites`, a pattern gives each site that it matches values of
its own; `tie: NAME` in a site's settings or in a range shares one value under that name.

    {low: 0.1, high: 0.4, when: {finetuning.optimizer: sgd}}
    {low: 2, high: 6, when: {.structure: [svd, dense], biases: float16}, otherwise: 8}

What has a `when` is asked for where each of these parameters has the value, or one of the values;
elsewhere the setting is as `otherwise` says, which may be a range too, or left out. A parameter is
called as in Optuna: by the settings that lead to it, `sites` left out, or by its tie; one that
begins with a dot is of the same site. A parameter that is not asked for has no value. It does not
matter which stands first; `layers` cannot wait for sites, which follow from them.

    layers: {projection: {foreach: layer, low: 0.3, high: 1.0, of: units}}
    sites: {"*": {foreach: kind, structure: {kind: svd, rank: {low: 0.1, high: 0.5, of: rank}}}}

So a space fits any model. `foreach: layer` makes a list of one value a layer, each asked for under
the layer's number (`layers.projection.0`). In a site's settings it shares them among the sites of
a layer, `foreach: kind` among those of a kind (input, recurrent); the layer or the kind is added
to the pattern, or to the tie. `of` makes a range a share, and the setting a whole number from 1
on: of a site's `rank` (the largest that it can have), `rows` or `columns`, of a layer's `units`
or of the `embedding`'s width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from lmcore.errors import UserError
from lmcore.model import ModelSettings
from lmcore.recipe import LayerSettings, Recipe, resolve
from lmcore.settings import parse
from search.answers import Given, Suggested, Suggester
from search.corners import corners, smallest
from search.reader import Reader, Sizes
from search.template import (
    LEFT_OUT,
    Answerer,
    Answers,
    Conditional,
    Mapped,
    Node,
    Options,
    Parameter,
    Place,
    Shapes,
)

EACH = ("layer", "kind")  # what the settings of sites can be shared by: the parts of their names


class Space:
    """What a study samples from, for one model and vocabulary size.

    `parameters` are what trials are asked for, by name, `places` where; `corners` are recipes that
    together have both ends of every range, every option, and every condition held and not held.
    Some sites are `possible`, those that the model has whatever is sampled are `certain`. Raises
    UserError where a range is wrong or where a corner is no recipe.
    """

    def __init__(self, template: Mapping[str, Any], model: ModelSettings, words: int) -> None:
        self.model, self.words = model, words
        patterns = template.get("sites", {})
        widths = tuple(units + 1 for units in model.units)  # another, so that there is each site
        every = model.model_copy(update={"projection": widths, "embedding": widths[-1] + 1})
        sites = {**model.site_shapes(words), **every.site_shapes(words)}
        _check_patterns(patterns, sites)
        reader = _reader(model)
        self.layers = reader.read(template.get("layers", {}), "layers")
        self.sites = {
            site: _read_site(site, pattern, patterns[pattern])
            for site in sites
            if (pattern := _pattern_of(patterns, site)) is not None
        }
        rest = {k: value for k, value in template.items() if k not in ("layers", "sites")}
        self.rest = Mapped({name: reader.read(value, name) for name, value in rest.items()})
        self.places: dict[str, list[Place]] = {}
        branches = []
        for place in self._walk():
            if isinstance(place.node, Parameter):
                self.places.setdefault(place.node.name, []).append(place)
            elif isinstance(place.node, Conditional):
                branches.append(place)
        named = {name: _parameter(name, places) for name, places in self.places.items()}
        self._found = corners(self._run, self.places, branches)
        self.corners = [recipe for _, recipe in self._found]
        asked = {name for answers, _ in self._found for name in answers.known}
        self.parameters = {name: one for name, one in named.items() if name in asked}
        found = [set(answers.sites) for answers, _ in self._found]
        self.possible_sites, self.certain_sites = set.union(*found), set.intersection(*found)

    @property
    def ordered(self) -> dict[str, int]:
        """How many entries each ordered list has, by parameter."""
        return {
            name: len(asked.labels)
            for name, asked in self.parameters.items()
            if isinstance(asked, Options) and asked.ordered
        }

    def suggest(self, trial: Suggester) -> Recipe:
        """The resolved recipe that the trial's suggestions make."""
        return self._run(Suggested(trial))[1]

    def start(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter values to start from as Optuna takes them: of an ordered list the place.

        Raises UserError where they lie outside the space.
        """
        answers, _ = self._run(Given(start))
        if unknown := set(start) - set(answers.known):
            raise UserError(
                f"start: there is no parameter {', '.join(sorted(unknown))} where the others have "
                f"these values; there are {', '.join(sorted(answers.known))}"
            )
        lists = {name: self.parameters[name].ends for name in self.ordered if name in start}
        return {**start, **{name: labels.index(start[name]) for name, labels in lists.items()}}

    def smallest(self, size: Callable[[Recipe], int]) -> tuple[dict[str, Any], Recipe]:
        """The values and the recipe of a corner that no single parameter's other end makes smaller
        than it is by the given measure."""
        answers, recipe = smallest(self._run, self.places, self._found, size)
        return answers.known, recipe

    def _walk(self) -> Iterator[Place]:
        nodes: list[tuple[Node, str | None]] = [(self.layers, None)]
        nodes += [(node, site) for site, node in self.sites.items()]
        for top, site in [*nodes, (self.rest, None)]:
            yield from (Place(node, conditions, site) for node, conditions in top.walk())

    def _run(self, answerer: Answerer) -> tuple[Answers, Recipe]:
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


def _reader(model: ModelSettings) -> Reader:
    """Reads what stands beside the sites."""
    layers: tuple[Sizes, ...] = tuple({"units": _always(units)} for units in model.units)
    sizes: Sizes = {"embedding": _always(model.embedding)}
    return Reader(sizes if len(set(model.units)) > 1 else {**sizes, **layers[0]}, layers=layers)


def _always(size: int) -> Callable[[Answers], int]:
    return lambda answers: size


def _read_site(site: str, pattern: str, value: Mapping[str, Any]) -> Node:
    """The settings of a site that the pattern gives it."""
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
    rest = {name: inner for name, inner in value.items() if name not in ("tie", "foreach")}
    return Reader(sizes, site=name).read(rest, name)


def _check_patterns(patterns: Any, sites: Iterable[str]) -> None:
    """Raises UserError for what are no settings by site, or names a site that there cannot be."""
    if not isinstance(patterns, Mapping):
        raise UserError(f"space.sites: got {patterns!r}; it takes settings by site")
    for pattern, value in patterns.items():
        if not isinstance(value, Mapping):
            raise UserError(f"space.sites.{pattern}: got {value!r}; it takes a site's settings")
        if not any(fnmatchcase(site, pattern) for site in sites):
            raise UserError(
                f"space.sites.{pattern}: matches no site; the sites are {', '.join(sites)}"
            )


def _parameter(name: str, places: list[Place]) -> Parameter:
    """The parameter of that name. Raises UserError where it stands for two."""
    first, *others = (place.node for place in places)
    assert isinstance(first, Parameter)
    for other in others:
        assert isinstance(other, Parameter)
        if other != first:
            raise UserError(
                f"space.{name}: stands for {first.plain()} and for {other.plain()}; "
                f"a tie has one range"
            )
    return first


def _pattern_of(patterns: Mapping[str, Any], site: str) -> str | None:
    """The site's part of the template, by the precedence of recipes."""
    if site in patterns:
        return site
    return next((pattern for pattern in patterns if fnmatchcase(site, pattern)), None)
