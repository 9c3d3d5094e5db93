"""Run a trial again from its stored recipe, and compare the two results."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.bench.workbench import provenance, stored_recipe
from search.config import ReplayConfig
from search.measurement import Measurement
from search.study.context import StudyContext
from search.study.results import Results
from search.terminal import training_bar

TOLERANCE = 0.005  # relative difference that counts as the same, between machines and versions


@dataclass(frozen=True)
class Replay:
    """A trial's stored measurement and the one made now."""

    study: str
    trial: str
    stored: Measurement
    again: Measurement

    @property
    def identical(self) -> bool:
        return self.stored.sha256 == self.again.sha256 and (
            self.stored.valid_perplexity == self.again.valid_perplexity
        )

    @property
    def same(self) -> bool:
        """Whether size and perplexity agree to within half a percent."""
        pairs = (
            (self.stored.size_bytes, self.again.size_bytes),
            (self.stored.valid_perplexity, self.again.valid_perplexity),
        )
        return all(abs(new - old) <= TOLERANCE * old for old, new in pairs)

    def document(self) -> dict[str, Any]:
        return {
            "study": self.study,
            "trial": self.trial,
            "identical": self.identical,
            "same": self.same,
            "stored": self.stored.plain(),
            "again": self.again.plain(),
        }

    def text(self) -> str:
        verdict = "the same to the bit" if self.identical else "the same within 0.5%"
        changed = [
            f"{name} {self.stored.provenance[name]} -> {value}"
            for name, value in provenance().items()
            if self.stored.provenance.get(name, value) != value
        ]
        lines = [
            f"trial {self.trial} of {self.study}: {verdict if self.same else 'NOT the same'}",
            f"stored: {self.stored.size_bytes:,} B, perplexity {self.stored.valid_perplexity!r}",
            f"again:  {self.again.size_bytes:,} B, perplexity {self.again.valid_perplexity!r}",
        ]
        return "\n".join([*lines, *([f"changed since: {', '.join(changed)}"] if changed else [])])


def replay(context: StudyContext[ReplayConfig], results: Results) -> Replay:
    """Measure a trial's recipe again, in an empty folder. Raises UserError where there is no such
    trial."""
    name = str(context.config.trial)
    stored = results.measured(name)
    bench = context.bench_of(stored)
    recipe = stored_recipe(bench, name, stored)
    with (
        tempfile.TemporaryDirectory(prefix="lmpareto-") as folder,
        training_bar(f"trial {name}") as observe,
    ):
        bench.folder, bench.stages = Path(folder), replace(bench.stages, folder=Path(folder))
        again = bench.measure(recipe, observe)
    return Replay(context.name, name, stored, again)
