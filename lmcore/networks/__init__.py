"""Networks beside the language model, one a file: its shape as settings, and the network.

Importing this package makes all kinds of shapes and data known to the families of settings.
"""

from lmcore import model_settings, tagged
from lmcore.networks import tagger_settings

__all__ = ["model_settings", "tagged", "tagger_settings"]
