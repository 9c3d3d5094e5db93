"""The chosen model: bundle, recipe, measurements."""

from __future__ import annotations

from pathlib import Path

from lmcore.files import check_folder
from search.commands.answer import Answer, tell_corpus
from search.config import ExportConfig
from search.front import Point, choose
from search.show.export import export
from search.show.tables import in_bits
from search.study.context import StudyContext
from search.study.results import Results, results_of
from search.units import format_size

Config = ExportConfig


def run(config: ExportConfig) -> Answer:
    context = StudyContext(config)
    results = results_of(context)
    point = _chosen(config, results)
    check_folder(Path(config.to))
    tell_corpus(context)
    document = export(context, point, results.measured(point.name), Path(config.to))
    return Answer(
        document,
        f"{document['bundle']}: {point.label}, "
        f"{format_size(document['size_bytes'])}, "
        f"perplexity {document['valid_perplexity']:.2f} (valid), "
        f"{document['test_perplexity']:.2f} (test)"
        f"{in_bits(document.get('test_bits_per_byte'))}",
    )


def _chosen(config: ExportConfig, results: Results) -> Point:
    if config.trial is not None:
        return results.find(config.trial, config.rung)
    return choose(results.front, config.max_size, config.max_perplexity, config.pick)
