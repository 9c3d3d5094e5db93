"""How a study went: every trial with its parameters, its times, its rungs and its failure.

`Results` says what was measured; the history says how, when and with what luck. Both come from the
database or from the folder of a published study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from search.measurement import Measurement
from search.study.results import Results

State = Literal["complete", "failed", "running", "waiting"]


@dataclass(frozen=True)
class TrialRecord:
    """A trial. Times are in seconds since 1970; None where the trial has not come to it, or where
    the study was published by a version that did not write it."""

    number: int
    state: State
    parameters: Mapping[str, Any]
    started: float | None = None
    ended: float | None = None
    failure: str | None = None  # why it has no values or missed its last rung
    moved: Mapping[str, Any] = field(default_factory=dict)  # parameters that moved to fit max_size
    duplicate: bool = False
    measured_at: Mapping[int, float] = field(default_factory=dict)  # rung -> when
    last_rung: int | None = None  # of its ladder; a trial that ended below was stopped early


@dataclass(frozen=True)
class History:
    """All trials of a study, by number, beside what they measured.

    `repeats` has the measurements of a file's recipe with other seeds, by the file's name in
    `results`. `settings` are those of the last sweep as plain data, `machine` and `versions` what
    it ran on; each is empty where it is not known.
    """

    results: Results
    trials: Sequence[TrialRecord]
    repeats: Mapping[str, Sequence[Measurement]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    trials_to_have: int | None = None
