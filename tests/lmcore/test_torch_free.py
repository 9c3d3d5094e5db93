"""Settings are read without torch: importing torch takes seconds, and a look at a study needs none.

Each import stands in a process of its own.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import lmcore.compress

LIGHT = [
    *("errors", "files", "settings", "lazy", "sites", "coding", "codec", "structure", "pruning"),
    *("cells", "looped_cells", "model_settings", "training_settings", "progress", "corpus"),
    *("vocabulary", "subword", "spelling", "spelled_text", "word_list"),
    *("layer_methods", "recipe", "methods"),
    *(f"compress.{module.name}" for module in pkgutil.iter_modules(lmcore.compress.__path__)),
]
RECIPE = """
from lmcore.corpus import Vocabulary
from lmcore.methods import methods_of
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, is_open, leaf_specs, resolve

model = ModelSettings(layers=2, hidden=24, embedding=24, tied=True)
bits = {"kind": "uniform", "step": 1.0}
given = {"layers": {"projection": 9}, "sites": {"*": {"sparsity": 0.5, "bits": bits}}}
recipe = resolve(Recipe.model_validate(given), model, 60)
assert leaf_specs(recipe, model, 60) and not is_open(recipe, model, 60)
assert methods_of(recipe.plain()) == ["projection", "pruning", "bits"]
"""


def heavy_after(code: str) -> list[str]:
    """What was imported of torch and scipy by a fresh process that ran the code."""
    names = "[name for name in ('torch', 'scipy') if name in sys.modules]"
    show = f"import json, sys; print(json.dumps({names}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("code", [*(f"import lmcore.{name}" for name in LIGHT), RECIPE])
def test_settings_need_no_torch(code: str) -> None:
    assert heavy_after(code) == []


def test_a_model_does() -> None:
    assert heavy_after("import lmcore.building") == ["torch"]
    assert "torch" in heavy_after("from lmcore.lazy import torch; torch.float32")
