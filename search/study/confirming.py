"""Which files are to be trained again with other seeds, and what that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmcore.errors import UserError
from lmcore.recipe import Recipe
from lmcore.settings import parse
from search.config import StudyConfig
from search.describe import command_line
from search.front import Point
from search.measurement import Measurement
from search.study.context import StudyContext
from search.study.results import Results

if TYPE_CHECKING:
    from search.bench.dense import DenseCheckpoint


@dataclass(frozen=True)
class Repeat:
    """A file's recipe to be trained with another seed. The first `number` is 1."""

    label: str  # of the point, for people
    file: Measurement
    number: int

    @property
    def slot(self) -> str:
        """The name of its slot. Names sort by what a training costs, the cheapest first."""
        return f"{math.ceil(self.file.seconds):08d} {self.file.key} {self.number:04d}"

    @staticmethod
    def of_slot(name: str) -> tuple[str, int]:
        """The key of the file and the number that the name of a slot stands for."""
        _, file, number = name.split(" ")
        return file, int(number)


@dataclass(frozen=True)
class Confirmation:
    """The repeats of a front, the cheapest first, and its points that have none: no part of their
    file was trained, so it is the same with any seed."""

    repeats: Sequence[Repeat]
    untrained: Sequence[Point]


@dataclass(frozen=True)
class Confirmed:
    """How many repeats the front is to have, how many of them are there, and which points have
    none because nothing of them is trained."""

    study: str
    repeats: int
    done: int
    untrained: tuple[str, ...]  # labels


def confirmation(results: Results, repeats: int, names: Sequence[int | str] = ()) -> Confirmation:
    """What it takes to train points again with so many other seeds: those of these `names`, trials
    and names of limits, or without any the whole front. Raises UserError for an unknown name."""
    trained, untrained = list[Point](), list[Point]()
    try:
        chosen = {point.name: point for point in map(results.find, names)}
    except UserError as error:
        raise UserError(f"points: {str(error).removeprefix('trial: ')}") from None
    for point in chosen.values() if names else results.front.points:
        recipe = parse(Recipe, point.recipe or {}, "recipe")
        (trained if is_trained(recipe) else untrained).append(point)
    wanted = [
        Repeat(point.label, results.measured(point.name), number)
        for point in trained
        for number in range(1, repeats + 1)
    ]
    return Confirmation(sorted(wanted, key=lambda one: one.slot), untrained)


def seed_of(number: int, study: int) -> int:
    """The seed of a repeat of that number, of a study with that seed."""
    return (study + number) % 2**63


def is_trained(recipe: Recipe) -> bool:
    """Whether a seed plays any part in making the recipe's file from the dense checkpoint."""
    return recipe.finetuning is not None or recipe.layers.units is not None


def checkpoints_of(
    context: StudyContext[StudyConfig], repeats: Sequence[Repeat]
) -> dict[str, DenseCheckpoint]:
    """The dense models that the files were made from, by SHA-256. Raises UserError where one is not
    at hand, and where the settings, the text or the seed are others than those of the files."""
    from search.bench.workbench import stored_recipe

    found = (context.find_checkpoint(name) for name in context.config.dense_names)
    known = {one.sha256: one for one in found if one}
    benches = {sha256: context.bench(one) for sha256, one in known.items()}
    for one in repeats:
        dense = one.file.provenance.get("dense")
        if dense in benches:
            stored_recipe(benches[dense], one.label.removeprefix("trial "), one.file)
        else:
            raise UserError(
                f"{one.label} of {context.name} was made from a dense model that is not at hand; "
                f"{command_line('train', context.name)} trains it, the same one only with the same "
                f"text, seed and versions"
            )
    return known
