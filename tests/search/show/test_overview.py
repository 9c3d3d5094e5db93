"""What a study can sample, as it is shown, and its smallest and largest corner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FixedTrial
from spaces import FINETUNING, MODEL, STEP, WORDS, asked

from lmcore.building import build
from lmcore.bundle import packed_size, save
from lmcore.calibration import Calibration
from lmcore.model import random_model
from lmcore.recipe import Recipe
from search.config import SweepConfig
from search.show.overview import Overview, overview, overview_document, overview_text
from search.study.context import StudyContext
from studies import settings, write_text

RANK = {"kind": "svd", "rank": {"low": 0.1, "high": 0.4, "of": "rank"}}
TEMPLATE: dict[str, Any] = {
    "layers": {"embedding": {"low": 6, "high": 12}},
    "sites": {
        "lstm.*": {
            "tie": "lstm",
            "structure": {"choice": ["dense", RANK]},
            "sparsity": {"low": 0.0, "high": 0.8, "when": {".structure": "dense"}},
            "bits": {"kind": "kmeans", "bits": {"low": 2, "high": 6, "step": 2}},
        },
        "*": {"bits": {"ordered": ["float16", {"kind": "linear", "bits": 4}, "float32"]}},
    },
    "finetuning": {**FINETUNING, "rate": {"low": 0.1, "high": 10.0, "log": True}},
}


def context_of(folder: Path, space: dict[str, Any]) -> StudyContext[SweepConfig]:
    """A study of the space, of MODEL on a text of WORDS words."""
    write_text(folder / "text.txt", words=WORDS - 2)  # and <eos>, <unk>
    context = StudyContext(settings(folder, space=space, model=MODEL.plain()))
    assert context.words == WORDS
    return context


@pytest.fixture
def context(tmp_path: Path) -> StudyContext[SweepConfig]:
    return context_of(tmp_path, TEMPLATE)


@pytest.fixture
def shown(context: StudyContext[SweepConfig]) -> Overview:
    return overview(context)


def test_every_parameter_is_shown_with_its_values_and_when_it_is_asked_for(shown: Overview) -> None:
    document = overview_document(shown)
    assert document["study"] == "mine"
    labels = ["float16", "linear", "float32"]
    assert {one.pop("name"): one for one in document["parameters"]} == {
        "layers.embedding": {"low": 6, "high": 12, "cases": [[]]},
        "embedding.bits": {"ordered": labels, "cases": [[]]},
        "lstm.structure": {"choice": ["dense", "svd"], "cases": [[]]},
        "lstm.structure.svd.rank": {
            **{"low": 0.1, "high": 0.4, "of": "rank"},
            "cases": [["lstm.structure = svd"]],
        },
        "lstm.sparsity": {"low": 0.0, "high": 0.8, "cases": [["lstm.structure = dense"]]},
        "lstm.bits.bits": {"low": 2, "high": 6, "step": 2, "cases": [[]]},
        "decoder.bits": {"ordered": labels, "cases": [[]]},
        "finetuning.rate": {"low": 0.1, "high": 10.0, "log": True, "cases": [[]]},
    }
    lines = overview_text(shown).splitlines()
    for said in (
        ("lstm.structure ", "one of dense, svd ", "always"),
        ("lstm.structure.svd.rank ", "0.1 to 0.4 of rank ", "lstm.structure = svd"),
        ("lstm.bits.bits ", "2 to 6 in steps of 2 ", "always"),
        ("decoder.bits ", "float16, linear, float32 in order ", "always"),
        ("finetuning.rate ", "0.1 to 10.0, log ", "always"),
        ("8 parameters, 6 of them in every trial",),
    ):
        assert [line for line in lines if all(part in line for part in said)], said


def test_a_parameter_is_shown_if_and_only_if_some_trial_is_asked_for_it(
    context: StudyContext[SweepConfig], shown: Overview
) -> None:
    trials = asked(context.space, 100)
    assert {one.name for one in shown.parameters} == {name for found, _ in trials for name in found}
    always = set.intersection(*(set(found) for found, _ in trials))
    assert {one.name for one in shown.parameters if one.always} == always


def test_a_site_that_layers_make_is_a_case(tmp_path: Path) -> None:
    sites = {"*.projection": {"tie": "maps", "bits": STEP}, "*": {"tie": "all", "bits": STEP}}
    layers = {"projection": {"low": 4, "high": 16}}
    shown = overview(context_of(tmp_path, {"layers": layers, "sites": sites}))
    found = {one.name: one.cases for one in shown.parameters}
    assert found == {
        "layers.projection": [[]],
        "all.bits.step": [[]],
        "maps.bits.step": [["there is lstm.0.projection"], ["there is lstm.1.projection"]],
    }


def test_the_corners_are_the_smallest_and_the_largest_of_all(
    context: StudyContext[SweepConfig], shown: Overview
) -> None:
    """Against every combination of ends."""
    space = context.space
    ends = {
        name: range(len(one.ends)) if name in space.lists else one.ends
        for name, one in space.parameters.items()
    }
    sizes = {}
    for values in itertools.product(*ends.values()):
        recipe = space.suggest(FixedTrial(dict(zip(ends, values, strict=True)))).recipe
        sizes[recipe.key] = packed_size(recipe, MODEL, context.corpus.vocabulary)
    assert shown.smallest.packed_bytes == min(sizes.values())
    assert shown.largest.packed_bytes == max(sizes.values())
    for corner in (shown.smallest, shown.largest):
        recipe = Recipe.model_validate(corner.recipe)
        assert sizes[recipe.key] == corner.packed_bytes
        assert space.suggest(FixedTrial(space.start(corner.parameters))).recipe == recipe


def test_the_file_of_a_corner_is_never_larger_than_what_is_shown(
    context: StudyContext[SweepConfig], shown: Overview, tmp_path: Path
) -> None:
    dense = random_model(MODEL, WORDS, 0.5, torch.Generator().manual_seed(1))
    calibration = Calibration(dense, torch.arange(1000) % WORDS)
    sizes = []
    for corner in (shown.smallest, shown.largest):
        model = build(dense, Recipe.model_validate(corner.recipe), calibration).eval()
        sizes.append(save(tmp_path / "corner.lmb", model, context.corpus.vocabulary))
        assert 0.5 * corner.packed_bytes < sizes[-1] <= corner.packed_bytes
    assert sizes[0] < sizes[1]
