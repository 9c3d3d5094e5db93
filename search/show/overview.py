"""What a study can sample, and how large its corners are: a record, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmcore.bundle import packed_size
from search.config import StudyConfig
from search.describe import recipe_lines
from search.show.tables import aligned
from search.space.model_space import ModelSpace
from search.space.space import Proposal, Space
from search.study.context import StudyContext
from search.units import format_size


@dataclass(frozen=True)
class ParameterRecord:
    """A parameter of a space: its values, and the cases in which a trial is asked for it.

    A case is a list of conditions that must all hold; an empty case always holds.
    """

    name: str
    values: Mapping[str, Any]
    cases: list[list[str]]

    @property
    def always(self) -> bool:
        return [] in self.cases


@dataclass(frozen=True)
class SizedCorner:
    """A recipe where every range is at an end. Its file has at most `packed_bytes`."""

    packed_bytes: int
    dense: str | None  # the model that it is for, where there are several
    parameters: Mapping[str, Any]
    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class Overview:
    """All parameters of a space, and its smallest and its largest corner by packed size."""

    study: str | None
    parameters: list[ParameterRecord]
    smallest: SizedCorner
    largest: SizedCorner


def overview(context: StudyContext[StudyConfig]) -> Overview:
    """The overview of a study's space. No model is trained or needed for it."""
    space = context.space
    parameters = [
        ParameterRecord(name, parameter.plain(), _cases(space, name))
        for name, parameter in space.parameters.items()
    ]

    def size(proposal: Proposal) -> int:
        model = space.models[proposal.dense].model
        return packed_size(proposal.recipe, model, context.corpus.vocabulary)

    def corner(sign: int) -> SizedCorner:
        parameters, proposal = space.smallest(lambda proposal: sign * size(proposal))
        dense = proposal.dense if space.dense else None
        return SizedCorner(size(proposal), dense, parameters, proposal.recipe.plain())

    return Overview(context.config.name, parameters, smallest=corner(1), largest=corner(-1))


def overview_document(shown: Overview) -> dict[str, Any]:
    """{"study", "parameters": [{"name", ...}], "smallest", "largest"}."""
    return {
        "study": shown.study,
        "parameters": [
            {"name": one.name, **one.values, "cases": one.cases} for one in shown.parameters
        ],
        "smallest": _corner_document(shown.smallest),
        "largest": _corner_document(shown.largest),
    }


def overview_text(shown: Overview) -> str:
    """The parameters as a table, then the two corners."""
    rows = [("parameter", "values", "asked for")]
    rows += [(one.name, _values_text(one.values), _cases_text(one)) for one in shown.parameters]
    count = len(shown.parameters)
    always = sum(one.always for one in shown.parameters)
    lines = [*aligned(rows, "<<<"), f"{count} parameters, {always} of them in every trial"]
    for name, corner in (("smallest", shown.smallest), ("largest", shown.largest)):
        most = format_size(corner.packed_bytes)
        of = f", of the dense model {corner.dense}" if corner.dense else ""
        lines += ["", f"{name} corner: a file of at most {most}{of}"]
        lines += [f"    {line}" for line in recipe_lines(corner.recipe)]
    return "\n".join([*lines, "", "at most: its bytes before entropy coding"])


def _corner_document(corner: SizedCorner) -> dict[str, Any]:
    return {
        "packed_bytes": corner.packed_bytes,
        "parameters": dict(corner.parameters),
        "recipe": corner.recipe,
    }


def _cases(space: Space, name: str) -> list[list[str]]:
    """The cases in which a trial is asked for the parameter, without those that another covers.

    As in [["all.structure = svd", "there is lstm.0.projection"]].
    """
    if name == "dense":
        return [[]]
    found = {dense: _cases_of(one, name) for dense, one in space.models.items()}
    first, *others = found.values()
    if all(cases == first for cases in others):
        return first
    return [[f"dense = {dense}", *case] for dense, cases in found.items() for case in cases]


def _cases_of(space: ModelSpace, name: str) -> list[list[str]]:
    """The cases of one dense model, the shortest first."""
    found = []
    for occurrence in space.occurrences.get(name, ()):
        site = occurrence.site
        if site is None or site in space.possible_sites:
            made = [] if site in (None, *space.certain_sites) else [f"there is {site}"]
            found.append(list(dict.fromkeys([*map(str, occurrence.conditions), *made])))
    found.sort(key=len)
    return [
        case
        for index, case in enumerate(found)
        if not any(set(other) <= set(case) for other in found[:index])
    ]


def _cases_text(parameter: ParameterRecord) -> str:
    return "always" if parameter.always else "; or ".join(map(", ".join, parameter.cases))


def _values_text(values: Mapping[str, Any]) -> str:
    """As in "0.4 to 3.0, log", "one of dense, svd", "0.25, 0.5, 1 in order"."""
    if "choice" in values:
        return f"one of {', '.join(map(str, values['choice']))}"
    if "ordered" in values:
        return f"{', '.join(map(str, values['ordered']))} in order"
    share = f" of {values['of']}" if "of" in values else ""
    step = f" in steps of {values['step']}" if "step" in values else ""
    return f"{values['low']} to {values['high']}{share}{step}{', log' if 'log' in values else ''}"
