"""What the tests of spaces share: a small model, its sites, random trials."""

from __future__ import annotations

from typing import Any

import optuna

from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe
from search.space.space import Space

MODEL = ModelSettings(layers=2, hidden=16, embedding=16, tied=False)
WORDS = 50
FINETUNING = {"epochs": 1, "rate": 1.0, "dropout": {"kind": "sequence", "rate": 0.1}}
STEP = {"kind": "uniform", "step": {"low": 0.5, "high": 2.0}}
SITES = (
    "embedding",
    "lstm.0.input",
    "lstm.0.recurrent",
    "lstm.1.input",
    "lstm.1.recurrent",
    "decoder",
)


def space(model: ModelSettings = MODEL, **template: Any) -> Space:
    return Space(template, model, WORDS)


def asked(of: Space, trials: int = 1) -> list[tuple[dict[str, Any], Recipe]]:
    """Parameters and recipe of random trials of an in-memory study."""
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
    )
    found = []
    for _ in range(trials):
        trial = study.ask()
        recipe = of.suggest(trial).recipe
        found.append((dict(trial.params), recipe))
    return found


def distributions(of: Space) -> dict[str, Any]:
    trial = optuna.create_study(directions=["minimize"] * 2).ask()
    of.suggest(trial)
    return dict(trial.distributions)
