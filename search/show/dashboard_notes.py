"""Notes in Markdown, in the attributes in which Optuna's dashboard keeps them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

from lmcore.task import PERPLEXITY, Measure
from search.describe import command_line, recipe_lines
from search.front import Front
from search.measurement import Measurement, best_of
from search.units import format_size

PIECE = 2045  # characters of a note in one attribute, as in optuna_dashboard._note
MOST_LINES, WIDTH = 60, 100  # of a recipe


def note_attributes(trial_id: int | None, text: str) -> dict[str, Any]:
    """The system attributes of a study that are the note of one of its trials, or its own."""
    of = "dashboard" if trial_id is None else f"dashboard:{trial_id}"
    pieces = (text[n * PIECE : (n + 1) * PIECE] for n in range(ceil(len(text) / PIECE)))
    return {
        f"{of}:note_ver": 1,
        **{f"{of}:note_str:{n}": piece for n, piece in enumerate(pieces)},
    }


def export_command(study: str, trial: int) -> str:
    return command_line("export", study, f"trial={trial}", f"to=trial_{trial}")


def _verbatim(text: str) -> str:
    """A block of Markdown in which nothing acts as markup, whatever lines there are."""
    return "".join(f"    {line}" for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text))


def _in_line(text: str) -> str:
    """A part of a line of Markdown in which nothing acts as markup. The dashboard renders HTML, and
    the name of a study may be other people's."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if line else "This study"


def trial_note(
    study: str, trial: int, files: Mapping[int, Measurement], measure: Measure = PERPLEXITY
) -> str:
    """A trial's files by rung, the recipe of the best one in words, and how to take it."""
    best = best_of(files.values())
    rows = [
        f"| {rung} | {_epochs(one):g} | {format_size(one.size_bytes)} "
        f"| {one.valid_measure:.2f}{' (best)' if one is best else ''} |"
        for rung, one in files.items()
    ]
    return "\n".join(
        [
            f"| rung | epochs | size | {measure.head} |",
            "|---|---|---|---|",
            *rows,
            "",
            "The recipe of its best file:",
            "",
            *(f"    {line}" for line in recipe_lines(best.recipe, MOST_LINES, WIDTH)),
            "",
            "To take it:",
            "",
            _verbatim(export_command(study, trial)),
        ]
    )


def _epochs(one: Measurement) -> float:
    epochs = (one.recipe.get("finetuning") or {}).get("epochs", 0)
    return float(epochs) if isinstance(epochs, int | float) else 0.0


def study_note(front: Front, files: int) -> str:
    """What the study has found, in a sentence, and the commands that show more."""
    name = front.study
    found = f"{_in_line(name)} has no measured model yet."
    if front.points:
        ends = " to ".join(
            f"{format_size(one.size_bytes)} at {front.measure.said(one.valid_measure)}"
            for one in dict.fromkeys((front.smallest(), front.best()))
        )
        found = (
            f"{_in_line(name)}: of {files} files, {len(front.points)} are on the front, from "
            f"{ends}; the knee is trial {front.knee().name}."
        )
    return "\n".join(
        [
            found,
            "",
            "A trial is measured at several rungs, and each of its files may be on the front. The",
            "plots of this dashboard have the best file of each trial alone.",
            "",
            *(_verbatim(command_line(one, name)) for one in ("front", "report")),
            _verbatim(command_line("export", name, "to=model")),
        ]
    )
