"""LSTM language models and the ways to shrink them. Knows nothing of Optuna, Hydra or SQL.

`lmcore.load("model.lmb")` gives a language model to work with: see `lmcore.api`.
`load_tagger`, `load_classifier` and `load_reader` give networks of other tasks: see
`lmcore.loaded_tagger`, `loaded_classifier` and `loaded_reader`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmcore.api import LoadedModel
    from lmcore.loaded_classifier import LoadedClassifier
    from lmcore.loaded_reader import LoadedReader
    from lmcore.loaded_tagger import LoadedTagger

__all__ = ["load", "load_classifier", "load_reader", "load_tagger"]


def load(path: str | Path | None = None) -> LoadedModel:
    """The model of a bundle, ready to be asked; see `lmcore.api.load`."""
    from lmcore import api  # with torch, which settings are read without

    return api.load(path)


def load_tagger(path: str | Path) -> LoadedTagger:
    """The tagger of a bundle, ready to be asked; see `lmcore.loaded_tagger`."""
    from lmcore import loaded_tagger

    return loaded_tagger.load_tagger(path)


def load_classifier(path: str | Path) -> LoadedClassifier:
    """The classifier of a bundle, of texts or of pairs, ready to be asked; see
    `lmcore.loaded_classifier`."""
    from lmcore import loaded_classifier

    return loaded_classifier.load_classifier(path)


def load_reader(path: str | Path) -> LoadedReader:
    """The reader of a bundle, ready to be asked; see `lmcore.loaded_reader`."""
    from lmcore import loaded_reader

    return loaded_reader.load_reader(path)
