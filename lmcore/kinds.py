"""All kinds of networks and of data: importing this module makes them known to their families."""

from lmcore import corpus, model_settings, tagged
from lmcore.networks import tagger_settings

__all__ = ["corpus", "model_settings", "tagged", "tagger_settings"]
