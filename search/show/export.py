"""Take one model home, with its recipe and its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcore.bundle import Bundle, load
from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.files import sha256_of
from lmcore.task import LANGUAGE, Measure, Task
from search.bench.recipe_file import RecipeFile
from search.bench.workbench import stored_recipe
from search.config import StudyConfig
from search.front import Point
from search.measurement import Measurement
from search.show.folder import Exported, Forms, take_home
from search.study.context import StudyContext
from search.study.published import folder_of
from search.study.sureness import Sure
from search.terminal import training_bar


def columns_of(measure: Measure) -> tuple[str, ...]:
    """The columns of results.csv."""
    return (
        *("name", "trial", "rung", "method", "site", "size_bytes"),
        *(measure.key("valid"), measure.key("test"), "tokens_per_second", "command"),
    )


def export(
    context: StudyContext[StudyConfig],
    point: Point,
    measured: Measurement,
    folder: Path,
    forms: Forms,
    seeds: Sure | None = None,
) -> dict[str, Any]:
    """Write the folder that `take_home` describes. Returns its document.

    If the bundle is not in the cache, it is made again from its recipe. Raises UserError where the
    model was trained on another text.
    """
    source, measured = bundle_of(context, point.name, measured)
    check_words(load(source), context.corpus, f"{point.label} of {context.name}")
    recipe = recipe_of(context, point, measured)
    exported = Exported(
        source,
        recipe,
        context.corpus,
        measured.valid_measure,
        seeds,
        measured.provenance,
    )
    return take_home(exported, folder, forms)


def recipe_of(
    context: StudyContext[StudyConfig], point: Point, measured: Measurement
) -> RecipeFile:
    """All that the file of a measurement is made of."""
    config = context.config.of(context.dense_name(measured))
    made = measured.provenance
    return RecipeFile.model_validate(
        {
            "study": context.name,
            "trial": point.trial,
            "rung": point.rung,
            "name": point.name,
            "result": {
                "sha256": measured.sha256,
                "size_bytes": measured.size_bytes,
                config.corpus.task.measure.key("valid"): measured.valid_measure,
                **{name: str(made.get(name, "")) for name in ("code", "torch", "processor")},
            },
            "recipe": measured.recipe,
            "seed": config.seed,
            "corpus": config.corpus.plain(),
            "text": context.corpus.key,
            "dense": {
                "sha256": made["dense"],
                "model": config.model.plain(),
                "training": config.training.plain(),
            },
        }
    )


def file_of(name: str) -> str:
    """The name of a published bundle: "17.lmb", "17_rung_0.lmb", "control.lmb"."""
    return f"{name.replace(' ', '_')}.lmb"


def check_words(bundle: Bundle, corpus: Data, name: str) -> None:
    """Raises UserError where the bundle and the corpus have different vocabularies, and where the
    network is none of such data."""
    settings = bundle.model.settings
    own, other = bundle.vocabulary, corpus.vocabulary
    if not own.is_same(other):
        raise UserError(
            f"{name} has a vocabulary of {len(own):,} {own.noun}, corpus {corpus.name} "
            f"another of {len(other):,} {other.noun}: it was trained on another text; give that "
            f"text by the study (study=NAME) or by its file ({_by_file(settings.task)})"
        )
    if settings.completed(corpus) != settings:
        raise UserError(f"{name} was trained on data with other labels than {corpus.name} has")


def _by_file(task: Task) -> str:
    """How a person gives a text of their own."""
    if task == LANGUAGE:
        return "corpus=text corpus.file=FILE"
    return f"task={task.name} corpus.train=FILE"


def bundle_of(
    context: StudyContext[StudyConfig], name: str, measured: Measurement
) -> tuple[Path, Measurement]:
    """The file of a measurement, from the cache or the published study, else made again.

    Also returns the measurement of that very file. It may differ slightly from `measured` where the
    file is made again on another machine.
    """
    path = context.config.folder / "bundles" / f"{measured.key}.lmb"
    places = [path]
    if published := folder_of(context.name):
        places += [*sorted(published.glob("bundles/*.lmb")), *sorted(published.glob("dense*.lmb"))]
    for known in places:
        alike = known.exists() and known.stat().st_size == measured.size_bytes
        if alike and sha256_of(known) == measured.sha256:
            return known, measured
    bench = context.bench_of(measured)
    recipe = stored_recipe(bench, name, measured)
    with training_bar(f"making {name} again") as observe:
        return path, bench.measure(recipe, observe)
