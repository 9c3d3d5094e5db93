"""All kinds of networks and of data: importing this module makes them known to their families."""

from lmcore import classified, corpus, model_settings, paragraphs, questions, tagged
from lmcore.networks import (
    bilm_settings,
    classifier_settings,
    matcher_settings,
    reader_settings,
    tagger_settings,
)

__all__ = [
    "bilm_settings",
    "classified",
    "classifier_settings",
    "corpus",
    "matcher_settings",
    "model_settings",
    "paragraphs",
    "questions",
    "reader_settings",
    "tagged",
    "tagger_settings",
]
