"""Each part of a study's space measured alone, and the front that this predicts."""

from __future__ import annotations

from search.commands.answer import Answer, tell_corpus
from search.config import SensitivityConfig
from search.show.tables import effects_document, effects_table
from search.study.beginning import check_begun
from search.study.context import WorkContext
from search.study.effects import measure_effects

Config = SensitivityConfig


def run(config: SensitivityConfig) -> Answer:
    context = WorkContext(config)
    tell_corpus(context)
    lists = context.space.lists
    if context.store.has_study(context.name):
        check_begun(context, context.study)
    effects = measure_effects(context, context.bench(), config.settings)
    box = context.box(context.need_checkpoint())
    measure = config.corpus.task.measure
    return Answer(
        effects_document(context.name, effects, box, measure),
        effects_table(effects, lists, box, measure),
    )
