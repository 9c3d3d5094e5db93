"""Run a trial again and compare."""

from __future__ import annotations

from search.commands.answer import Answer, tell_corpus
from search.config import ReplayConfig
from search.show.replay import replay, replay_document, replay_text
from search.study.context import StudyContext
from search.study.results import results_of

Config = ReplayConfig


def run(config: ReplayConfig) -> Answer:
    context = StudyContext(config)
    results = results_of(context)
    tell_corpus(context)
    result = replay(context, results)
    return Answer(replay_document(result), replay_text(result))
