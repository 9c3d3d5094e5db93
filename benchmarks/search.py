"""How much training a search needs for the front: our rule against others, on a recorded grid.

    python -m benchmarks.search [SEEDS]

Samplers choose among the recipes of `benchmarks.grid`. The measurements come from its table, and a
simulated clock runs any number of workers. The cost of a search is its training, in epochs; a
recipe that is proposed again costs nothing. MOASHA is Syne Tune's (`pip install -e '.[peers]'`).
"""

from __future__ import annotations

import heapq
import json
import math
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import median
from typing import Any, Protocol

import optuna
from scipy.stats import kendalltau

from benchmarks import grid
from benchmarks.grid import AXES, PARTS, RUNGS, Cell, Grid
from benchmarks.moasha import Moasha, installed
from search.front import Point, hypervolume
from search.rules.fidelity import Asha, Fidelity, Look, TowardsFront, Whole, best_so_far
from search.rules.sensitivity import LAYERS, Effects, Sensitivity
from search.terminal import quiet_optuna
from search.work.worker import MOST_REPEATS

SEEDS, WORKERS = 20, 4
WHOLE_TRIALS = 80  # of a search that trains each trial to its end
SHARES = (0.9, 0.95, 0.98, 0.99)
MOST = 0.5  # of the training of a whole search: after that the others are stopped
LADDER = (*RUNGS, grid.EPOCHS)  # the epochs of each rung of the table

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "tpe": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=12
    ),
}


class Searcher(Protocol):
    """Chooses recipes, as an index into each axis, and who is trained on."""

    def ask(self) -> tuple[int, dict[str, int]]:
        """A trial's number and its recipe."""

    def goes_on(self, looks: list[Look]) -> bool:
        """Whether the trial of the last look is trained to the next rung; not asked at the last
        one."""

    def end(self, trial: int, values: tuple[float, float] | None) -> None:
        """The trial's size and perplexity; None for a recipe that another trial is at."""


@dataclass(frozen=True)
class Plan:
    """A way to search."""

    first: int  # the rung at which a trial is looked at first
    begin: Callable[[int], Searcher]  # given a seed


def plans() -> dict[str, Plan]:
    """The ways to search, by name; ours with its defaults."""
    ours = TowardsFront(rungs=RUNGS)
    found = {f"{name}, whole": _sampled(name, Whole()) for name in SAMPLERS}
    found |= {f"{name}, ours": _sampled(name, ours) for name in SAMPLERS}
    found |= {f"{name}, ours, prior": _sampled(name, ours, prior=True) for name in SAMPLERS}
    found["random, asha"] = _sampled("random", Asha(rungs=RUNGS[1:]))
    if installed():
        found["moasha"] = Plan(1, partial(_moasha, mended=False))
        found["moasha, mended"] = Plan(1, partial(_moasha, mended=True))
    return found


def _sampled(sampler: str, rule: Fidelity, prior: bool = False) -> Plan:
    first = LADDER.index(rule.rungs[0]) if rule.rungs else len(LADDER) - 1
    return Plan(first, lambda seed: Sampled(sampler, rule, prior, seed))


def _moasha(seed: int, mended: bool) -> Searcher:
    return Moasha({axis: len(values) for axis, values in AXES.items()}, LADDER, seed, mended)


@dataclass
class Course:
    """The hypervolume over the training spent, in epochs."""

    spent: list[float] = field(default_factory=list)
    volume: list[float] = field(default_factory=list)

    def needed(self, volume: float) -> float:
        """The training until so much hypervolume; infinite where it never was."""
        found = (s for s, v in zip(self.spent, self.volume, strict=True) if v >= volume - 1e-12)
        return next(found, math.inf)


@cache
def table() -> Grid:
    return grid.read()


@cache
def reference() -> tuple[float, float]:
    """The dense size, and the perplexity of the words' frequencies alone."""
    return float(table().dense.size_bytes), table().unigram_perplexity


