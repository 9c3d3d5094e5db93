"""The benchmark of searches: what it reads, spends and says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import grid, search
from benchmarks.moasha import installed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_has_every_recipe_at_every_rung() -> None:
    table = search.table()
    assert len(table.looks) >= 300
    assert all([look.rung for look in looks] == [0, 1, 2, 3] for looks in table.looks.values())
    assert all(math.isfinite(look.perplexity) for looks in table.looks.values() for look in looks)


def test_a_rate_that_follows_from_what_was_lost_makes_no_recipe_worse() -> None:
    """At the first rung of the same recipes. With one rate for all, a third of them are."""
    worse = {
        design.name: sum(
            looks[1].perplexity > looks[0].perplexity for looks in grid.read(design).looks.values()
        )
        for design in (grid.SMALL, grid.GENTLE)
    }
    assert worse == {"grid": 105, "gentle": 0}
    assert len(grid.read(grid.GENTLE).looks) == 324


def test_a_whole_search_spends_its_budget_and_ends_below_the_full_grid() -> None:
    course = search.Search(search.plans()["random, whole"], 0, 40.0).run()
    assert course.spent == [grid.SMALL.epochs * (n + 1) for n in range(10)]
    assert course.volume == sorted(course.volume)
    full = search.full_volume(search.table())
    assert 0 < course.volume[-1] < full
    assert course.needed(course.volume[3]) <= 16
    assert course.needed(full) == math.inf


@pytest.mark.parametrize("name", ["random, ours", "random, asha"])
def test_a_rule_sees_more_recipes_for_the_same_training(name: str) -> None:
    course = search.Search(search.plans()[name], 0, 40.0).run()
    assert 40 <= course.spent[-1] <= 40 + 3  # the last look may be at a last rung
    assert len(course.spent) > 20


def test_a_search_is_a_function_of_its_seed() -> None:
    first, again, other = (
        search.Search(search.plans()["tpe, ours"], seed, 20.0).run() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.skipif(not installed(), reason="syne-tune is not installed")
def test_moasha_stops_most_trials_early() -> None:
    searched = search.Search(search.plans()["moasha"], 0, 40.0)
    searched.run()
    assert len(searched.taken) > 2 * sum(look.rung == 3 for look in searched.looks) > 0


def test_its_last_line_is_one_document(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.search", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["epochs"]) == set(search.plans())
    for name in ("tau_rung_0", "tau_rung_0.25", "tau_rung_1", "tau_additive"):
        assert -1 <= said[name] <= 1
