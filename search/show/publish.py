"""Write all that a study has to show into one folder."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lmcore.bundle import load
from lmcore.data import CorpusSettings, Data
from lmcore.errors import UserError
from lmcore.files import sha256_of, write_atomic, write_json
from lmcore.methods import where
from lmcore.task import LANGUAGE, Measure
from search.bench.dense import DenseCheckpoint
from search.config import DENSE_BASELINE, SPEED, StudyConfig
from search.describe import command_line
from search.front import Point
from search.show.export import bundle_of, columns_of, file_of
from search.show.headline import (
    RESULTS,
    TABLE,
    Headline,
    headline,
    headline_markdown,
    tested_in,
)
from search.show.literature import literature_points
from search.show.report.stored import Files, write_sites
from search.space.space import OWN
from search.study.context import StudyContext
from search.study.history import History, write_history
from search.study.published import RECORDS, bundles_in
from search.study.results import Results, write_records

BITS, RELATIVE = "test_bits_per_byte", "relative_speed"
LIMITED = "limits"  # the names for limits that a file is the best of


def publish(context: StudyContext[StudyConfig], history: History, folder: Path) -> Headline | None:
    """Write what a stranger needs to look at a study, take its models and replay its numbers:

    - dense.lmb and dense.json, and dense_NAME.* for each other dense model, unless a study beside
      this one has the same dense model;
    - trials.jsonl: the recipe and the measurement of every file;
    - history.jsonl, repeats.jsonl, study.json: every trial, the files of other seeds, and what the
      study was begun with;
    - bundles/NAME.lmb: the front, and the baselines that no measured model dominates; where the
      study has names for limits, only the models of these, by these names;
    - sites.json: how many bytes each site has in the files of the front and of the baselines;
    - results.csv: a row for each point of the front and each baseline, with the test perplexity of
      its file and the command that gives it;
    - table.md: the models of the limits, and the literature that they leave behind.

    Returns the table, None where the study has no names for limits. Raises UserError where no model
    is within one of the limits, before anything is written.
    """
    config, corpus, results = context.config, context.corpus, history.results
    bundles = folder / "bundles"
    kept = _bundles(results, bundles, (DENSE_BASELINE, *config.models))
    earlier, limits_before = _published_files(folder), _published_limits(folder)
    ours = {bundles / file_of(name) for name in (*earlier, *limits_before)}
    kept_dense = _publish_dense(context, folder)
    columns = _columns(corpus, results)
    known = _published_rows(folder, earlier, columns)
    rows = []
    for point in [*results.beside, *results.front.points]:
        measured, files = results.measured(point.name), kept.get(point.name, [])
        row = known.get((point.name, measured.sha256))
        if files or point.name in kept_dense or not row:
            path, measured = bundle_of(context, point.name, measured)
            row = known.get((point.name, measured.sha256)) or _row(
                point, path, corpus, results.measure
            )
        for file in files:
            write_atomic(file, path.read_bytes())
        command = command_line("export", context.name, _typed(point), "to=DIR")
        if shown := files[0] if files else kept_dense.get(point.name):
            settings = " ".join(_overrides(config.corpus))
            command = f"lmpareto evaluate bundle={shown} {settings} split=test"
        limits = {LIMITED: " ".join(results.limits.get(point.name, ()))} if results.bundles else {}
        rows.append({**row, **limits, "command": command})
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / RESULTS, text.getvalue().encode())
    table = _write_table(results, rows, folder)
    files_of_sites = Files(results, config.folder / "bundles", folder)
    write_sites(files_of_sites, [row["name"] for row in rows], folder)
    write_history(history, context.attributes, folder)
    write_records(results, folder / RECORDS)  # last: it says which files the lines are of
    new = {file for files in kept.values() for file in files}
    for old in ours.intersection(bundles.glob("*.lmb")) - new:
        old.unlink()
    if limits_before and table is None:
        (folder / TABLE).unlink(missing_ok=True)
    return table


def _write_table(
    results: Results, rows: Iterable[Mapping[str, str]], folder: Path
) -> Headline | None:
    """Write table.md, if there are limits for it."""
    if not results.bundles:
        return None
    measure = results.measure
    models = tested_in(results.study, rows, measure)
    found = headline(models, results.bundles, literature_points(results.corpus), measure)
    write_atomic(folder / TABLE, headline_markdown(found).encode())
    return found


def _bundles(results: Results, folder: Path, dense: Collection[str]) -> dict[str, list[Path]]:
    """Name of a point -> the files in bundles/ to publish it as. The dense models have files of
    their own beside, or in the folder of another study. Raises UserError where no model is within
    one of the limits."""
    if not results.bundles:
        best = {point.name for point in (*results.front.points, *results.best.points)}
        return {name: [folder / file_of(name)] for name in best - {*dense}}
    found: dict[str, list[Path]] = {}
    for bundle in results.bundles:
        if (name := results.within(bundle).name) not in dense:
            found.setdefault(name, []).append(folder / file_of(bundle))
    return found


def _published_limits(folder: Path) -> dict[str, int]:
    """The names for limits that the folder was published with before; none where they are
    damaged."""
    try:
        return bundles_in(folder)
    except UserError:
        return {}


def _columns(corpus: Data, results: Results) -> tuple[str, ...]:
    """The columns of results.csv, with bits per byte where the tokens spell the text, with the
    relative speed where that is an objective, and with the names for limits where there are any."""
    *columns, command = columns_of(results.measure)
    bits = (BITS,) if corpus.spelling("test") else ()
    speed = (RELATIVE,) if SPEED in results.objectives else ()
    limits = (LIMITED,) if results.bundles else ()
    return (*columns, *bits, *speed, *limits, command)


def _overrides(corpus: CorpusSettings) -> list[str]:
    """The settings of a corpus as a person types them: its kind, or the task that brings it, and
    all that differ from their defaults."""
    settings = corpus.model_dump(exclude_defaults=True)
    own = [shlex.quote(f"corpus.{name}={value}") for name, value in settings.items()]
    brought = f"corpus={corpus.kind}" if corpus.task == LANGUAGE else f"task={corpus.task.name}"
    return [brought, *own]


def _typed(point: Point) -> str:
    """The settings by which a command takes the point."""
    if point.of_best:
        return f"trial={point.name}"
    return f"trial={point.trial} rung={point.rung}"


def _row(point: Point, path: Path, corpus: Data, measure: Measure) -> dict[str, str]:
    """The point's row in results.csv. Its value on the test split is computed here, from the
    file."""
    test = load(path).model.score(corpus, "test")
    bits, speed = corpus.bits_per_byte("test", test.value), point.relative_speed
    return {
        "name": point.name,
        "trial": "" if point.trial is None else str(point.trial),
        "rung": "" if point.rung is None else str(point.rung),
        "method": point.method,
        "site": where(point.recipe or {}),
        "size_bytes": str(point.size_bytes),
        measure.key("valid"): f"{point.valid_measure:.3f}",
        measure.key("test"): f"{test.value:.3f}",
        **({} if bits is None else {BITS: f"{bits:.4f}"}),
        "tokens_per_second": f"{test.tokens_per_second:.0f}",
        **({} if speed is None else {RELATIVE: f"{speed:.2f}"}),
    }


def _published_files(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files that were published into the folder before. None of them where
    their records are damaged."""
    try:
        records = [json.loads(line) for line in (folder / RECORDS).read_bytes().splitlines()]
        return {str(record["name"]): str(record["sha256"]) for record in records}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _published_rows(
    folder: Path, files: Mapping[str, str], columns: Collection[str]
) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of an earlier results.csv in the folder, by name and the file's SHA-256. The same
    file has the same test perplexity, so that need not be computed again."""
    try:
        text = (folder / RESULTS).read_text()
    except (OSError, ValueError):
        return {}
    lines = [{LIMITED: "", **line} for line in csv.DictReader(io.StringIO(text))]
    wanted = {LIMITED, *columns}
    return {
        (line["name"], files[line["name"]]): {name: line[name] for name in columns}
        for line in lines
        if set(line) == wanted and None not in line.values() and line["name"] in files
    }


def _publish_dense(context: StudyContext[StudyConfig], folder: Path) -> dict[str, Path]:
    """Write each dense model that is not published yet. Returns the file of each, by the name under
    which the dense model was measured."""
    kept = {}
    for name in context.config.dense_names:
        checkpoint = context.need_checkpoint(name)
        measured = DENSE_BASELINE if name == OWN else name
        stem = DENSE_BASELINE if name == OWN else f"{DENSE_BASELINE}_{name}"
        kept[measured] = _published_dense(checkpoint, folder / f"{stem}.lmb")
        if kept[measured].parent == folder:
            write_atomic(kept[measured], checkpoint.path.read_bytes())
            write_json(kept[measured].with_suffix(".json"), checkpoint.record)
    return kept


def _published_dense(checkpoint: DenseCheckpoint, path: Path) -> Path:
    """The published file of a dense model: that of another study beside this one, else `path`."""
    for other in sorted(path.parent.parent.glob("*/dense*.lmb")):
        if other.parent != path.parent and sha256_of(other) == checkpoint.sha256:
            return other
    return path
