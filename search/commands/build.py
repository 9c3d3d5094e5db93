"""An exported model once more, from its recipe."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lmcore.bundle import Bundle, load
from lmcore.errors import UserError
from lmcore.files import check_folder
from search.bench.recipe_file import RecipeFile, find_file, read_recipe
from search.bench.workbench import Workbench
from search.commands.answer import Answer, tell_corpus
from search.commands.export import exported_text
from search.config import BuildConfig
from search.measurement import Measurement
from search.show.folder import Exported, Forms, take_home
from search.study.context import StudyContext
from search.terminal import training_bar

Config = BuildConfig


def run(config: BuildConfig) -> Answer:
    recipe = read_recipe(Path(config.recipe))
    check_folder(Path(config.to))
    context = StudyContext(config.model_copy(update={"name": None}))
    tell_corpus(context)
    if context.corpus.key != recipe.text:
        raise UserError(
            f"{config.recipe} was made on another text or vocabulary than the corpus has now; "
            f"give its text: corpus.file=FILE, or corpus.dir=FOLDER for Penn Treebank"
        )
    dense, again = _dense(context, recipe)
    with tempfile.TemporaryDirectory(prefix="lmpareto-build-") as folder:
        bench = Workbench.of(context.config, context.corpus, dense)
        bench.folder = Path(folder)
        with training_bar(f"building {recipe.name} of {recipe.study}") as observe:
            measured = bench.measure(recipe.compression, observe)
        exported = Exported(
            bench.path(measured.key),
            recipe,
            context.corpus,
            measured.valid_measure,
            provenance=measured.provenance,
        )
        document = take_home(exported, Path(config.to), Forms(config.onnx, config.safetensors))
    said = difference(recipe, measured, again)
    document["same"] = measured.sha256 == recipe.result.sha256
    return Answer(document, f"{exported_text(recipe.name, document)}\n{said}")


def _dense(context: StudyContext[BuildConfig], recipe: RecipeFile) -> tuple[Bundle, bool]:
    """The dense model that the recipe names: given, found, or trained anew; whether the last.

    Raises UserError where a file is given that is another model.
    """
    wanted, given = recipe.dense.sha256, context.config.dense
    if given is not None:
        bundle = load(Path(given))
        if bundle.sha256 != wanted:
            raise UserError(
                f"dense: {given} is not the dense model of the recipe: its SHA-256 is "
                f"{bundle.sha256}, not {wanted}; without dense= the model is looked for, and "
                f"trained anew where it is nowhere"
            )
        return bundle, False
    if found := find_file(context.config, wanted):
        print(f"the dense model is {found}", file=sys.stderr)
        return load(found), False
    print("the dense model is not at hand; it is trained anew", file=sys.stderr)
    trained = context.checkpoint().load()
    return trained, trained.sha256 != wanted


def difference(recipe: RecipeFile, measured: Measurement, other_dense: bool) -> str:
    """Whether the file is the same, and if not, by how much it differs and why that may be."""
    before = recipe.result
    if measured.sha256 == before.sha256:
        return "the file is the same to the byte"
    made = measured.provenance
    reasons = [
        f"another {name}"
        for name in ("code", "torch", "processor")
        if getattr(before, name) != made.get(name)
    ]
    reasons += ["a dense model trained anew, which came out another"] if other_dense else []
    name = recipe.corpus.task.measure.name
    worse = measured.valid_measure - before.valid_measure
    return (
        f"the file differs: {measured.size_bytes - before.size_bytes:+,} bytes, valid "
        f"{name} {worse:+.4f}; "
        f"it was made with {' and '.join(reasons) or 'the same code, torch and processor'}"
    )
