"""Settings are read without torch: importing torch takes seconds, and a look at a study needs none.

Each import stands in a process of its own, forked from one that has numpy and pydantic.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import lmcore.compress

LIGHT = [
    *(
        "errors",
        "files",
        "settings",
        "lazy",
        "sites",
        "range_coding",
        "context_form",
        "coding",
        "codec",
        "structure",
        "pruning",
    ),
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


SETTINGS = [*(f"import lmcore.{name}" for name in LIGHT), RECIPE]
MODEL, LAZY = "import lmcore.building", "from lmcore.lazy import torch; torch.float32"
EACH = """
import json, os, sys
import numpy, pydantic

def heavy():
    return [name for name in ("torch", "scipy") if name in sys.modules]

assert not heavy()
for code in json.load(sys.stdin):
    if not os.fork():
        exec(code, {})
        print(json.dumps([code, heavy()]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def heavy_after() -> dict[str, list[str]]:
    """Code -> what was imported of torch and scipy by a process that ran it; those that failed are
    left out."""
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        input=json.dumps([*SETTINGS, MODEL, LAZY]),
        capture_output=True,
        text=True,
        check=True,
    )
    print(done.stderr, file=sys.stderr)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("code", SETTINGS)
def test_settings_need_no_torch(code: str, heavy_after: dict[str, list[str]]) -> None:
    assert heavy_after[code] == []


def test_a_model_does(heavy_after: dict[str, list[str]]) -> None:
    assert heavy_after[MODEL] == ["torch"]
    assert "torch" in heavy_after[LAZY]
