"""What the page of a report shows: a record of plain data, computed once, rendered elsewhere.

Lists that have one entry a trial, a file or a point are columns, so that 50,000 trials stay small.
NaN and infinity stand as None. Sizes are bytes, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Number = float | None
Stairs = list[tuple[float, float]]  # bytes and perplexity, by size


@dataclass(frozen=True)
class Site:
    """One site of a point of the front."""

    site: str
    structure: str  # "dense", "svd", ...
    rank: str  # "40", "4 x 8 x 4"; empty where the site is dense
    zeros: float  # share, 0 to 1
    bits: str  # "uniform, step 0.7"
    bits_a_weight: Number  # of the file, over the weights of the dense site
    size_bytes: int | None  # of the site in the file


@dataclass(frozen=True)
class Sureness:
    """A point trained again with other seeds; its own measurement counts as one of the seeds."""

    seeds: int
    perplexity: tuple[float, float]  # mean and standard deviation
    size_bytes: tuple[float, float]
    on_front: float  # the share of seeds in which it stays on the front


@dataclass(frozen=True)
class FrontPoint:
    """A point of the front, as the slider and the tables show it."""

    name: str  # "17", "17 rung 0"
    label: str  # "trial 17", "trial 17, 0.5MB" where it is the best of that limit
    size_bytes: int
    perplexity: float
    ratio: Number  # dense size / size_bytes
    epochs: float  # of fine-tuning
    tokens_per_second: Number
    relative_speed: Number  # None where it is no objective
    recipe: list[str]  # in words, a line each
    sites: list[Site]
    export: str  # the command
    sure: Sureness | None = None


@dataclass(frozen=True)
class Mark:
    """A point beside the search: a baseline or a row of the literature."""

    label: str
    size_bytes: float
    perplexity: float
    source: str = ""  # of the literature; empty for a baseline
    text: str = ""  # hover


@dataclass(frozen=True)
class Course:
    """How the search went.

    The hypervolume (see `search.front.hypervolume`) is a share of the final one. The three lists
    have an entry for each file at which it grew, and one for the last file. All are empty where no
    file is inside the reference.
    """

    epochs: list[float]  # of fine-tuning, spent by all trials so far
    hours: list[float]  # since the first trial began; empty where that is not known
    hypervolume: list[float]
    reference: tuple[float, float]  # bytes, perplexity
    rungs: dict[str, int]  # "0 epochs", "0.25 epochs": how many trials came to it
    failures: dict[str, int]  # reason -> how many
    stages: dict[str, float]  # "fine-tuning", "measuring": seconds


@dataclass(frozen=True)
class StudyReport:
    """One study of the report.

    `trials` are columns of one length, a row for every trial by number: number, state,
    stopped_early, rung, epochs, size_bytes, perplexity, tokens_per_second, relative_speed (of its
    best file), seconds, started (since 1970), method, recipe (index into `recipes`), values,
    failure. The state is "front", "dominated" or "infeasible" where a file was measured, else
    "failed", "running", "waiting" or "duplicate". A dominated file may lack its size or perplexity:
    it was no number.

    `files` are columns of all other measured files: trial, rung, epochs, size_bytes, perplexity,
    state.

    `recipes` are in words, a line each, with "¤" in place of each number. A trial's `values` are
    those numbers from left to right, parted by blanks.

    `parameters` are columns of the rows of `trials`; None where the trial was not asked for it.
    """

    name: str
    corpus: str
    unit: str  # "perplexity" or "bits per byte"
    sentence: str
    objectives: list[str]  # "size", "perplexity", and perhaps "speed"
    front: list[FrontPoint]
    knee: str | None  # name of a point
    marks: list[Mark]
    predicted: Stairs
    trials: dict[str, list[Any]]
    parameters: dict[str, list[Any]]
    recipes: list[str]
    bands: dict[str, Stairs]  # attainment: "best", "median", "worst" of the seeds; may be empty
    importance: dict[str, dict[str, float]]  # objective -> parameter -> share
    course: Course
    provenance: dict[str, Any]  # settings (YAML text), versions, machine, corpus, commands
    notes: list[str] = field(default_factory=list)  # what is missing, and why
    files: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """One page: a report of each study, under one sentence."""

    title: str
    sentence: str
    studies: list[StudyReport]
    watching: bool = False  # the page loads itself anew
