"""The table of a publication: the best model of each limit, its perplexity on the test text, and
the literature that it leaves behind."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmcore.errors import UserError
from lmcore.task import PERPLEXITY, Measure
from search.show.literature import LiteraturePoint
from search.show.tables import aligned
from search.units import format_size

RESULTS, TABLE = "results.csv", "table.md"  # of a published study


@dataclass(frozen=True)
class Rated:
    """A published model. Its perplexities are those of its reloaded file, that of the test text
    computed once, when it was published."""

    study: str
    name: str  # "17", "17 rung 0", "dense"
    size_bytes: int
    valid_measure: float
    test_perplexity: float


@dataclass(frozen=True)
class BestWithin:
    """The best model of at most `max_bytes`, None where none is that small."""

    limit: str
    max_bytes: int
    model: Rated | None


@dataclass(frozen=True)
class Passed:
    """A row of the literature, and the smallest model that is below it in size and in test
    perplexity."""

    row: LiteraturePoint
    by: Rated


@dataclass(frozen=True)
class Headline:
    """The models by limit, the literature that one of them leaves behind, and what remains."""

    models: tuple[BestWithin, ...]
    passed: tuple[Passed, ...]
    remaining: tuple[LiteraturePoint, ...]
    measure: Measure = PERPLEXITY

    @property
    def heads(self) -> tuple[str, str]:
        """Of the columns of its values."""
        unit = f" {self.measure.unit}" if self.measure.unit else ""
        return f"valid{unit}", f"test{unit}"

    @property
    def studies(self) -> tuple[str, ...]:
        """The studies that the models are of."""
        return tuple(dict.fromkeys(one.model.study for one in self.models if one.model))


def headline(
    models: Iterable[Rated],
    limits: Mapping[str, int],
    literature: Iterable[LiteraturePoint],
    measure: Measure = PERPLEXITY,
) -> Headline:
    """The table of some models, of one study or several on the same text.

    A limit takes the model of the lowest perplexity on valid; of equal ones, the smaller, then the
    first. The test text decides nothing. A row of the literature is left behind where the model of
    a limit has fewer bytes and a lower test perplexity; an equal one is not below. A model whose
    perplexity is NaN or infinite is none.
    """
    known = [one for one in models if math.isfinite(one.valid_measure)]
    rows = tuple(
        BestWithin(limit, most, _best([one for one in known if one.size_bytes <= most]))
        for limit, most in sorted(limits.items(), key=lambda item: item[1])
    )
    ours = sorted((row.model for row in rows if row.model), key=lambda one: one.size_bytes)
    passed, remaining = [], []
    for row in literature:
        below = (
            one
            for one in ours
            if one.size_bytes < row.size_bytes and one.test_perplexity < row.test_perplexity
        )
        if by := next(below, None):
            passed.append(Passed(row, by))
        else:
            remaining.append(row)
    return Headline(rows, tuple(passed), tuple(remaining), measure)


def _best(models: Sequence[Rated]) -> Rated | None:
    return min(models, key=lambda one: (one.valid_measure, one.size_bytes), default=None)


# --- what was published ------------------------------------------------------------------------


def tested_in(study: str, rows: Iterable[Mapping[str, str]], measure: Measure) -> list[Rated]:
    """The models of the rows of a results.csv. Raises ValueError, KeyError or TypeError where a row
    is none."""
    return [
        Rated(
            study=study,
            name=str(row["name"]),
            size_bytes=int(row["size_bytes"]),
            valid_measure=float(row[measure.key("valid")]),
            test_perplexity=float(row[measure.key("test")]),
        )
        for row in rows
    ]


def read_tested(study: str, folder: Path, measure: Measure = PERPLEXITY) -> list[Rated]:
    """The models of a published study. Raises UserError where they cannot be read."""
    path = folder / RESULTS
    try:
        text = io.StringIO(path.read_text(encoding="utf-8"))
        return tested_in(study, csv.DictReader(text), measure)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged: {str(error)[:100]}; lmpareto publish writes it again"
        ) from None


# --- as JSON, as text, as Markdown -------------------------------------------------------------


def headline_document(found: Headline) -> dict[str, Any]:
    """{"models": [{"limit", "max_bytes", "model"}], "passed": [{"row", "by"}], "remaining"}."""
    return asdict(found)


def headline_text(found: Headline) -> str:
    """The table for a terminal, then the literature."""
    head, *rows = _rows(found)
    lines = aligned([head, *rows], "<>>>" + "<" * (len(head) - 4))
    return "\n".join([*lines, *_paragraphs(found)])


def headline_markdown(found: Headline) -> str:
    """The table and the literature for a README."""
    head, *rows = _rows(found)
    side = ["---", *["---:"] * 3, *["---"] * (len(head) - 4)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, side, *rows)]
    return "\n".join([*lines, *_paragraphs(found)]) + "\n"


def _rows(found: Headline) -> list[tuple[str, ...]]:
    several = len(found.studies) > 1
    rows: list[tuple[str, ...]] = [("at most", "size", *found.heads, "model")]
    for one in found.models:
        cells = [one.limit, "", "", "", "none is that small"]
        if model := one.model:
            cells[1:4] = _numbers(model)
            cells[4] = f"{model.study} {model.name}" if several else model.name
        rows.append(tuple(cells))
    return rows


def _numbers(model: Rated) -> list[str]:
    valid, test = f"{model.valid_measure:.2f}", f"{model.test_perplexity:.2f}"
    return [format_size(model.size_bytes), valid, test]


def _paragraphs(found: Headline) -> list[str]:
    """What is left behind and what remains, a line a row of the literature; nothing without any."""
    several, lines = len(found.studies) > 1, []
    if found.passed:
        lines += ["", "Left behind, by size and test perplexity:", ""]
    for one in found.passed:
        size, _, test = _numbers(one.by)
        study = f" ({one.by.study})" if several else ""
        lines.append(f"- {_said(one.row)}: {test} at {size}{study}")
    if found.remaining:
        lines += ["", "What remains:", ""]
    return [*lines, *(f"- {_said(row)}" for row in found.remaining)]


def _said(row: LiteraturePoint) -> str:
    size = format_size(row.size_bytes)
    return f"{row.name}, {row.source}: {row.test_perplexity:.2f} at {size}"
