"""Run a trial again from its stored recipe, and compare the two results."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmcore.task import Measure
from search.bench.workbench import provenance, stored_recipe
from search.config import ReplayConfig
from search.front import Point
from search.measurement import Measurement
from search.study.context import StudyContext
from search.study.results import Results
from search.terminal import training_bar

TOLERANCE = 0.005  # relative difference that counts as the same, between machines and versions


@dataclass(frozen=True)
class Replay:
    """The stored measurement of a file and the one made now."""

    study: str
    point: Point
    stored: Measurement
    again: Measurement
    measure: Measure

    @property
    def identical(self) -> bool:
        return self.stored.sha256 == self.again.sha256 and (
            self.stored.valid_measure == self.again.valid_measure
        )

    @property
    def same(self) -> bool:
        """Whether size and perplexity agree to within half a percent. Speeds are not compared: they
        are the machine's, too, and `again` has none."""
        pairs = (
            (self.stored.size_bytes, self.again.size_bytes),
            (self.stored.valid_measure, self.again.valid_measure),
        )
        return all(abs(new - old) <= TOLERANCE * old for old, new in pairs)


def replay(context: StudyContext[ReplayConfig], results: Results) -> Replay:
    """Measure the recipe of a trial's file again, in an empty folder. Raises UserError where there
    is no such trial or rung."""
    point = results.find(context.config.trial, context.config.rung)
    stored = results.measured(point.name)
    bench = context.bench_of(stored)
    recipe = stored_recipe(bench, point.name, stored)
    with (
        tempfile.TemporaryDirectory(prefix="lmpareto-") as folder,
        training_bar(point.label) as observe,
    ):
        bench.folder, bench.stages = Path(folder), replace(bench.stages, folder=Path(folder))
        again = bench.measure(recipe, observe)
    return Replay(context.name, point, stored, again, results.measure)


def replay_document(result: Replay) -> dict[str, Any]:
    """{"study", "name", "trial", "rung", "identical", "same", "stored", "again"}."""
    return {
        "study": result.study,
        "name": result.point.name,
        "trial": result.point.trial,
        "rung": result.point.rung,
        "identical": result.identical,
        "same": result.same,
        "stored": result.stored.plain(result.measure),
        "again": result.again.plain(result.measure),
    }


def replay_text(result: Replay) -> str:
    """The verdict, both measurements, and what changed in between."""
    verdict = "the same to the bit" if result.identical else "the same within 0.5%"
    changed = [
        f"{name} {result.stored.provenance[name]} -> {value}"
        for name, value in provenance().items()
        if result.stored.provenance.get(name, value) != value
    ]
    name = result.measure.name
    lines = [
        f"{result.point.label} of {result.study}: {verdict if result.same else 'NOT the same'}",
        f"stored: {result.stored.size_bytes:,} B, {name} {result.stored.valid_measure!r}",
        f"again:  {result.again.size_bytes:,} B, {name} {result.again.valid_measure!r}",
    ]
    return "\n".join([*lines, *([f"changed since: {', '.join(changed)}"] if changed else [])])
