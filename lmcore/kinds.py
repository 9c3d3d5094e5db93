"""All kinds of networks and of data: importing this module makes them known to their families."""

from lmcore import corpus, model_settings, paragraphs, tagged
from lmcore.networks import bilm_settings, tagger_settings

__all__ = [
    "bilm_settings",
    "corpus",
    "model_settings",
    "paragraphs",
    "tagged",
    "tagger_settings",
]
