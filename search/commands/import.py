"""Begin a study with a dense model that was trained elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lmcore.corpus import text_in
from lmcore.errors import UserError
from lmcore.files import check_folder
from search.bench.dense import doubt
from search.bench.imported import keep_import, of_model, read_import, with_words
from search.commands.answer import Answer, tell_corpus
from search.config import ImportConfig
from search.describe import command_line
from search.names import check_name
from search.study.beginning import check_settings, create
from search.study.context import WorkContext
from search.units import format_size

Config = ImportConfig


def run(config: ImportConfig) -> Answer:
    config = _named(config)
    check_folder(config.folder / "dense")
    read = read_import(config)
    context = WorkContext(with_words(config))
    tell_corpus(context)
    corpus = text_in(context.corpus)
    read = replace(read, model=read.model.spoken(corpus.vocabulary.words))
    context = WorkContext(of_model(context.config, read.model))
    context.corpus = corpus
    check_settings(context)
    create(context)  # before the work, since a study of other weights may have that name
    checkpoint = context.find_checkpoint() or keep_import(context.config, corpus, read)
    said = doubt(checkpoint, corpus, config.corpus.task.measure)
    advice = "are the gates, the names and the order of the words right?"
    for remark in (*read.remarks, *([f"{said.partition(';')[0]}; {advice}"] if said else [])):
        print(f"warning: {remark}", file=sys.stderr)
    model = read.model.settings
    document = {"study": config.name, "bundle": str(checkpoint.path), **checkpoint.record}
    return Answer(
        document,
        f"{checkpoint.path}: {' + '.join(map(str, model.units))} units, embedding "
        f"{model.embedding}, {'tied' if model.tied else 'untied'}, "
        f"{len(corpus.vocabulary):,} words, {format_size(checkpoint.size_bytes)}, valid "
        f"{config.corpus.task.measure.said(checkpoint.valid_measure)}\n"
        f"study {config.name} has begun; {command_line('sweep', config.study)} searches from it",
    )


def _named(config: ImportConfig) -> ImportConfig:
    """The settings with a name for the study: that of the weights, where none was given."""
    if config.name is not None:
        return config
    try:
        return config.model_copy(update={"name": check_name(Path(config.weights).stem)})
    except ValueError:
        raise UserError("name the study that starts from this model: name=mine, say") from None
