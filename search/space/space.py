"""A space is a recipe with ranges in place of values.

    {low: 0.6, high: 4.0, log: true}        a number; whole where both ends are whole
    {choice: [float16, {kind: uniform, step: {low: 1, high: 3}}]}    one of these options
    {ordered: [0.25, 0.5, 1.0, 2.0]}        one of these, where neighbours are alike

Each of these is a parameter, named by the settings and options that lead to it, without `sites`:
`decoder.bits`, and `decoder.bits.uniform.step` for the range inside its option `uniform`. `start`
and `when` name an option by its value, or by its `kind`.

Options. A range inside an option is asked for only when that option is chosen: a rank stands inside
`svd`, so a dense site is asked for no rank. An ordered list may grow at its end after the study has
begun, because the sampler sees an entry's index, 0 for the first.

Sites. Under `sites`, a pattern gives each site that it matches parameters of the site's own. To
share one value, write `tie: NAME` in a range or in a site's settings. NAME then takes the place of
the settings in the parameter's name.

Conditions. Settings with `when` apply only where other parameters have certain values:

    {low: 0.1, high: 0.4, when: {finetuning.optimizer: sgd}}
    {low: 2, high: 6, when: {.structure: [svd, dense], biases: float16}, otherwise: 8}

Every parameter that `when` names must have the value, or one of the values, given there. Elsewhere
the setting is what `otherwise` says, which may be a range too. Without `otherwise` the setting is
left out. A name that begins with a dot belongs to the same site. A parameter that is not asked for
has no value, so no condition on its value holds. The order of settings does not matter. Only
`layers` cannot depend on a site, because the sites follow from the layers.

Any model. `foreach` and `of` make a space fit models with other layers and sizes:

    layers: {projection: {foreach: layer, low: 0.3, high: 1.0, of: units}}
    sites: {"*": {foreach: kind, structure: {kind: svd, rank: {low: 0.1, high: 0.5, of: rank}}}}

`foreach: layer` makes a list of one value a layer; the parameters end with the layer's number
(`layers.projection.0`). In a site's settings, `foreach: layer` shares the values among the sites of
a layer, and `foreach: kind` among the sites of a kind (input, recurrent). The parameters are named
by the pattern, or the tie, followed by the layer or the kind.

`of` makes the range a share of a size, and the setting that share as a whole number of at least 1.
The size is a site's `rank` (the largest that the site can have), its `rows` or its `columns`, a
layer's `units`, or the `embedding`'s width.

Dense models. A study may choose among dense models:

    dense: {choice: [own, wide]}

`own` is the study's own dense model; the others are named in `models`. This choice is asked for
first. All other parameters then follow from the chosen model's layers and sites. A parameter has
the same range for every model that asks for it. `when: {dense: wide}` marks settings for one model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lmcore.errors import UserError
from lmcore.network_settings import NetworkSettings
from lmcore.recipe import Recipe
from search.space.answerers import Given, Suggested, Suggester
from search.space.model_space import ModelSpace
from search.space.nodes import Answerer, Fixed, Options, Parameter
from search.space.reader import Reader

OWN = "own"  # the study's own dense model, beside those of `models`


@dataclass(frozen=True)
class Proposal:
    """What a trial is to measure: a resolved recipe of the dense model that `dense` names."""

    dense: str
    recipe: Recipe


class Space:
    """What a study samples from, for one or more dense models and a vocabulary of `words` words.

    `models` has the space of each dense model, `parameters` what trials are asked for; both go by
    name. `corners` are proposals that together have both ends of every range, every option, and
    every condition both held and not held. Raises UserError for a malformed template and for a
    corner that makes no recipe.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        model: NetworkSettings,
        words: int,
        models: Mapping[str, NetworkSettings] | None = None,
    ) -> None:
        known = {OWN: model, **(models or {})}
        rest = {name: value for name, value in template.items() if name != "dense"}
        self.dense, names = _dense(template.get("dense", OWN), known)
        _check_patterns(
            template.get("sites", {}),
            dict.fromkeys(site for name in names for site in known[name].every_site(words)),
        )
        self.models: dict[str, ModelSpace] = {}
        for name in names:
            with _saying(name, names):
                self.models[name] = ModelSpace(rest, name, names, known[name], words)
        every = list(self.models.values())
        named = {name: self._parameter(name) for one in every for name in one.occurrences}
        for name, one in self.models.items():
            with _saying(name, names):
                one.explore(named)
        reached = set.union(*(one.reached for one in every))
        chosen = {"dense": self.dense} if self.dense else {}
        self.parameters = chosen | {name: one for name, one in named.items() if name in reached}
        self.corners = [Proposal(one.dense, recipe) for one in every for _, recipe in one.corners]

    @property
    def lists(self) -> dict[str, tuple[Any, ...]]:
        """The entries of each ordered list, by parameter."""
        return {
            name: one.labels
            for name, one in self.parameters.items()
            if isinstance(one, Options) and one.ordered
        }

    def own(self) -> ModelSpace:
        """The space of the study's own dense model. Raises UserError if it cannot be chosen."""
        if OWN not in self.models:
            raise UserError(
                f"space.dense: seeds, a prior and lmpareto sensitivity need the study's own dense "
                f"model; add {OWN} to the choice, or set seeds=none prior=none"
            )
        return self.models[OWN]

    def suggest(self, trial: Suggester) -> Proposal:
        """The proposal that the trial's suggestions make."""
        return self._run(Suggested(trial))[1]

    def start(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter values to start from, as Optuna takes them: those of ordered lists by index.

        Parameters without a value get their low end or their first option. Raises UserError for
        values outside the space.
        """
        known, _ = self._run(Given(start))
        if unknown := set(start) - set(known):
            raise UserError(
                f"start: there is no parameter {', '.join(sorted(unknown))} where the others have "
                f"these values; there are {', '.join(sorted(known))}"
            )
        indices = {n: of.index(start[n]) for n, of in self.lists.items() if n in start}
        return {**start, **indices}

    def smallest(self, size: Callable[[Proposal], int]) -> tuple[dict[str, Any], Proposal]:
        """The parameter values and the proposal of a corner with a small `size`.

        Setting any one of its parameters to another end makes the size no smaller.
        """
        found = []
        for name, one in self.models.items():
            answers, recipe = one.smallest(_of(name, size))
            found.append((self._chosen(name) | answers.known, Proposal(name, recipe)))
        return min(found, key=lambda corner: size(corner[1]))

    def _run(self, answerer: Answerer) -> tuple[dict[str, Any], Proposal]:
        """What the answerer was asked for and answered, and the proposal of its answers."""
        name = self.dense.put_to(answerer) if self.dense else next(iter(self.models))
        answers, recipe = self.models[name].run(answerer)
        return self._chosen(name) | answers.known, Proposal(name, recipe)

    def _chosen(self, name: str) -> dict[str, Any]:
        return {"dense": name} if self.dense else {}

    def _parameter(self, name: str) -> Parameter:
        """The parameter of that name. Raises UserError where two ranges have that name."""
        if name == "dense":
            raise UserError("space.dense: this name belongs to the choice among dense models")
        occurrences = (
            one for model in self.models.values() for one in model.occurrences.get(name, ())
        )
        first, *others = (one.parameter for one in occurrences)
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
    """Put the dense model's name before an error's message, where there are several models."""
    try:
        yield
    except UserError as error:
        raise UserError(f"dense {name}: {error}" if len(names) > 1 else str(error)) from None


def _dense(given: Any, known: Mapping[str, NetworkSettings]) -> tuple[Options | None, list[str]]:
    """The choice among dense models (None where there is only one), and their names.

    Raises UserError for an unknown dense model, and for one of `models` that is never chosen.
    """
    read = Reader({}, OWN, (OWN,)).read(given, "dense")
    names = list(read.labels if isinstance(read, Options) else [getattr(read, "value", given)])
    tied = isinstance(read, Options) and read.name != "dense"
    if tied or not isinstance(read, Options | Fixed) or any(name not in known for name in names):
        raise UserError(
            f"space.dense: got {given!r}; it takes one of {', '.join(known)}, or a choice of them"
        )
    if unused := [name for name in known if name not in (OWN, *names)]:
        raise UserError(f"models.{unused[0]}: space.dense does not name this model")
    return read if isinstance(read, Options) else None, names


def _check_patterns(patterns: Any, sites: Iterable[str]) -> None:
    """Raises UserError where `sites` does not map patterns to settings, and where a pattern matches
    none of the sites."""
    if not isinstance(patterns, Mapping):
        raise UserError(f"space.sites: got {patterns!r}; it takes settings by site")
    for pattern, value in patterns.items():
        if not isinstance(value, Mapping):
            raise UserError(f"space.sites.{pattern}: got {value!r}; it takes a site's settings")
        if not any(fnmatchcase(site, pattern) for site in sites):
            raise UserError(
                f"space.sites.{pattern}: matches no site; the sites are {', '.join(sites)}"
            )
