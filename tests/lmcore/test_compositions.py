"""Whatever is composed: it resolves, is written, read and bounded alike, or is refused in words.

    LMPARETO_RECIPES=10000 python -m pytest tests/lmcore/test_compositions.py \\
        tests/search/rules/test_limits.py

checks as many random recipes.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_cells import CELLS, logits_of
from torch import Tensor

from lmcore import bundle
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.cells import Cell
from lmcore.compress.hidden_units import remove_units
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse

WORDS = 20
RECIPES = int(os.environ.get("LMPARETO_RECIPES", "600"))
VOCABULARY = Vocabulary(["<eos>", *[f"w{index:02d}" for index in range(WORDS - 1)]])
TEXT = torch.randint(WORDS, (240,), generator=torch.Generator().manual_seed(0))
UNITS = {
    "strength": 0.1,
    "training": {"epochs": 1, "rate": 1.0, "dropout": {"kind": "element", "rate": 0.0}},
}

# --- The space of all recipes --------------------------------------------------------------------

MODELS: list[dict[str, Any]] = [
    {"hidden": 9, "embedding": 9, "tied": False},
    {"hidden": 9, "embedding": 9, "tied": True},
    {"hidden": 9, "embedding": 6, "tied": True},
    {"hidden": (10, 8), "embedding": 9, "tied": False},
    {"hidden": (8, 10), "embedding": 8, "tied": True, "projection": (0, 8)},
    {"layers": 1, "hidden": 12, "embedding": 12, "tied": True},
]
seldom = st.sampled_from([False] * 7 + [True])
ranks = st.one_of(
    st.integers(1, 9),
    st.floats(0.01, 1.0),
    st.builds(lambda energy: {"energy": energy}, st.floats(0.01, 1.0)),
)
low_ranks = st.builds(
    lambda kind, rank: {"kind": kind, "rank": rank},
    st.sampled_from(["svd", "activation_svd", "semi_nmf"]),
    ranks,
)
weighted_ranks = st.builds(
    lambda rows, rank: {"kind": "activation_svd", "rank": rank, "rows": rows},
    st.sampled_from(["fisher", "fisher", "counts"]),
    ranks,
)
sides = st.lists(st.integers(1, 8), min_size=2, max_size=3)
chains = st.builds(
    lambda rank, more: {"kind": "tensor_train", "rank": rank, **more},
    st.one_of(st.integers(1, 12), st.lists(st.integers(1, 5), min_size=1, max_size=2)),
    st.one_of(
        st.just({"cores": 2}),
        st.just({"cores": 3}),
        st.builds(lambda r, c: {"cores": 2, "factors": {"rows": r, "columns": c}}, sides, sides),
        st.just({"cores": 2, "factors": {"rows": [8, 8], "columns": [4, 4]}}),
    ),
)
structures = st.one_of(st.just("dense"), low_ranks, weighted_ranks, chains)
scopes = st.sampled_from(["matrix", "row", 2, 5])
codecs = st.one_of(
    st.sampled_from(["float32", "float16"]),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["linear", "kmeans", "multibit"]),
            "bits": st.integers(1, 8),
            "scope": scopes,
            "feedback": seldom,
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("kmeans"),
            "bits": st.integers(1, 8),
            "scope": scopes,
            "weighted": st.just(True),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("uniform"),
            "step": st.floats(0.01, 5.0),
            "rounding": st.floats(0.0, 1.0),
            "scope": st.sampled_from(["matrix", "row"]),
            "feedback": seldom,
        }
    ),
)
blocks = st.lists(st.integers(1, 12), min_size=2, max_size=2)
site_settings = st.fixed_dictionaries(
    {
        "structure": structures,
        "sparsity": st.one_of(st.just(0.0), st.floats(0.0, 0.999)),
        "pattern": st.one_of(st.sampled_from(["weights", "rows"]), blocks),
        "bits": codecs,
    }
)
patterns = st.sampled_from(
    ["*", "*", "embedding", "[de]*", "*.input", "*.recurrent*", "*.0.input", "*.?.*"]
)
layers = st.fixed_dictionaries(
    {
        "units": st.sampled_from([None, UNITS]),
        "projection": st.one_of(
            st.none(), st.integers(1, 12), st.lists(st.integers(0, 11), min_size=2, max_size=2)
        ),
        "embedding": st.one_of(st.none(), st.integers(1, 12)),
    }
)
recipes = st.fixed_dictionaries(
    {
        "layers": st.one_of(st.just({}), layers),
        "sites": st.dictionaries(patterns, site_settings, max_size=4),
        "biases": codecs,
        "pruning": st.sampled_from([{}, {"scope": "all"}, {"schedule": "cubic"}]),
    }
)


# --- What holds for each -------------------------------------------------------------------------


def dense_of(cell: Cell, sizes: dict[str, Any], seed: int) -> LanguageModel:
    model = ModelSettings.model_validate({"layers": 2, **sizes, "cell": cell})
    return random_model(model, WORDS, 0.4, torch.Generator().manual_seed(seed)).eval()


def with_units_gone(dense: LanguageModel, seed: int) -> LanguageModel:
    """What a group Lasso might leave."""
    generator = torch.Generator().manual_seed(seed)
    stage = remove_units(dense, embedding=False)
    matrices: dict[str, Tensor] = {
        s: weight.leaves["matrix"].data for s, weight in stage.sites.items()
    }
    with torch.no_grad():
        for units in stage.settings.removable(embedding=True):
            share = torch.rand((), generator=generator)
            units.scale_(matrices, (torch.rand(units.count, generator=generator) < share).float())
    return remove_units(stage, embedding=True)


def assert_explained(error: UserError, setting: str = "") -> None:
    """Each line names a setting of the recipe, below its site where it has one."""
    for line in str(error).splitlines():
        assert setting in line
        assert re.match(r"recipe\.(layers|sites\.[^:]+|biases)\.[\w.]+: ", line), line


def check(given: dict[str, Any], cell: Cell, sizes: dict[str, Any], seed: int, path: Path) -> str:
    """Whether it was "built" or "refused"."""
    dense = dense_of(cell, sizes, seed)
    try:
        recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, WORDS)
    except UserError as error:
        assert_explained(error)
        return "refused"
    assert resolve(recipe, dense.settings, WORDS) == recipe
    again = parse(Recipe, json.loads(json.dumps(recipe.plain())), "recipe")
    assert again == recipe
    assert again.key == recipe.key
    start = with_units_gone(dense, seed) if recipe.layers.units else dense
    before = {name: value.clone() for name, value in start.state_dict().items()}
    model = build(start, recipe, Calibration(start, TEXT)).eval()
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    size = bundle.save(path, model, VOCABULARY)
    assert size <= bundle.packed_size(recipe, dense.settings, VOCABULARY)
    loaded = bundle.load(path)
    ids = torch.arange(24).view(12, 2) % WORDS
    ours = logits_of(model, ids)
    assert ours.isfinite().all()
    assert torch.equal(logits_of(loaded.language, ids), ours)
    assert bundle.pack(loaded.model, VOCABULARY) == path.read_bytes()
    return "built"


def compositions(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


every_composition = given(
    given=recipes,
    cell=st.sampled_from(CELLS),
    sizes=st.sampled_from(MODELS),
    seed=st.integers(0, 3),
)


@compositions(30)
@every_composition
def test_a_composition_is_its_file_or_is_refused(
    given: dict[str, Any], cell: Cell, sizes: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    check(given, cell, sizes, seed, tmp_path / "model.lmb")


@pytest.mark.slow
@compositions(RECIPES)
@every_composition
def test_many_compositions_are_their_files_or_are_refused(
    given: dict[str, Any], cell: Cell, sizes: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    check(given, cell, sizes, seed, tmp_path / "model.lmb")
