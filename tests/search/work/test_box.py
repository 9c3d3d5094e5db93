"""A study searches the box that its settings say, in shares of its dense model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from lmcore.errors import UserError
from search.front import Point, hypervolume
from search.rules.fidelity import Look, TowardsFront, Whole
from search.rules.limits import Box, BoxSettings, Limits
from search.show.report.course import Growing, reference_of
from search.study.beginning import begin, create
from search.study.begun import BOX, check_kept
from search.study.context import WorkContext
from search.study.prediction import FOLLOWS
from search.study.results import results_of
from search.work import watching
from studies import settings, sweep_here

SHARES = BoxSettings(size=(0.1, 0.2), perplexity=1.5)


def point(size_bytes: int, perplexity: float) -> Point:
    return Point("", None, size_bytes, perplexity, None, None)


def test_a_box_is_in_shares_of_the_dense_model() -> None:
    box = SHARES.around(10_000, 80.0)
    assert box == Box(1000.0, 2000.0, 120.0)
    assert box.reference == (2000.0, 120.0)
    for size, perplexity in ((1000, 120.0), (2000, 1.0)):
        assert not box.broken(size, perplexity)
        assert box.holds_size(size)
    for size, perplexity, name in (
        (999, 100.0, "box_min_size"),
        (2001, 100.0, "box_max_size"),
        (1500, 120.1, "box_max_perplexity"),
    ):
        over = box.constraints(size, perplexity)
        assert [one for one, by in over.items() if by > 0] == [name]
    assert box.constraints(1000, math.inf)["box_max_perplexity"] == math.inf
    assert not over.keys() & Limits(1, 2.0).constraints(1, 2.0).keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": [0.2, 0.1], "perplexity": 1.5}, r"box\.size: .* it is \[low, high\]"),
        ({"size": [0.0, 0.1], "perplexity": 1.5}, r"box\.size: .* shares of the dense size"),
        ({"size": [2e5, 2e6], "perplexity": 1.5}, r"box\.size: .* a limit in bytes is max_size"),
        ({"size": [0.1], "perplexity": 1.5}, r"box\.size\.1: this setting is missing"),
        ({"size": [0.1, 0.2], "perplexity": 1}, r"box\.perplexity: .* greater than 1"),
        ({"size": [0.1, 0.2]}, r"box\.perplexity: this setting is missing"),
    ],
)
def test_a_wrong_box_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        settings(tmp_path, box=given)


def test_the_hypervolume_of_a_box_ends_at_its_edges() -> None:
    """A file smaller than the box counts as the smallest in it."""
    box = Box(1000.0, 2000.0, 120.0)
    points = [point(500, 110.0), point(900, 100.0), point(1500, 90.0), point(3000, 50.0)]
    expected = math.log(1.5) * math.log(1.2) + math.log(2000 / 1500) * math.log(120 / 90)
    found = hypervolume(points, box.reference, box.min_size_bytes)
    assert found == pytest.approx(expected)
    growing = Growing(box.reference, box.min_size_bytes)
    for one in points:
        growing.add(one.size_bytes, one.valid_measure)
    assert growing.area == pytest.approx(expected)
    live = watching.Growing(Limits(), box.reference, box.min_size_bytes)
    live.add([Look(n, 0, one.size_bytes, one.valid_measure) for n, one in enumerate(points)])
    assert live.hypervolume[-1] == pytest.approx(expected)
    assert len(live.front) == 4  # what is outside is still found


def test_the_rule_of_the_front_takes_the_perplexity_of_the_box() -> None:
    rule = TowardsFront(rungs=(0.25,))
    assert rule.within(SHARES) == rule.model_copy(update={"worst": 1.5})
    assert rule.within(None) is rule
    assert rule.within(BoxSettings(size=(0.1, 0.2), perplexity=3.0)) is rule
    assert Whole().within(SHARES) == Whole()


@pytest.mark.slow
def test_trials_outside_stop_and_samplers_are_told(tmp_path: Path) -> None:
    """A sweep with rungs, in a box that begins at half of the sizes that the space has."""
    plain = settings(tmp_path, fidelity={"kind": "whole", "rungs": [0]}, trials=4)
    free = sweep_here(plain)
    sizes = sorted(rungs[0].size_bytes for rungs in results_of(free.context).files.values())
    dense = free.context.need_checkpoint()
    dense_bytes = 4 * plain.model.weights(free.context.words)
    low = (sizes[1] + sizes[2]) / 2
    box = BoxSettings(size=(low / dense_bytes, 1.0), perplexity=50.0)
    context = free.context.but(box=box, trials=9)
    assert context.box(dense) == Box(low, dense_bytes, 50.0 * dense.valid_measure)
    swept = sweep_here(context.config)
    results = results_of(swept.context)
    later = {trial: rungs for trial, rungs in results.files.items() if trial >= 4}
    outside = {trial for trial, rungs in later.items() if rungs[0].size_bytes < low}
    assert 0 < len(outside) < len(later)
    for row in swept.study.get_trials()[4:]:
        assert (row.constraints["box_min_size"] > 0) == (row.number in outside)
        assert (len(later[row.number]) == 1) == (row.number in outside)
    assert not results.infeasible  # it is measured, and may be taken home
    assert results.front.smallest().size_bytes < low


def test_a_box_may_change_between_sweeps_and_is_kept_with_the_study(tmp_path: Path) -> None:
    plain = settings(tmp_path, workers=0)
    context = WorkContext(plain)
    begin(context)
    assert BOX not in context.study.user_attrs
    for box in (SHARES, BoxSettings(size=(0.1, 0.3), perplexity=2.0), None):
        changed = WorkContext(settings(tmp_path, workers=0, box=box and box.plain()))
        begin(changed)
        create(changed)
        results = results_of(changed)
        assert results.box == changed.box(changed.need_checkpoint())
        if box and results.box:
            assert reference_of(results) == results.box.reference
            assert results.box.max_size_bytes == pytest.approx(
                box.size[1] * 4 * plain.model.weights(changed.words)
            )


def test_a_damaged_box_is_refused() -> None:
    whole = {"min_size_bytes": 1.0, "max_size_bytes": 2.0, "max_perplexity": 3.0}
    check_kept("mine", {BOX: whole})
    check_kept("mine", {BOX: {}})
    for wrong in ({**whole, "max_perplexity": "3"}, {"min_size_bytes": 1.0}, {**whole, "x": 1.0}):
        with pytest.raises(UserError, match="lmpareto_box is damaged"):
            check_kept("mine", {BOX: wrong})


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["sensitivity", "none"])
def test_a_sweep_follows_its_prediction_in_the_box(prior: str, tmp_path: Path) -> None:
    given = prior if prior == "none" else {"kind": prior, "starts": 2, "settings": 12}
    box = {"size": [0.15, 0.2], "perplexity": 1.02}  # the tiny model loses little
    space = settings(tmp_path).space
    bits = space["sites"]["*"]["bits"]
    space = {
        "sites": {"embedding": {"bits": bits}, "decoder": {"bits": bits}, "*": {"bits": "float16"}},
        "finetuning": {**space["finetuning"], "rate": 0.003},
    }
    config = settings(tmp_path, prior=given, box=box, space=space, trials=5, workers=0)
    begin(WorkContext(config))
    study = sweep_here(config).study
    rows = study.get_trials()
    follows = [row.number for row in rows if FOLLOWS in row.user_attrs]
    assert bool(follows) == (prior == "sensitivity")
    assert not {0, 1} & set(follows)
    assert len({tuple(row.params.values()) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("kind", "more", "trials"),
    [
        ("TPESampler", {"n_startup_trials": 10}, 60),
        ("NSGAIISampler", {"population_size": 10}, 150),
    ],
)
def test_samplers_learn_what_is_outside(kind: str, more: dict[str, int], trials: int) -> None:
    """Smaller is better, but below half it is outside: of later trials, few are there."""
    box = Box(0.5, 2.0, 10.0)

    def outside(told: bool) -> int:
        sampler = getattr(optuna.samplers, kind)(seed=1, **more)
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        sizes = []
        for _ in range(trials):
            trial = study.ask()
            size, other = (trial.suggest_float(name, 0.1, 1.0) for name in ("size", "other"))
            for name, by in box.constraints(size, 1.0).items() if told else ():
                trial.set_constraint(name, by)
            study.tell(trial, [size, other])
            sizes.append(size)
        return sum(size < 0.5 for size in sizes[trials // 2 :])

    assert outside(told=True) < 0.7 * outside(told=False)
