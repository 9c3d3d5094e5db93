"""What a recipe does, and where, in the names of the methods."""

from __future__ import annotations

from typing import Any

import pytest

from lmcore.methods import methods_of, where
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from lmcore.sites import shortened

READER = [
    *(f"{cell}.input" for cell in ("phrase_forward.0", "phrase_backward.0", "ending_forward.0")),
    *("ending_forward.1.input", "ending_forward.1.recurrent", "first"),
]
MODEL = ModelSettings(layers=2, hidden=24, embedding=24, tied=False)
FINETUNING = {"epochs": 1, "rate": 1.0, "dropout": {"kind": "sequence", "rate": 0.2}}
UNITS = {"strength": 1e-4, "training": FINETUNING}
SVD = {"structure": {"kind": "svd", "rank": 3}}
UNIFORM = {"bits": {"kind": "uniform", "step": 1.0}}


@pytest.mark.parametrize(
    ("given", "methods", "site"),
    [
        ({}, "dense", "all"),
        ({"sites": {"*": {"bits": "float16"}}}, "dense", "all"),
        ({"finetuning": FINETUNING}, "control", "all"),
        ({"sites": {"decoder": SVD}}, "svd", "decoder"),
        ({"sites": {"lstm.*.input": SVD, "*": UNIFORM}}, "svd+bits", "all"),
        ({"sites": {"lstm.*": {"sparsity": 0.5}}}, "pruning", "lstm.*.input lstm.*.recurrent"),
        ({"sites": {"lstm.1.input": UNIFORM}}, "bits", "lstm.1.input"),
        ({"layers": {"embedding": 8}}, "embedding", "embedding"),
        ({"layers": {"embedding": 8, "projection": 8}}, "projection+embedding", "all"),
        ({"layers": {"units": UNITS}, "sites": {"decoder": SVD}}, "iss+svd", "all"),
        (
            {"sites": {"*": UNIFORM}, "finetuning": {**FINETUNING, "distillation": {"mix": 0.5}}},
            "bits+distillation",
            "all",
        ),
        ({"finetuning": {**FINETUNING, "distillation": {"mix": 0}}}, "control", "all"),
    ],
)
def test_a_recipe_is_called_by_its_methods(given: dict[str, Any], methods: str, site: str) -> None:
    recipe = resolve(Recipe.model_validate(given), MODEL, 60)
    assert "+".join(methods_of(recipe.plain())) == methods
    assert where(recipe.plain()) == site


@pytest.mark.parametrize(
    ("some", "said"),
    [
        ("first", "first"),
        ("phrase_forward.0.input", "phrase_forward.*.input"),
        ("phrase_forward.0.input phrase_backward.0.input", "phrase_*.input"),
        ("ending_forward.0.input ending_forward.1.input", "ending_forward.*.input"),
        ("ending_forward.1.input first", "ending_forward.1.input first"),
        (" ".join(name for name in READER if name.endswith("input")), "*.input"),
    ],
)
def test_sites_together_are_named_by_the_widest_pattern_that_fits(some: str, said: str) -> None:
    assert shortened(some.split(), READER) == said.split()
