"""Take one model home, with its recipe and its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcore.bundle import Bundle, load
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.files import finite, sha256_of, write_atomic, write_json
from search.bench.workbench import stored_recipe
from search.config import PUBLISHED, StudyConfig
from search.front import Point
from search.measurement import Measurement
from search.show.tables import bits_in
from search.study.context import StudyContext
from search.terminal import training_bar

COLUMNS = (
    *("name", "trial", "rung", "method", "site", "size_bytes"),
    *("valid_perplexity", "test_perplexity", "tokens_per_second", "command"),
)


def export(
    context: StudyContext[StudyConfig], point: Point, measured: Measurement, folder: Path
) -> dict[str, Any]:
    """Write model.lmb, recipe.json and measurement.json into `folder`. Returns the document of the
    measurement.

    The test perplexity is computed here, once, from the exported file. If the bundle is not in the
    cache, it is made again from its recipe. Raises UserError where the model was trained on another
    text.
    """
    corpus = context.corpus
    source, measured = bundle_of(context, point.name, measured)
    check_words(load(source), corpus, f"{point.label} of {context.name}")
    path = folder / "model.lmb"
    write_atomic(path, source.read_bytes())
    write_json(folder / "recipe.json", measured.recipe)
    bundle = load(path)
    test = score(bundle.model, corpus.test, corpus.vocabulary.eos)
    document = {
        "study": context.name,
        "trial": point.trial,
        "rung": point.rung,
        "name": point.name,
        "bundle": path.name,
        "size_bytes": bundle.size_bytes,
        "valid_perplexity": measured.valid_perplexity,
        "test_perplexity": test.perplexity,
        **bits_in("valid_bits_per_byte", measured.bits_per_byte),
        **bits_in("test_bits_per_byte", corpus.bits_per_byte("test", test.perplexity)),
        "tokens_per_second": test.tokens_per_second,
        "sha256": bundle.sha256,
        "provenance": measured.provenance,
    }
    write_json(folder / "measurement.json", finite(document))
    return {**document, "bundle": str(path)}


def file_of(name: str) -> str:
    """The name of a published bundle: "17.lmb", "17_rung_0.lmb", "control.lmb"."""
    return f"{name.replace(' ', '_')}.lmb"


def check_words(bundle: Bundle, corpus: Corpus, name: str) -> None:
    """Raises UserError where the bundle and the corpus have different vocabularies."""
    own, other = bundle.vocabulary, corpus.vocabulary
    if not own.is_same(other):
        raise UserError(
            f"{name} has a vocabulary of {len(own):,} {own.noun}, corpus {corpus.name} "
            f"another of {len(other):,} {other.noun}: it was trained on another text; give that "
            f"text by the study (study=NAME) or by its file (corpus=text corpus.file=FILE)"
        )


def bundle_of(
    context: StudyContext[StudyConfig], name: str, measured: Measurement
) -> tuple[Path, Measurement]:
    """The file of a measurement, from the cache or the published study, else made again.

    Also returns the measurement of that very file. It may differ slightly from `measured` where the
    file is made again on another machine.
    """
    path = context.config.folder / "bundles" / f"{measured.key}.lmb"
    published = PUBLISHED / context.name
    dense_files = sorted(published.glob("dense*.lmb"))
    for known in (path, published / "bundles" / file_of(name), *dense_files):
        if known.exists() and sha256_of(known) == measured.sha256:
            return known, measured
    bench = context.bench_of(measured)
    recipe = stored_recipe(bench, name, measured)
    with training_bar(f"making {name} again") as observe:
        return path, bench.measure(recipe, observe)
