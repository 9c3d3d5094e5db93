"""Take a model home: its bundle, its recipe, its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcore.bundle import load
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.files import write_atomic, write_json
from lmcore.recipe import Recipe
from lmcore.settings import parse
from search.config import StudyConfig
from search.dense import find_dense
from search.front import Point
from search.store import Store
from search.terminal import training_bar
from search.trial import Workbench


def export(
    config: StudyConfig, corpus: Corpus, store: Store, point: Point, folder: Path
) -> dict[str, Any]:
    """Write model.lmb, recipe.json and measurement.json into `folder`; the measurement.

    The test perplexity is computed here, once, from the exported file. A bundle that was deleted
    from the cache is made again from its recipe.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"to: {folder} is a file; it takes a folder")
    recipe = parse(Recipe, point.recipe or {}, "recipe")
    bench = workbench(config, corpus)
    key = bench.key(recipe)
    source = bench.path(key)
    if not source.exists():
        with training_bar(f"making {point.label} again") as observe:
            bench.measure(recipe, observe)
    path = folder / "model.lmb"
    write_atomic(path, source.read_bytes())
    write_json(folder / "recipe.json", recipe.plain())
    bundle = load(path)
    measured = store.measurement(key)
    test = score(bundle.model, corpus.test, corpus.vocabulary.eos)
    document = {
        "study": config.study,
        "trial": point.trial,
        "name": point.name,
        "bundle": str(path),
        "size_bytes": bundle.size_bytes,
        "valid_perplexity": point.valid_perplexity,
        "test_perplexity": test.perplexity,
        "tokens_per_second": test.tokens_per_second,
        "sha256": bundle.sha256,
        "provenance": measured.provenance if measured else {},
    }
    write_json(folder / "measurement.json", {**document, "bundle": path.name})
    return document


def workbench(config: StudyConfig, corpus: Corpus) -> Workbench:
    """The workbench of a study's dense checkpoint; UserError where that was not trained yet."""
    dense = find_dense(config, corpus)
    if dense is None:
        raise UserError(
            f"the dense model of {config.study} is not at hand; "
            f"lmpareto train study={config.study} trains it"
        )
    bundles = config.folder / "bundles"
    return Workbench(corpus, dense.load(), config.seed, bundles, config.device)