def volume_of(looks: list[Look]) -> float:
    points = [
        Point("", n, one.size_bytes, one.perplexity, None, None) for n, one in enumerate(looks)
    ]
    return hypervolume(points, reference())


@cache
def predicted() -> list[dict[str, int]]:
    """What the prior begins with, as indices into the axes."""
    alone, dense = table().alone, table().alone[grid.DENSE]
    parts = {
        name: [e for e in alone.values() if tuple(axis for axis, _ in e.parameters) == part]
        for name, part in zip((LAYERS, "words", "layer"), PARTS, strict=True)
    }
    effects = Effects(dense, table().dense.size_bytes, table().dense.perplexity, parts)
    return [
        {axis: AXES[axis].index(value) for axis, value in one.items()}
        for one in Sensitivity().chosen(effects.front)
    ]


# --- one search --------------------------------------------------------------------------------


class Sampled:
    """A sampler of Optuna's with a rule of ours."""

    def __init__(self, sampler: str, rule: Fidelity, prior: bool, seed: int) -> None:
        self.rule = rule
        self.study = optuna.create_study(
            directions=["minimize", "minimize"], sampler=SAMPLERS[sampler](seed)
        )
        for start in predicted() if prior else []:
            self.study.enqueue_trial(start)

    def ask(self) -> tuple[int, dict[str, int]]:
        trial = self.study.ask()
        return trial.number, {
            axis: trial.suggest_int(axis, 0, len(values) - 1) for axis, values in AXES.items()
        }

    def goes_on(self, looks: list[Look]) -> bool:
        dense, best = table().dense, best_so_far(looks)
        return self.rule.goes_on(best[-1], best, (dense.size_bytes, dense.perplexity))

    def end(self, trial: int, values: tuple[float, float] | None) -> None:
        self.study.tell(trial, values, state=None if values else optuna.trial.TrialState.FAIL)


class Search:
    """A plan run once, by simulated workers that train as many epochs a second, until it has spent
    so many `epochs` or has the hypervolume."""

    def __init__(self, plan: Plan, seed: int, epochs: float, volume: float = math.inf) -> None:
        self.searcher, self.first = plan.begin(seed), plan.first
        self.epochs, self.volume = epochs, volume
        self.looks: list[Look] = []
        self.known: dict[Cell, tuple[float, float]] = {}
        self.taken: set[Cell] = set()
        self.clock: list[tuple[float, int, Cell, int]] = []
        self.spent, self.course = 0.0, Course()

    def run(self) -> Course:
        for _ in range(WORKERS):
            self._begin(0.0)
        while self.clock and self.spent < self.epochs:
            now, trial, cell, rung = heapq.heappop(self.clock)
            self.looks.append(Look(trial, rung, *_values(cell, rung)))
            self.spent += self._cost(rung)
            self.course.spent.append(self.spent)
            self.course.volume.append(volume_of(self.looks))
            if self.course.volume[-1] >= self.volume:
                break
            if rung + 1 < len(LADDER) and self.searcher.goes_on(self.looks):
                self._train(now, trial, cell, rung + 1)
                continue
            best = best_so_far(self.looks)[-1]
            self.known[cell] = (best.size_bytes, best.perplexity)
            self.searcher.end(trial, self.known[cell])
            self._begin(now)
        return self.course

    def _begin(self, now: float) -> None:
        """A worker asks for a recipe that nobody has measured; without one it leaves."""
        for _ in range(MOST_REPEATS):
            trial, setting = self.searcher.ask()
            cell = tuple(values[setting[axis]] for axis, values in AXES.items())
            if cell not in self.taken:
                self.taken.add(cell)
                self._train(now, trial, cell, self.first)
                return
            self.searcher.end(trial, self.known.get(cell))

    def _train(self, now: float, trial: int, cell: Cell, rung: int) -> None:
        heapq.heappush(self.clock, (now + self._cost(rung), trial, cell, rung))

    def _cost(self, rung: int) -> float:
        """Epochs of training from the rung before."""
        return LADDER[rung] - (LADDER[rung - 1] if rung > self.first else 0.0)


