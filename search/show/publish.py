"""Write all that a study has to show into one folder."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from lmcore.bundle import load
from lmcore.corpus import Corpus, CorpusSettings
from lmcore.evaluation import score
from lmcore.files import sha256_of, write_atomic, write_json
from lmcore.methods import where
from search.bench.dense import DenseCheckpoint
from search.config import DENSE_BASELINE, SPEED, StudyConfig
from search.describe import command_line
from search.front import Point, front_of
from search.show.export import COLUMNS, bundle_of, file_of
from search.space.space import OWN
from search.study.context import StudyContext
from search.study.history import History, write_history
from search.study.published import RECORDS
from search.study.results import Results, write_records

BITS, RELATIVE = "test_bits_per_byte", "relative_speed"


def publish(context: StudyContext[StudyConfig], history: History, folder: Path) -> None:
    """Write what a stranger needs to look at a study, take its models and replay its numbers:

    - dense.lmb and dense.json, and dense_NAME.* for each other dense model, unless a study beside
      this one has the same dense model;
    - trials.jsonl: the recipe and the measurement of every file;
    - history.jsonl, repeats.jsonl, study.json: every trial, the files of other seeds, and what the
      study was begun with;
    - bundles/NAME.lmb: the front, and the baselines that no measured model dominates;
    - results.csv: a row for each point of the front and each baseline, with the test perplexity of
      its file and the command that gives it.
    """
    config, corpus, results = context.config, context.corpus, history.results
    kept_dense = _publish_dense(context, folder)
    earlier, bundles = _published_files(folder), folder / "bundles"
    columns = _columns(corpus, results)
    known = _published_rows(folder, earlier, columns)
    points = [*results.beside, *results.front.points]
    best = (*results.front.points, *front_of(context.name, points).points)
    rows, kept = [], {point.name: bundles / file_of(point.name) for point in best}
    kept |= kept_dense
    for point in points:
        measured, bundle = results.measured(point.name), kept.get(point.name)
        row = known.get((point.name, measured.sha256))
        if bundle or not row:
            path, measured = bundle_of(context, point.name, measured)
            row = known.get((point.name, measured.sha256)) or _row(point, path, corpus)
        command = command_line("export", context.name, _typed(point), "to=DIR")
        if bundle:
            settings = " ".join(_overrides(config.corpus))
            command = f"lmpareto evaluate bundle={bundle} {settings} split=test"
            if point.name not in kept_dense:
                write_atomic(bundle, path.read_bytes())
        rows.append({**row, "command": command})
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / "results.csv", text.getvalue().encode())
    write_history(history, context.attributes, folder)
    write_records(results, folder / RECORDS)  # last: it says which files the lines are of
    ours = {bundles / file_of(name) for name in earlier}
    for old in ours.intersection(bundles.glob("*.lmb")) - set(kept.values()):
        old.unlink()


def _columns(corpus: Corpus, results: Results) -> tuple[str, ...]:
    """The columns of results.csv, with bits per byte where the tokens spell the text, and with the
    relative speed where that is an objective."""
    *columns, command = COLUMNS
    bits = (BITS,) if corpus.spellings else ()
    speed = (RELATIVE,) if SPEED in results.objectives else ()
    return (*columns, *bits, *speed, command)


def _overrides(corpus: CorpusSettings) -> list[str]:
    """The settings of a corpus as a person types them: its kind, and all that differ from their
    defaults."""
    settings = corpus.model_dump(exclude_defaults=True)
    own = [shlex.quote(f"corpus.{name}={value}") for name, value in settings.items()]
    return [f"corpus={corpus.kind}", *own]


def _typed(point: Point) -> str:
    """The settings by which a command takes the point."""
    if point.of_best:
        return f"trial={point.name}"
    return f"trial={point.trial} rung={point.rung}"


def _row(point: Point, path: Path, corpus: Corpus) -> dict[str, str]:
    """The point's row in results.csv. The test perplexity is computed here, from the file."""
    test = score(load(path).model, corpus.test, corpus.vocabulary.eos)
    bits, speed = corpus.bits_per_byte("test", test.perplexity), point.relative_speed
    return {
        "name": point.name,
        "trial": "" if point.trial is None else str(point.trial),
        "rung": "" if point.rung is None else str(point.rung),
        "method": point.method,
        "site": where(point.recipe or {}),
        "size_bytes": str(point.size_bytes),
        "valid_perplexity": f"{point.valid_perplexity:.3f}",
        "test_perplexity": f"{test.perplexity:.3f}",
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
        text = (folder / "results.csv").read_text()
    except (OSError, ValueError):
        return {}
    return {
        (line["name"], files[line["name"]]): line
        for line in csv.DictReader(io.StringIO(text))
        if set(line) == set(columns) and None not in line.values() and line["name"] in files
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
