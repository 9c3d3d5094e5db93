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

    dense: {choice: [own, wide]}

chooses among dense models: the study's own, and those that `models` has by name. It is asked for
first; all else is asked for as that model has layers and sites, each parameter with the same range
for all of them. `when: {dense: wide}` is for what only one can have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lmcore.errors import UserError
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe
from search.space.answerers import Given, Suggested, Suggester
from search.space.model_space import ModelSpace, every_site
from search.space.nodes import Answerer, Fixed, Options, Parameter
from search.space.reader import Reader

OWN = "own"  # the study's own dense model, beside those of `models`


@dataclass(frozen=True)
class Proposal:
    """What a trial is to measure: a resolved recipe of the dense model of that name."""

    dense: str
    recipe: Recipe


class Space:
    """What a study samples from, for one vocabulary size and one or more dense models.

    `models` are the space for each dense model, `parameters` what trials are asked for, by name;
    `corners` are proposals that together have both ends of every range, every option, and every
    condition held and not held. Raises UserError where a range is wrong or a corner is no recipe.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        model: ModelSettings,
        words: int,
        models: Mapping[str, ModelSettings] | None = None,
    ) -> None:
        known = {OWN: model, **(models or {})}
        rest = {name: value for name, value in template.items() if name != "dense"}
        self.dense, names = _dense(template.get("dense", OWN), known)
        _check_patterns(
            template.get("sites", {}),
            dict.fromkeys(site for name in names for site in every_site(known[name], words)),
        )
        self.models: dict[str, ModelSpace] = {}
        for name in names:
            with _saying(name, names):
                self.models[name] = ModelSpace(rest, name, names, known[name], words)
        every = list(self.models.values())
        named = {name: self._parameter(name) for one in every for name in one.places}
        for name, one in self.models.items():
            with _saying(name, names):
                one.explore(named)
        asked = set.union(*(one.asked for one in every))
        chosen = {"dense": self.dense} if self.dense else {}
        self.parameters = chosen | {name: one for name, one in named.items() if name in asked}
        self.corners = [Proposal(one.dense, recipe) for one in every for _, recipe in one.corners]

    @property
    def lists(self) -> dict[str, tuple[Any, ...]]:
        """The entries of each ordered list, by parameter."""
        return {
            name: asked.labels
            for name, asked in self.parameters.items()
            if isinstance(asked, Options) and asked.ordered
        }

    def own(self) -> ModelSpace:
        """The space for the study's own dense model; UserError where that is not chosen."""
        if OWN not in self.models:
            raise UserError(
                f"space.dense: the parts of a space are measured alone on the study's own dense "
                f"model only; it takes a choice with {OWN} in it for that"
            )
        return self.models[OWN]

    def suggest(self, trial: Suggester) -> Proposal:
        """What the trial's suggestions make."""
        return self._run(Suggested(trial))[1]

    def start(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter values to start from as Optuna takes them: of an ordered list the place.

        Raises UserError where they lie outside the space.
        """
        known, _ = self._run(Given(start))
        if unknown := set(start) - set(known):
            raise UserError(
                f"start: there is no parameter {', '.join(sorted(unknown))} where the others have "
                f"these values; there are {', '.join(sorted(known))}"
            )
        places = {n: of.index(start[n]) for n, of in self.lists.items() if n in start}
        return {**start, **places}

    def smallest(self, size: Callable[[Proposal], int]) -> tuple[dict[str, Any], Proposal]:
        """The values of a corner, and what they make, that no single parameter's other end makes
        smaller than it is by the given measure."""
        found = []
        for name, one in self.models.items():
            answers, recipe = one.smallest(_of(name, size))
            found.append((self._chosen(name) | answers.known, Proposal(name, recipe)))
        return min(found, key=lambda corner: size(corner[1]))

    def _run(self, answerer: Answerer) -> tuple[dict[str, Any], Proposal]:
        """What a trial is asked for and answers, and what this makes."""
        name = self.dense.put_to(answerer) if self.dense else next(iter(self.models))
        answers, recipe = self.models[name].run(answerer)
        return self._chosen(name) | answers.known, Proposal(name, recipe)

    def _chosen(self, name: str) -> dict[str, Any]:
        return {"dense": name} if self.dense else {}

    def _parameter(self, name: str) -> Parameter:
        """The parameter of that name. Raises UserError where it stands for two."""
        if name == "dense":
            raise UserError("space.dense: this name belongs to the choice among dense models")
        places = (place for one in self.models.values() for place in one.places.get(name, ()))
        first, *others = (place.parameter for place in places)
        for other in others:
            if other != first:
                raise UserError(
                    f"space.{name}: stands for {first.plain()} and for {other.plain()}; "
                    f"a name has one range"
                )
        return first


def _of(dense: str, size: Callable[[Proposal], int]) -> Callable[[Recipe], int]:
    return lambda recipe: size(Proposal(dense, recipe))


@contextmanager
def _saying(name: str, names: list[str]) -> Iterator[None]:
    """Says of which dense model an error is, where there are several."""
    try:
        yield
    except UserError as error:
        raise UserError(f"dense {name}: {error}" if len(names) > 1 else str(error)) from None


def _dense(given: Any, known: Mapping[str, ModelSettings]) -> tuple[Options | None, list[str]]:
    """The choice among dense models, None for one alone, and all that can be chosen.

    Raises UserError for what is no dense model, and for one that is never chosen.
    """
    read = Reader({}, OWN, (OWN,)).read(given, "dense")
    names = list(read.labels if isinstance(read, Options) else [getattr(read, "value", given)])
    tied = isinstance(read, Options) and read.name != "dense"
    if tied or not isinstance(read, Options | Fixed) or any(name not in known for name in names):
        raise UserError(
            f"space.dense: got {given!r}; it takes one of {', '.join(known)}, or a choice of them"
        )
    if unused := [name for name in known if name not in (OWN, *names)]:
        raise UserError(f"models.{unused[0]}: space.dense does not name it")
    return read if isinstance(read, Options) else None, names


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
