"""Trials that climb rungs: what they keep, what they go on from, and that all of it replays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from lmcore.recipe import Recipe
from lmcore.settings import parse
from search.bench.workbench import Workbench
from search.measurement import Measurement
from search.rules.fidelity import Look, TowardsFront, best_so_far
from search.study.note import TrialNote
from search.study.results import results_of
from studies import Sweep, settings, sweep_here

pytestmark = pytest.mark.slow

TRIALS = 6
RUNGS = (0.0, 0.05, 0.15)
RULE = {"kind": "front", "rungs": RUNGS, "eta": 10.0}


def climbing(folder: Path, **more: Any) -> Sweep:
    space = settings(folder).space
    space = {**space, "finetuning": {**space["finetuning"], "epochs": 0.3}}
    return sweep_here(settings(folder, space=space, fidelity=RULE, trials=TRIALS, **more))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return climbing(tmp_path_factory.mktemp("climb"))


def rungs_of(looks: list[Look]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for look in looks:
        found.setdefault(look.trial, []).append(look.rung)
    return found


def test_each_trial_is_complete_with_the_values_of_its_best_file(swept: Sweep) -> None:
    looks = swept.context.store.looks("mine")
    climbed = rungs_of(looks)
    assert set(climbed) == set(range(TRIALS))
    assert all(rungs == list(range(len(rungs))) for rungs in climbed.values())
    assert {len(rungs) for rungs in climbed.values()} > {4}  # some end early, some do not
    measured = results_of(swept.context).trials
    for row in swept.study.get_trials():
        assert row.state == TrialState.COMPLETE
        mine = [look for look in looks if look.trial == row.number]
        best = min(mine, key=lambda look: look.perplexity)
        assert row.values == [best.size_bytes, best.perplexity]
        one = measured[row.number]
        assert one.recipe == TrialNote.of(row).recipe
        assert (one.size_bytes, one.valid_measure) == (best.size_bytes, best.perplexity)
        reached = parse(Recipe, one.recipe).finetuning
        if best.rung:
            assert reached
            assert reached.ends == (*RUNGS[1:], 0.3)[: best.rung]
        else:
            assert reached is None


def test_every_file_that_was_measured_is_on_the_front_or_dominated(swept: Sweep) -> None:
    looks = swept.context.store.looks("mine")
    points = results_of(swept.context).front.points
    found = {(point.trial, point.rung) for point in points}
    wanted = {
        (one.trial, one.rung)
        for one in looks
        if not any(
            other.size_bytes <= one.size_bytes
            and other.perplexity <= one.perplexity
            and (other.size_bytes, other.perplexity) != (one.size_bytes, one.perplexity)
            for other in looks
        )
    }
    assert found == wanted


def test_none_that_may_move_the_front_is_stopped(swept: Sweep) -> None:
    """By a search through all looks, the later ones too: who is not dominated was not before."""
    looks = best_so_far(swept.context.store.looks("mine"))
    dense = swept.context.need_checkpoint()
    size_bytes, perplexity = dense.size_bytes, 2.0 * dense.valid_measure
    for look in looks:
        rivals = [one for one in looks if one.rung == look.rung and one.trial != look.trial]
        dominated = any(
            one.size_bytes <= look.size_bytes and one.perplexity <= look.perplexity
            for one in rivals
        )
        inside = look.size_bytes <= size_bytes and look.perplexity <= perplexity
        if look.rung in (1, 2) and inside and not dominated:
            assert look.rung + 1 in rungs_of(looks)[look.trial]


def test_a_climb_is_what_one_fine_tuning_in_parts_gives(swept: Sweep, tmp_path: Path) -> None:
    measured = results_of(swept.context).trials.values()
    top = max(measured, key=lambda one: one.updates)
    bench = bench_in(swept, tmp_path)
    again = bench.measure(parse(Recipe, top.recipe))
    assert same(again, top)
    assert again.updates == top.updates
    assert not list((tmp_path / "stages").glob("*.safetensors"))


def test_stages_may_go_at_any_time(swept: Sweep, tmp_path: Path) -> None:
    measured = results_of(swept.context).trials.values()
    recipe = parse(Recipe, max(measured, key=lambda one: one.updates).recipe)
    ladder = TowardsFront(rungs=RUNGS).ladder(recipe)
    bench = bench_in(swept, tmp_path)
    for damage in (None, "cut", "gone"):
        for step in ladder[:-1]:
            bench.measure(step, goes_on=True)
        kept = sorted((tmp_path / "stages").glob("*.safetensors"))
        assert len(kept) == len(ladder) - 2
        for path in kept:
            if damage == "cut":
                path.write_bytes(path.read_bytes()[:1000])
            if damage == "gone":
                path.unlink()
        again = bench.measure(recipe)
        assert any(same(again, one) for one in measured)


def test_the_folder_of_stages_keeps_to_its_limit(tmp_path: Path) -> None:
    swept = climbing(tmp_path, max_stages="60 kB")
    kept = list((tmp_path / "stages").glob("*.safetensors"))
    assert sum(path.stat().st_size for path in kept) <= 60_000
    assert set(rungs_of(swept.context.store.looks("mine"))) == set(range(TRIALS))


def test_an_equal_recipe_is_what_its_trial_came_to(tmp_path: Path) -> None:
    bits = {"kind": "linear", "bits": {"choice": [1, 2, 8]}}
    finetuning = {**settings(tmp_path).space["finetuning"], "epochs": 0.3, "rate": 0.005}
    space = {"sites": {"*": {"tie": "all", "bits": bits}}, "finetuning": finetuning}
    swept = sweep_here(settings(tmp_path, space=space, fidelity=RULE, trials=3))
    rows = swept.study.get_trials()
    repeats = [row for row in rows if TrialNote.of(row).duplicate]
    assert len(rows) - len(repeats) == 3
    assert repeats
    first = {row.params["all.bits.bits"]: row.values for row in reversed(rows)}
    assert all(row.values == first[row.params["all.bits.bits"]] for row in repeats)


def bench_in(swept: Sweep, folder: Path) -> Workbench:
    own = swept.context.need_checkpoint()
    return swept.context.but(cache=str(folder)).bench(own)


def same(one: Measurement, other: Measurement) -> bool:
    return (one.sha256, one.valid_measure) == (other.sha256, other.valid_measure)
