"""LSTM language models and the ways to shrink them. Knows nothing of Optuna, Hydra or SQL.

`lmcore.load("model.lmb")` gives a language model to work with: see `lmcore.api`.
`lmcore.load_tagger("tagger.lmb")` gives a tagger: see `lmcore.loaded_tagger`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmcore.api import LoadedModel
    from lmcore.loaded_tagger import LoadedTagger

__all__ = ["load", "load_tagger"]


def load(path: str | Path | None = None) -> LoadedModel:
    """The model of a bundle, ready to be asked; see `lmcore.api.load`."""
    from lmcore import api  # with torch, which settings are read without

    return api.load(path)


def load_tagger(path: str | Path) -> LoadedTagger:
    """The tagger of a bundle, ready to be asked; see `lmcore.loaded_tagger`."""
    from lmcore import loaded_tagger

    return loaded_tagger.load_tagger(path)
