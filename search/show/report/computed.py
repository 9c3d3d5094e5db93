"""A report, computed of the histories of its studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmcore.spelling import Spelling
from search.config import DENSE_BASELINE
from search.describe import command_line
from search.front import Point
from search.show.literature import literature_points
from search.show.report.bits import in_bits, spelling_of
from search.show.report.columns import (
    epochs_of,
    file_columns,
    number,
    parameter_columns,
    trial_columns,
)
from search.show.report.course import course_of
from search.show.report.mattered import importance
from search.show.report.origin import origin_of
from search.show.report.record import FrontPoint, Mark, Report, StudyReport, Sureness
from search.show.report.sentence import sentence_of, together
from search.show.report.stored import Files, sites_of
from search.show.report.words import Phrasebook
from search.study.history import History
from search.study.sureness import Sure, bands_of, sureness_of
from search.units import format_size


@dataclass(frozen=True)
class Source:
    """What a report of a study is computed of.

    `bundles` is the cache's folder of bundles, which may not exist; `published` is the folder of
    the published study, None where there is none. `attributes` are those of the study.
    """

    history: History
    bundles: Path
    published: Path | None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def report_of(sources: Sequence[Source], watching: bool = False) -> Report:
    """The report of some studies, of at least one."""
    spellings = [spelling_of(source.history) for source in sources]
    bits = all(spellings)
    studies = [study_report(source, bits) for source in sources]
    if bits:  # vocabularies do not matter then, but texts do
        corpora = len({one.size_bytes for one in spellings if one})
    else:
        corpora = len({str(one.provenance["corpus"]) for one in studies})
    names = [one.name for one in studies]
    title = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    sentence = together([(one.name, one.sentence) for one in studies], corpora, bits)
    return Report(title, sentence, studies, watching)


def study_report(source: Source, bits: bool = True) -> StudyReport:
    """The report of one study: in bits per byte where its tokens spell the text and `bits` is set,
    else in perplexities."""
    measured = source.history
    spelling = spelling_of(measured) if bits else None
    if spelling:
        source = replace(source, history=in_bits(measured, spelling))
    history = source.history
    results, book = history.results, Phrasebook()
    files = Files(results, source.bundles, source.published)
    sentence, notes = sentence_of(measured, files.dense_size)
    if spelling:
        notes.append(_said_of(spelling))
    front = results.front
    sure = {name: _sure(one) for name, one in sureness_of(history).items()}
    points, all_read = [], True
    for point in front.points:
        made, read = _front_point(point, source, files, book)
        label = ", ".join([point.label, *results.limits.get(point.name, ())])
        made = replace(made, label=label, sure=sure.get(point.name))
        points.append(made)
        all_read = all_read and read
    if points and not all_read:
        notes.append(
            "The bytes of sites are packed sizes, which entropy coding makes smaller, where the "
            "file of a point is not at hand."
        )
    origin = origin_of(history, source.attributes, results.corpus)
    return StudyReport(
        name=results.study,
        corpus=results.corpus,
        unit="bits per byte" if spelling else results.measure.head,
        sentence=sentence,
        objectives=list(results.objectives),
        front=points,
        knee=measured.results.front.knee().name if front.points else None,
        marks=_marks(source),
        predicted=[(number(float(size)), number(high)) for size, high in results.predicted],
        trials=trial_columns(history, book),
        files=file_columns(history),
        parameters=parameter_columns(history),
        recipes=book.templates,
        bands=dict(bands_of(history)),
        importance=importance(history),
        course=course_of(measured),
        provenance=origin,
        notes=[*notes, *_lacking(history)],
    )


def _said_of(spelling: Spelling) -> str:
    return (
        f"Perplexities are shown as bits per byte, which do not depend on the vocabulary: a "
        f"perplexity of 100 a token is {spelling.bits_per_byte(100.0):.3f}. Sentences and the "
        f"hypervolume are of perplexities."
    )


def _front_point(
    point: Point, source: Source, files: Files, book: Phrasebook
) -> tuple[FrontPoint, bool]:
    """The point, and whether the bytes of its sites are those of its file."""
    history = source.history
    measured = history.results.measured(point.name)
    sites, read = sites_of(point.name, measured, files)
    dense = files.dense_bytes
    return FrontPoint(
        name=point.name,
        label=point.label,
        size_bytes=point.size_bytes,
        perplexity=number(point.valid_measure),
        ratio=round(dense / point.size_bytes, 2) if dense else None,
        epochs=number(epochs_of(measured.recipe)),
        tokens_per_second=number(point.tokens_per_second),
        relative_speed=number(point.relative_speed),
        recipe=book.lines(measured.recipe),
        sites=sites,
        export=export_command(history.results.study, point),
    ), read


def _sure(one: Sure) -> Sureness:
    (mean, spread), (size, size_spread) = one.perplexity, one.size_bytes
    return Sureness(
        seeds=one.seeds,
        perplexity=(number(mean), number(spread)),
        size_bytes=(number(size), number(size_spread)),
        on_front=number(one.on_front),
    )


def export_command(study: str, point: Point) -> str:
    """The command that exports a point, as it is typed in a shell."""
    chosen = f"trial={point.name}" if point.of_best else f"trial={point.trial} rung={point.rung}"
    folder = point.name.replace(" ", "_")
    return command_line("export", study, chosen, f"to=model_{folder}")


def _marks(source: Source) -> list[Mark]:
    """The baselines that can be drawn, then the literature on the corpus."""
    results = source.history.results
    book = Phrasebook()
    marks = [
        Mark(
            label=point.label,
            size_bytes=point.size_bytes,
            perplexity=number(point.valid_measure),
            text="\n".join(book.lines(point.recipe or {})),
        )
        for point in results.beside
        if point.measured
    ]
    for one in literature_points(results.corpus):
        valid = "" if one.valid_measure is None else f", {one.valid_measure:.2f} (valid)"
        lines = [
            f"{one.name}, {one.source} ({one.source_type})",
            f"perplexity {one.test_perplexity:.2f} (test){valid}, size as published",
            f"{one.method} on {one.base}",
            *([one.note] if one.note else []),
        ]
        label = one.label or one.name
        text = "\n".join(lines)
        marks.append(Mark(label, one.size_bytes, one.test_perplexity, one.source, text))
    return marks


def _lacking(history: History) -> list[str]:
    """What a study does not have, as one of an earlier version or of another program."""
    trials, found = history.trials, []
    measured = [one for one in trials if one.number in history.results.trials]
    if measured and not any(one.parameters for one in measured):
        found.append(
            "The parameters of the trials are not known, so nothing is said of what mattered."
        )
    if measured and not any(one.measured_at for one in measured):
        found.append(
            "It is not known when the files were measured: the course goes by the trials' numbers."
        )
    if measured and all(one.started is None for one in measured):
        found.append("Of the trials' time, only that of fine-tuning is known.")
    if not history.settings:
        found.append("The settings of the study were not kept with it.")
    results = history.results
    box = results.box
    if box:
        found.append(
            f"The hypervolume is that of the box which was searched: "
            f"{format_size(round(box.min_size_bytes))} to {format_size(round(box.max_size_bytes))} "
            f"and {results.measure.name} up to {results.measure.number(box.max_perplexity, 1)}."
        )
    elif DENSE_BASELINE not in history.results.baselines and measured:
        found.append(
            f"The hypervolume refers to the largest file and twice the lowest "
            f"{results.measure.name}."
        )
    unmeasured = [one for one in measured if not _drawn(history, one.number)]
    if unmeasured:
        are = "trial has" if len(unmeasured) == 1 else "trials have"
        found.append(f"{len(unmeasured)} {are} no number as {results.measure.name}; not drawn.")
    return found


def _drawn(history: History, trial: int) -> bool:
    one = history.results.trials[trial]
    return number(float(one.valid_measure)) is not None
