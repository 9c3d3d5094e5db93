"""What a study can sample, and how many bytes its corners have."""

from __future__ import annotations

from search.commands.answer import Answer, tell_corpus
from search.config import StudyConfig
from search.show.overview import overview, overview_document, overview_text
from search.study.context import StudyContext

Config = StudyConfig


def run(config: StudyConfig) -> Answer:
    context = StudyContext(config)
    tell_corpus(context)
    shown = overview(context)
    return Answer(overview_document(shown), overview_text(shown))
