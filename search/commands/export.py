"""The chosen model: bundle, recipe, measurements."""

from __future__ import annotations

from pathlib import Path

from lmcore.files import check_folder
from search.commands.answer import Answer, tell_corpus
from search.config import ExportConfig
from search.front import choose
from search.show.export import export
from search.study.context import StudyContext
from search.study.results import results_of
from search.units import format_size

Config = ExportConfig


def run(config: ExportConfig) -> Answer:
    context = StudyContext(config)
    results = results_of(context)
    name = config.trial if isinstance(config.trial, str) else None
    if name is None:
        name = choose(
            results.front,
            max_size_bytes=config.max_size,
            max_perplexity=config.max_perplexity,
            pick=config.pick,
            trial=config.trial if isinstance(config.trial, int) else None,
        ).name
    check_folder(Path(config.to))
    tell_corpus(context)
    document = export(context, name, results.measured(name), Path(config.to))
    return Answer(
        document,
        f"{document['bundle']}: {'trial ' if name.isdigit() else ''}{name}, "
        f"{format_size(document['size_bytes'])}, "
        f"perplexity {document['valid_perplexity']:.2f} (valid), "
        f"{document['test_perplexity']:.2f} (test)",
    )
