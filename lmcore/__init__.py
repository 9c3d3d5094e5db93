"""LSTM language models and the ways to shrink them. Knows nothing of Optuna, Hydra or SQL.

`lmcore.load("model.lmb")` gives a model to work with: see `lmcore.api`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmcore.api import LoadedModel

__all__ = ["load"]


def load(path: str | Path | None = None) -> LoadedModel:
    """The model of a bundle, ready to be asked; see `lmcore.api.load`."""
    from lmcore import api  # with torch, which settings are read without

    return api.load(path)
