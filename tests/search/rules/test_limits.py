"""Limits of a search: no training is spent on what is too large, and what can be made to fit is.

`LMPARETO_RECIPES` is as many random recipes (see test_compositions).
"""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from lmcore.bundle import packed_size
from lmcore.progress import ignore
from search.bench import workbench
from search.bench.fitting import Fitter
from search.measurement import Measurement
from search.rules.limits import Limits
from search.show.tables import front_table, progress_text
from search.space.space import OWN
from search.study.note import TrialNote
from search.study.published import RECORDS
from search.study.results import results_of, write_records
from search.study.study import infeasible, keep_limits, progress
from search.work.sweep import sweep
from studies import Sweep, settings, sweep_here

pytestmark = pytest.mark.slow

SPACE: dict[str, Any] = {
    "sites": {
        "lstm.*": {
            "bits": {"choice": ["float16", {"kind": "linear", "bits": {"low": 2, "high": 8}}]}
        },
        "*": {
            "structure": {"kind": "svd", "rank": {"low": 1, "high": 16}},
            "bits": {"kind": "uniform", "step": {"low": 0.3, "high": 3.0, "log": True}},
        },
    },
    "finetuning": {
        "epochs": 0.1,
        "batch": 8,
        "window": 20,
        "optimizer": "adam",
        "rate": 0.005,
        "dropout": {"kind": "sequence", "rate": 0.1},
    },
}


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return sweep_here(settings(tmp_path_factory.mktemp("free"), space=SPACE, trials=8))


def limited(free: Sweep, folder: Path, **more: Any) -> Sweep:
    """The same study, from the same dense model, under a limit."""
    config = free.context.config
    text = config.corpus.plain()
    database = {"url": f"sqlite:///{folder}/studies.db"}
    return sweep_here(
        settings(config.folder, space=SPACE, trials=8, corpus=text, storage=database, **more)
    )


def measurements(swept: Sweep) -> list[tuple[FrozenTrial, Measurement]]:
    found = []
    for row in swept.study.get_trials():
        assert row.state == TrialState.COMPLETE
        measured = swept.context.store.measurement(TrialNote.of(row).key or "")
        assert measured
        found.append((row, measured))
    return found


def sizes(swept: Sweep) -> list[int]:
    return sorted(measured.size_bytes for _, measured in measurements(swept))


def test_what_is_too_large_is_moved_until_it_fits(free: Sweep, tmp_path: Path) -> None:
    most = sizes(free)[3]
    swept = limited(free, tmp_path, max_size=f"{most}B")
    rows = measurements(swept)
    moved = [row for row, measured in rows if TrialNote.of(row).moved and measured.updates]
    assert moved
    for row, measured in rows:
        assert row.constraints == {"max_size": math.log(measured.size_bytes / most)}
        if measured.updates:  # else a choice that is not moved is too large by itself
            assert measured.size_bytes <= most * 1.05
    for row in moved:
        for name, value in TrialNote.of(row).moved.items():
            distribution = row.distributions[name]
            assert distribution._contains(distribution.to_internal_repr(value))


def test_what_cannot_fit_is_told_as_it_is_and_never_trained(free: Sweep, tmp_path: Path) -> None:
    most = sizes(free)[0] // 2
    for row, measured in measurements(limited(free, tmp_path, max_size=most)):
        assert measured.updates == 0
        assert measured.size_bytes > most
        assert row.values == [measured.size_bytes, measured.valid_measure]
        assert row.constraints["max_size"] > 0


