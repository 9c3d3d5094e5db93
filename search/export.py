"""Take models home: one with its recipe and measurements, or all that a study has to show."""

from __future__ import annotations

import csv
import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from lmcore.bundle import Bundle, load
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.files import write_atomic, write_json
from lmcore.recipe import Recipe
from lmcore.settings import parse
from search.config import StudyConfig
from search.dense import DenseCheckpoint, need_dense
from search.front import Point, front_of
from search.methods import where
from search.results import PUBLISHED, RECORDS, Results, write_records
from search.study import DENSE_BASELINE
from search.terminal import training_bar
from search.trial import Measurement, Workbench

COLUMNS = (
    *("name", "trial", "method", "site", "size_bytes", "valid_perplexity", "test_perplexity"),
    *("tokens_per_second", "command"),
)


def export(
    config: StudyConfig, corpus: Corpus, name: str, measured: Measurement, folder: Path
) -> dict[str, Any]:
    """Write model.lmb, recipe.json and measurement.json into `folder`; the measurement.

    The test perplexity is computed here, once, from the exported file. A bundle that is not in
    the cache (any more) is made again from its recipe.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"to: {folder} is a file; it takes a folder")
    source, measured = _bundle(config, corpus, name, measured)
    check_words(load(source), corpus, f"{name} of {config.study}")
    path = folder / "model.lmb"
    write_atomic(path, source.read_bytes())
    write_json(folder / "recipe.json", measured.recipe)
    bundle = load(path)
    test = score(bundle.model, corpus.test, corpus.vocabulary.eos)
    document = {
        "study": config.study,
        "trial": int(name) if name.isdigit() else None,
        "name": name,
        "bundle": path.name,
        "size_bytes": bundle.size_bytes,
        "valid_perplexity": measured.valid_perplexity,
        "test_perplexity": test.perplexity,
        "tokens_per_second": test.tokens_per_second,
        "sha256": bundle.sha256,
        "provenance": measured.provenance,
    }
    write_json(folder / "measurement.json", document)
    return {**document, "bundle": str(path)}


def check_words(bundle: Bundle, corpus: Corpus, name: str) -> None:
    """Raises UserError where the bundle's words are not the corpus's."""
    if bundle.vocabulary.words != corpus.vocabulary.words:
        raise UserError(
            f"{name} has a vocabulary of {len(bundle.vocabulary):,} words, corpus {corpus.name} "
            f"another of {len(corpus.vocabulary):,}: it was trained on another text"
        )


def publish(config: StudyConfig, corpus: Corpus, results: Results, folder: Path) -> list[Path]:
    """Write what a stranger needs to look at a study, take its models and replay its numbers.

    dense.lmb and dense.json (unless a study beside this one has the same), trials.jsonl (every
    recipe and measurement), bundles/N.lmb of the front and of the baselines that nothing measured
    dominates, and results.csv: a row for each of the front and for each baseline, with the test
    perplexity of its file and the command that gives it. Returns the files.
    """
    dense = need_dense(config, corpus)
    kept_dense = _published_dense(dense, folder)
    if kept_dense.parent == folder:
        write_atomic(kept_dense, dense.path.read_bytes())
        write_json(kept_dense.with_suffix(".json"), dense.record)
    known, bundles = _published_rows(folder), folder / "bundles"
    points = [*results.beside, *results.front.points]
    best = (*results.front.points, *front_of(config.study, points).points)
    rows, kept = [], {point.name: bundles / f"{point.name}.lmb" for point in best}
    kept[DENSE_BASELINE] = kept_dense
    for point in points:
        measured, bundle = results.measured(point.name), kept.get(point.name)
        row = known.get((point.name, measured.sha256))
        if bundle or not row:
            path, measured = _bundle(config, corpus, point.name, measured)
            row = known.get((point.name, measured.sha256)) or _row(point, path, corpus)
        command = f"lmpareto export study={config.study} trial={point.name} to=DIR"
        if bundle:
            command = f"lmpareto evaluate bundle={bundle} corpus={corpus.name} split=test"
            if bundle != kept_dense:
                write_atomic(bundle, path.read_bytes())
        rows.append({**row, "command": command})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / "results.csv", text.getvalue().encode())
    write_records(results, folder / RECORDS)  # last: it says which files the lines are of
    for old in set(bundles.glob("*.lmb")) - set(kept.values()):
        old.unlink()
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _row(point: Point, path: Path, corpus: Corpus) -> dict[str, str]:
    """The point's line in results.csv; its test perplexity is computed here, from the file."""
    test = score(load(path).model, corpus.test, corpus.vocabulary.eos)
    return {
        "name": point.name,
        "trial": "" if point.trial is None else str(point.trial),
        "method": point.method,
        "site": where(parse(Recipe, point.recipe or {}, "recipe")),
        "size_bytes": str(point.size_bytes),
        "valid_perplexity": f"{point.valid_perplexity:.3f}",
        "test_perplexity": f"{test.perplexity:.3f}",
        "tokens_per_second": f"{test.tokens_per_second:.0f}",
    }


def _published_rows(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The lines of an earlier results.csv in the folder, by name and the file's SHA-256: the same
    file has the same test perplexity."""
    if not ((folder / RECORDS).exists() and (folder / "results.csv").exists()):
        return {}
    records = map(json.loads, (folder / RECORDS).read_text().splitlines())
    files = {record["name"]: record["sha256"] for record in records}
    lines = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    return {
        (line["name"], files[line["name"]]): line
        for line in lines
        if line["name"] in files and set(line) == set(COLUMNS)
    }


def workbench(config: StudyConfig, corpus: Corpus) -> Workbench:
    """The workbench of a study's dense checkpoint; UserError where that was not trained yet."""
    dense = need_dense(config, corpus).load()
    return Workbench.of(config, corpus, dense)


def stored_recipe(bench: Workbench, name: str, measured: Measurement) -> Recipe:
    """The recipe of a measurement; UserError where the bench is not the one it was made on."""
    recipe = parse(Recipe, measured.recipe, "recipe")
    if bench.key(recipe) != measured.key:
        raise UserError(
            f"trial {name} was measured on another dense model, corpus or seed than the settings "
            f"of this study give now"
        )
    return recipe


def _published_dense(dense: DenseCheckpoint, folder: Path) -> Path:
    """Where the dense model is published: with another study beside this one, or here."""
    for record in sorted(folder.parent.glob("*/dense.json")):
        same = json.loads(record.read_text()).get("key") == dense.record["key"]
        if same and record.parent != folder and record.with_suffix(".lmb").exists():
            return record.with_suffix(".lmb")
    return folder / "dense.lmb"


def _bundle(
    config: StudyConfig, corpus: Corpus, name: str, measured: Measurement
) -> tuple[Path, Measurement]:
    """The file of a measurement, from the cache or the published study, else made again.

    With it the measurement of that very file: another machine may make a slightly other one.
    """
    path = config.folder / "bundles" / f"{measured.key}.lmb"
    published = PUBLISHED / config.study
    for known in (path, published / "bundles" / f"{name}.lmb", published / "dense.lmb"):
        if known.exists() and sha256(known.read_bytes()).hexdigest() == measured.sha256:
            return known, measured
    bench = workbench(config, corpus)
    recipe = stored_recipe(bench, name, measured)
    with training_bar(f"making {name} again") as observe:
        return path, bench.measure(recipe, observe)