def _values(cell: Cell, rung: int) -> tuple[int, float]:
    look = table().looks[cell][rung]
    return look.size_bytes, look.perplexity


def _run(asked: tuple[str, int, float, float]) -> tuple[str, Course]:
    quiet_optuna()
    name, seed, epochs, volume = asked
    return name, Search(plans()[name], seed, epochs, volume).run()


# --- what it says ------------------------------------------------------------------------------


def correlations() -> dict[str, float]:
    """Kendall's tau of the perplexities at each rung, and of the additive prediction, with the
    last rung's."""
    last = [looks[-1].perplexity for looks in table().looks.values()]
    found = {
        f"tau_rung_{epochs:g}": kendalltau(
            [looks[rung].perplexity for looks in table().looks.values()], last
        ).statistic
        for rung, epochs in enumerate(RUNGS)
    }
    nats = [_additive(cell) for cell in table().looks]
    return {**found, "tau_additive": kendalltau(nats, last).statistic}


def _additive(cell: Cell) -> float:
    given = dict(zip(AXES, cell, strict=True))
    return sum(
        table().alone[tuple(given[axis] if axis in part else None for axis in AXES)].nats
        for part in PARTS
    )


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    full = volume_of([looks[-1] for looks in table().looks.values()])
    budget = WHOLE_TRIALS * grid.EPOCHS
    whole = [name for name in plans() if name.endswith("whole")]
    others = [name for name in plans() if name not in whole]
    courses: dict[str, list[Course]] = {name: [] for name in plans()}
    with multiprocessing.get_context("spawn").Pool() as pool:
        for name, course in pool.imap(
            _run, [(n, s, budget, math.inf) for n in whole for s in range(seeds)]
        ):
            courses[name].append(course)
        reached = {name: median(course.volume[-1] for course in courses[name]) for name in whole}
        best = max(reached, key=lambda name: reached[name])
        end = max(reached[best], SHARES[-1] * full)
        for name, course in pool.imap(
            _run, [(n, s, MOST * budget, end) for n in others for s in range(seeds)]
        ):
            courses[name].append(course)
    if not installed():
        print("without MOASHA: syne-tune is not installed")
    print(f"{len(table().looks)} recipes, reference {reference()}, hypervolume {full:.4f}")
    print(f"best of {WHOLE_TRIALS} whole trials: {best}, {reached[best] / full:.4f} of it")
    marks = {f"{share:.0%}": share * full for share in SHARES} | {"best whole": reached[best]}
    print(f"{'epochs until':24s}" + "".join(f"{mark:>22s}" for mark in marks))
    figures: dict[str, Any] = {}
    for name in courses:
        needed = {mark: [c.needed(v) for c in courses[name]] for mark, v in marks.items()}
        figures[name] = {mark: _quartiles(values) for mark, values in needed.items()}
        print(f"{name:24s}" + "".join(f"{_shown(q):>22s}" for q in figures[name].values()))
    ours = figures["tpe, ours, prior"]["best whole"][1]
    ratio = ours and ours / budget
    print(json.dumps({**correlations(), "ratio": ratio, "epochs": figures}))


def _quartiles(values: list[float]) -> list[float | None]:
    """First quartile, median, third; None for one that is never reached."""
    ordered, last = sorted(values), len(values) - 1
    return [v if math.isfinite(v := ordered[round(q * last)]) else None for q in (0.25, 0.5, 0.75)]


def _shown(quartiles: list[float | None]) -> str:
    low, middle, high = ("-" if value is None else f"{value:.0f}" for value in quartiles)
    return f"{middle} ({low}..{high})"


if __name__ == "__main__":
    main()
