"""Recipes that a search tries first, found again among what its space can sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from lmcore.errors import UserError
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.bench import dense
from search.space.space import Space
from search.study.context import StudyContext, WorkContext
from search.study.published import RECORDS
from search.study.results import Results, results_of, write_records
from search.study.seeds import seeds_of
from search.work.sweep import sweep
from studies import Sweep, settings, sweep_here

pytestmark = pytest.mark.slow

MODEL = ModelSettings(layers=2, hidden=16, embedding=16, tied=False)
WORDS = 50
BITS = {
    "choice": [
        {"kind": "uniform", "step": {"low": 0.4, "high": 3.0, "log": True}},
        {"kind": "kmeans", "bits": {"low": 2, "high": 6}},
        "float16",
    ]
}
SPACE: dict[str, Any] = {
    "layers": {"embedding": {"low": 8, "high": 16}},
    "sites": {
        "lstm.*": {"tie": "lstm", "sparsity": {"low": 0.0, "high": 0.8}, "bits": BITS},
        "decoder": {
            "structure": {"choice": ["dense", {"kind": "svd", "rank": {"low": 1, "high": 8}}]},
            "bits": BITS,
        },
    },
    "finetuning": {
        "epochs": {"ordered": [0.25, 0.5, 1.0]},
        "rate": {"low": 0.1, "high": 10.0, "log": True},
        "dropout": {"kind": "sequence", "rate": 0.1},
    },
}
FINETUNED: dict[str, Any] = {
    "finetuning": {
        "epochs": 0.1,
        "batch": 8,
        "window": 20,
        "optimizer": "adam",
        "rate": 0.002,
        "dropout": {"kind": "sequence", "rate": 0.1},
    }
}


def space() -> Space:
    return Space(SPACE, MODEL, WORDS)


def test_a_recipe_of_the_space_is_found_again() -> None:
    of = space()
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(seed=3)
    )
    for _ in range(60):
        trial = study.ask()
        recipe = of.suggest(trial).recipe
        values = of.own().recall(recipe)
        assert values
        again = of.suggest(optuna.trial.FixedTrial({**trial.params, **of.start(values)}))
        assert again.recipe == recipe


def test_what_lies_outside_comes_to_the_nearest_end() -> None:
    data = {
        "sites": {
            "decoder": {"structure": {"kind": "svd", "rank": 10}, "bits": "float16"},
            "lstm.*": {"sparsity": 0.95, "bits": {"kind": "uniform", "step": 0.1}},
        },
        "finetuning": {"epochs": 1, "rate": 50.0, "dropout": {"kind": "sequence", "rate": 0.1}},
    }
    values = space().own().recall(resolve(parse(Recipe, data), MODEL, WORDS))
    assert values
    assert values["decoder.structure.svd.rank"] == 8
    assert values["lstm.sparsity"] == 0.8
    assert values["lstm.bits.uniform.step"] == 0.4
    assert values["finetuning.rate"] == 10.0


def test_a_kind_that_the_space_has_not_is_no_seed() -> None:
    data = {"sites": {"decoder": {"bits": {"kind": "linear", "bits": 8}}}}
    assert space().own().recall(resolve(parse(Recipe, data), MODEL, WORDS)) is None


def test_the_front_of_another_study_seeds_this_one(tmp_path: Path) -> None:
    other = sweep_here(settings(tmp_path, name="other", trials=3))
    mine = settings(tmp_path, seeds={"recipes": [], "studies": ["other"]}, workers=0)
    seeds = list(seeds_of(StudyContext(mine)))
    best = {tuple(sorted(row.params.items())) for row in other.study.best_trials}
    assert {tuple(sorted(row.items())) for row in seeds} == best
    for _ in range(2):
        study = sweep(WorkContext(mine))
    waiting = [row.system_attrs["fixed_params"] for row in study.get_trials()]
    assert waiting == seeds


def test_a_study_goes_on_without_the_studies_that_seeded_it(tmp_path: Path) -> None:
    other = sweep_here(settings(tmp_path, name="other", trials=1))
    seeds = {"recipes": [], "studies": ["other"]}
    mine = settings(tmp_path, seeds=seeds, workers=0)
    (waiting,) = sweep(WorkContext(mine)).get_trials()
    WorkContext(other.context.config).store.remove(other.context.slots)
    assert [row.number for row in sweep(WorkContext(mine)).get_trials()] == [waiting.number]


def test_seeds_that_come_later_are_tried_next(tmp_path: Path) -> None:
    other = sweep_here(settings(tmp_path, name="other", trials=1))
    begun = sweep(WorkContext(settings(tmp_path, workers=0)))
    assert begun.get_trials() == []
    recipe = {"sites": {"*": {"bits": {"kind": "uniform", "step": 1.25}}}, **FINETUNED}
    seeds = {"recipes": [recipe], "studies": ["other"]}
    for _ in range(2):
        study = sweep(WorkContext(settings(tmp_path, seeds=seeds, workers=0)))
    one, two = (row.system_attrs["fixed_params"] for row in study.get_trials())
    assert one["all.bits.step"] == 1.25
    assert two == other.study.trials[0].params


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A study that can be published as `mine`."""
    monkeypatch.setattr("search.study.published.PUBLISHED", tmp_path / "published")
    (tmp_path / "published" / "mine").mkdir(parents=True)
    return sweep_here(settings(tmp_path, name="other", trials=1))


def seeded_by_its_own(other: Sweep, published: Results) -> list[FrozenTrial]:
    """The trials that wait in the study `mine`, which begins with its published front."""
    folder = other.context.config.folder
    write_records(published, folder / "published" / "mine" / RECORDS)
    mine = settings(folder, seeds={"recipes": [], "studies": ["mine"]}, workers=0)
    return sweep(WorkContext(mine)).get_trials()


def test_a_study_may_begin_with_its_published_front(other: Sweep) -> None:
    (waiting,) = seeded_by_its_own(other, results_of(other.context))
    assert waiting.system_attrs["fixed_params"] == other.study.trials[0].params


def test_a_recipe_of_another_model_is_left_out(
    other: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results_of(other.context)
    two_layers = {"sites": {"lstm.1.input": {"structure": {"kind": "svd", "rank": 2}}}}
    deep = {0: {0: replace(found.trials[0], recipe=two_layers)}}
    assert seeded_by_its_own(other, replace(found, files=deep)) == []
    assert "trial 0 of mine: recipe.sites.lstm.1.input: matches no site" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"recipes": [], "studies": ["nope"]}, "seeds.studies: there is no study nope"),
        ({"recipes": [{"sites": {"nope": {}}}], "studies": []}, "seeds.recipes.0: recipe.sites.n"),
    ],
)
def test_seeds_that_are_none_are_refused_before_anything_is_made(
    seeds: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(dense, "train_dense")
    mine = WorkContext(settings(tmp_path, seeds=seeds))
    with pytest.raises(UserError, match=said):
        sweep(mine)
    assert not mine.store.has_study("mine")