def test_random_recipes_fit_any_limit_or_are_all_as_small_as_they_get(
    free: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: Any, **named: Any) -> None:
        raise AssertionError("it is to be decided without training")

    monkeypatch.setattr(workbench, "train", no_training)
    bench, vocabulary = free.context.bench(), free.context.corpus.vocabulary
    model = bench.dense.model.settings
    space = free.context.space.models[OWN]
    draw = random.Random(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    fitters = [Fitter(space, bench, most) for most in (3000, 5000, 8000, 12_000)]
    outcomes = set()
    for _ in range(int(os.environ.get("LMPARETO_RECIPES", "40"))):
        trial, fitter = study.ask(), draw.choice(fitters)
        fitted = fitter.fit(trial, ignore)
        size = bench.untrained_size(fitted.recipe)
        assert size <= packed_size(fitted.recipe, model, vocabulary)
        assert fitted.fits == (size <= fitter.max_size_bytes)
        if not fitted.fits:  # then neither would it with every range at its smaller end
            least = {name: end for name, end in fitter.ends.items() if end is not None}
            smallest = optuna.trial.FixedTrial({**trial.params, **least})
            assert bench.untrained_size(space.suggest(smallest)) > fitter.max_size_bytes
        outcomes.add((fitted.fits, bool(fitted.moved)))
    assert outcomes == {(True, False), (True, True), (False, False)}


def test_a_limit_that_all_keep_changes_nothing(free: Sweep, tmp_path: Path) -> None:
    swept = limited(free, tmp_path, max_size="1MB")
    assert [r.params for r in swept.study.get_trials()] == [
        r.params for r in free.study.get_trials()
    ]
    assert sizes(swept) == sizes(free)


def test_a_perplexity_that_is_too_high_is_infeasible(free: Sweep, tmp_path: Path) -> None:
    worst = sorted(measured.valid_measure for _, measured in measurements(free))[3]
    swept = limited(free, tmp_path, max_perplexity=worst)
    broken = [row.constraints["max_perplexity"] > 0 for row in swept.study.get_trials()]
    above = [row.values[1] > worst for row in swept.study.get_trials()]
    assert broken == above
    assert 0 < sum(broken) < len(broken)
    best = {row.number for row in swept.study.best_trials}
    assert best.isdisjoint(n for n, is_broken in enumerate(broken) if is_broken)


def test_what_is_over_a_limit_is_counted_and_kept_apart(
    free: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = sorted(measured.valid_measure for _, measured in measurements(free))[3]
    swept = limited(free, tmp_path, max_perplexity=worst)
    keep_limits(swept.study, swept.context.config.limits)
    over = [row.number for row in swept.study.get_trials() if row.values[1] > worst]
    found = results_of(swept.context)
    assert [point.trial for point in found.front.infeasible] == over
    best = {row.number for row in swept.study.best_trials}
    assert {point.trial for point in found.front.points} == best
    done = progress(swept.study, 8)
    assert (done.complete, done.infeasible) == (8, len(over))
    assert f"{len(over)} of them over max_size or max_perplexity" in progress_text(done, 1)
    assert f"{len(over)} over max_size or max_perplexity" in front_table(found.front, [], {})
    monkeypatch.setattr("search.study.published.PUBLISHED", tmp_path)
    (tmp_path / "other").mkdir()
    write_records(found, tmp_path / "other" / RECORDS)
    published = results_of(swept.context.but(name="other"))
    assert published.infeasible == frozenset(map(str, over))
    assert published.front.points == found.front.points


def test_every_trial_is_judged_by_the_limits_of_the_last_sweep(free: Sweep) -> None:
    study = free.study
    values = {row.number: row.values for row in study.get_trials()}
    sizes_now = sorted(size for size, _ in values.values())
    for most in (sizes_now[2], sizes_now[5], None):
        sweep(free.context.but(workers=0, max_size=most and int(most)))
        over = {number for number, (size, _) in values.items() if most and size > most}
        assert infeasible(study) == over


def test_a_limit_says_by_how_much_it_is_broken() -> None:
    limits = Limits(1000, 50.0)
    assert limits.constraints(1000, 50.0) == {"max_size": 0.0, "max_perplexity": 0.0}
    assert limits.constraints(500, 100.0) == pytest.approx(
        {"max_size": -math.log(2), "max_perplexity": math.log(2)}
    )
    assert Limits().constraints(10**9, math.inf) == {}
    assert limits.too_large(1001)
    assert not limits.too_large(1000)
    assert not Limits().too_large(10**12)
