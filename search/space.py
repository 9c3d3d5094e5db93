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
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from lmcore.errors import UserError
from lmcore.model import ModelSettings
from lmcore.recipe import LayerSettings, Recipe, resolve
from lmcore.settings import parse
from search.answers import Given, Suggested, Suggester, corners
from search.template import Answers, Options, Place, read


class Space:
    """What a study samples from, for one model and vocabulary size.

    `corners` are recipes that together have both ends of every range and every option.
    Raises UserError where a range is wrong or where an end of a range or an option is no recipe.
    """

    def __init__(self, template: Mapping[str, Any], model: ModelSettings, words: int) -> None:
        self.model, self.words = model, words
        patterns = template.get("sites", {})
        widths = tuple(units + 1 for units in model.units)  # another, so that there is each site
        every = model.model_copy(update={"projection": widths, "embedding": widths[-1] + 1})
        sites = {**model.site_shapes(words), **every.site_shapes(words)}
        _check_patterns(patterns, sites)
        self.layers = read(template.get("layers", {}), "layers")
        self.sites = {
            site: read({k: v for k, v in value.items() if k != "tie"}, value.get("tie", site))
            for site in sites
            if (value := _settings_of(patterns, site)) is not None
        }
        rest = {k: value for k, value in template.items() if k not in ("layers", "sites")}
        self.rest = read(rest, "")
        self.places: dict[str, list[Place]] = {}
        for node in (self.layers, *self.sites.values(), self.rest):
            for place in node.places():
                self.places.setdefault(place.parameter.name, []).append(place)
        _check_ties(self.places)
        self.parameters = {name: places[0].parameter for name, places in self.places.items()}
        self.corners = [self._fill(Answers(corner)) for corner in corners()]

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
        return self._fill(Answers(Suggested(trial)))

    def start(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter values to start from as Optuna takes them: of an ordered list the place.

        Raises UserError where they lie outside the space.
        """
        answers = Answers(Given(start))
        self._fill(answers)
        if unknown := set(start) - set(answers.known):
            raise UserError(
                f"start: there is no parameter {', '.join(sorted(unknown))} where the others have "
                f"these values; there are {', '.join(sorted(answers.known))}"
            )
        lists = {name: self.parameters[name].ends for name in self.ordered if name in start}
        return {**start, **{name: labels.index(start[name]) for name, labels in lists.items()}}

    def _fill(self, answers: Answers) -> Recipe:
        layers = self.layers.fill(answers)
        reshaped = parse(LayerSettings, layers, "space.layers").canonical(self.model, self.words)
        sites = {
            site: self.sites[site].fill(answers)
            for site in reshaped.site_shapes(self.model, self.words)
            if site in self.sites
        }
        data = {"layers": layers, "sites": sites, **self.rest.fill(answers)}
        return resolve(parse(Recipe, data, "space"), self.model, self.words)


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


def _check_ties(places: Mapping[str, list[Place]]) -> None:
    """Raises UserError where one name stands for two ranges."""
    for name, (first, *others) in places.items():
        for other in others:
            if other.parameter != first.parameter:
                raise UserError(
                    f"space.{name}: stands for {first.parameter.plain()} and for "
                    f"{other.parameter.plain()}; a tie has one range"
                )


def _settings_of(patterns: Mapping[str, Any], site: str) -> Mapping[str, Any] | None:
    """The site's part of the template, by the precedence of recipes."""
    if site in patterns:
        found: Mapping[str, Any] = patterns[site]
        return found
    return next((value for name, value in patterns.items() if fnmatchcase(site, name)), None)
