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
from search.methods import methods_of, where
from search.results import PUBLISHED, RECORDS, Results, write_records
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

    dense.lmb and dense.json (unless a study beside this one has the same), trials.jsonl (every recipe and measurement), bundles/N.lmb of the
    front, and results.csv: a row for each of the front and for each baseline, with the test
    perplexity of its file and the command that gives it. Returns the files.
    """
    dense = need_dense(config, corpus)
    kept_dense = _published_dense(dense, folder)
    if kept_dense.parent == folder:
        write_atomic(kept_dense, dense.path.read_bytes())
        write_json(kept_dense.with_suffix(".json"), dense.record)
    write_records(results, folder / RECORDS)
    bundles = folder / "bundles"
    for old in bundles.glob("*.lmb"):
        old.unlink()
    rows = []
    for point in (*results.beside, *results.front.points):
        path, measured = _bundle(config, corpus, point.name, results.measured(point.name))
        command = f"lmpareto export study={config.study} trial={point.name} to=DIR"
        if point.trial is not None or point.name == "dense":
            kept = kept_dense if point.trial is None else bundles / f"{point.name}.lmb"
            if kept.parent != kept_dense.parent:
                write_atomic(kept, path.read_bytes())
            command = f"lmpareto evaluate bundle={kept} corpus={corpus.name} split=test"
        test = score(load(path).model, corpus.test, corpus.vocabulary.eos)
        recipe = parse(Recipe, measured.recipe, "recipe")
        rows.append(
            (
                point.name,
                "" if point.trial is None else point.trial,
                "+".join(methods_of(recipe)),
                where(recipe),
                measured.size_bytes,
                f"{measured.valid_perplexity:.3f}",
                f"{test.perplexity:.3f}",
                f"{test.tokens_per_second:.0f}",
                command,
            )
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    write_atomic(folder / "results.csv", text.getvalue().encode())
    return sorted(path for path in folder.rglob("*") if path.is_file())


def workbench(config: StudyConfig, corpus: Corpus) -> Workbench:
    """The workbench of a study's dense checkpoint; UserError where that was not trained yet."""
    dense = need_dense(config, corpus).load()
    return Workbench(corpus, dense, config.seed, config.folder / "bundles", config.device)


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
