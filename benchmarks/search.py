"""How much training a search needs for the front: our rule against others, on a recorded grid.

    python -m benchmarks.search [SEEDS] [GRID]

Samplers choose among the recipes of a grid of `benchmarks.grid`. The measurements come from its
table, and a simulated clock runs any number of workers. The cost of a search is its training, in
epochs; a recipe that is proposed again costs nothing.

MOASHA is Syne Tune's (`pip install -e '.[peers]'`).
"""

from __future__ import annotations

import heapq
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from statistics import median
from typing import Any, Protocol

import optuna
from scipy.stats import kendalltau

from benchmarks import grid
from benchmarks.grid import GRIDS, SMALL, Cell, Grid
from benchmarks.moasha import Moasha, installed
from search.front import Point, hypervolume
from search.rules.fidelity import Asha, Fidelity, Look, TowardsFront, Whole, best_so_far
from search.rules.following import Corners
from search.rules.sensitivity import LAYERS, Effects, Predicted, Sensitivity
from search.study.note import TrialNote
from search.study.prediction import Prediction
from search.terminal import quiet_optuna
from search.work.worker import MOST_REPEATS

SEEDS, WORKERS = 20, 4
WHOLE_TRIALS = 80  # of a search that trains each trial to its end
SHARES = (0.9, 0.95, 0.98, 0.99)
STARTS = 12  # of the predicted front, where it is not followed
MOST = 0.5  # of the training of a whole search: after that the others are stopped

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "tpe": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=12
    ),
}


class Searcher(Protocol):
    """Chooses recipes, as an index into each axis, and who is trained on."""

    def ask(self, looks: Sequence[Look]) -> tuple[int, dict[str, int]]:
        """A trial's number and its recipe, given what was measured so far."""

    def goes_on(self, looks: Sequence[Look]) -> bool:
        """Whether the trial of the last look is trained to the next rung; not asked at the last
        one."""

    def end(self, trial: int, values: tuple[float, float] | None) -> None:
        """The trial's size and perplexity; None for a recipe that another trial is at."""


@dataclass(frozen=True)
class Plan:
    """A way to search."""

    first: int  # the rung at which a trial is looked at first
    begin: Callable[[int], Searcher]  # given a seed


def plans(name: str = SMALL.name) -> dict[str, Plan]:
    """The ways to search a grid, by name; ours with its defaults."""
    on = table(name)
    rungs = on.design.rungs
    ours = TowardsFront(rungs=rungs).within(on.design.box)
    found = {f"{one}, whole": _sampled(on, one, Whole()) for one in SAMPLERS}
    found |= {f"{one}, ours": _sampled(on, one, ours) for one in SAMPLERS}
    found |= {f"{one}, ours, prior": _sampled(on, one, ours, starts=STARTS) for one in SAMPLERS}
    found |= {
        f"{one}, ours, follows": _sampled(on, one, ours, Sensitivity().starts, follows=True)
        for one in SAMPLERS
    }
    found["random, asha"] = _sampled(on, "random", Asha(rungs=rungs[1:]))
    if installed():
        found["moasha"] = Plan(1, partial(_moasha, on, mended=False))
        found["moasha, mended"] = Plan(1, partial(_moasha, on, mended=True))
    return found


def _sampled(
    on: Grid, sampler: str, rule: Fidelity, starts: int = 0, follows: bool = False
) -> Plan:
    ladder = on.design.ladder
    first = ladder.index(rule.rungs[0]) if rule.rungs else len(ladder) - 1
    return Plan(first, lambda seed: Sampled(on, sampler, rule, seed, starts, follows))


def _moasha(on: Grid, seed: int, mended: bool) -> Searcher:
    design = on.design
    lengths = {axis: len(values) for axis, values in design.axes.items()}
    return Moasha(lengths, design.ladder, seed, mended)


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
def table(name: str = SMALL.name) -> Grid:
    return grid.read(GRIDS[name])


def reference(on: Grid) -> tuple[float, float]:
    """The corner of the grid's box; without one, the dense model's file and the perplexity of the
    words' frequencies alone."""
    return on.box.reference if on.box else (float(on.dense.size_bytes), on.unigram_perplexity)


def volume_of(looks: Sequence[Look], on: Grid) -> float:
    points = [
        Point("", n, one.size_bytes, one.perplexity, None, None) for n, one in enumerate(looks)
    ]
    return hypervolume(points, reference(on), on.box.min_size_bytes if on.box else 0.0)


def full_volume(on: Grid) -> float:
    """The hypervolume of all recipes at their last rung."""
    return volume_of([looks[-1] for looks in on.looks.values()], on)


def predicted(on: Grid) -> list[Predicted]:
    """The predicted front in the box."""
    alone, dense = on.alone, on.alone[on.design.dense]
    parts = {
        LAYERS if part == ("embedding",) else "+".join(part): [
            e for e in alone.values() if tuple(axis for axis, _ in e.parameters) == part
        ]
        for part in on.design.parts
    }
    effects = Effects(dense, on.dense.size_bytes, on.dense.perplexity, parts)
    low, high = (on.box.min_size_bytes, on.box.max_size_bytes) if on.box else (0.0, math.inf)
    return effects.within(low, high)


def corners(on: Grid) -> Corners:
    """Between which the hypervolume is: ln bytes and ln perplexity."""
    size, perplexity = reference(on)
    low = math.log(on.box.min_size_bytes) if on.box else 0.0
    return (low, 0.0), (math.log(size), math.log(perplexity))


# --- one search --------------------------------------------------------------------------------


class Sampled:
    """A sampler of Optuna's with a rule of ours. It begins with so many `starts` of the predicted
    front; where it `follows`, it tries others of that front as `search.rules.following` says."""

    def __init__(
        self, on: Grid, sampler: str, rule: Fidelity, seed: int, starts: int, follows: bool
    ) -> None:
        self.on, self.rule, self.follows = on, rule, follows
        self.study = optuna.create_study(
            directions=["minimize", "minimize"], sampler=SAMPLERS[sampler](seed)
        )
        front = predicted(on) if starts else []
        self.prediction = Prediction(front, list(map(self._indices, front)), corners(on))
        for start in Sensitivity(starts=starts).chosen(front) if starts else []:
            self.study.enqueue_trial(self._indices(start))

    def _indices(self, recipe: Predicted) -> dict[str, int]:
        axes = self.on.design.axes
        return {axis: axes[axis].index(value) for axis, value in recipe.parameters}

    def ask(self, looks: Sequence[Look]) -> tuple[int, dict[str, int]]:
        if self.follows:
            self.prediction.follow(self.study, looks)
        trial = self.study.ask()
        TrialNote(last_rung=len(self.on.design.rungs)).write(trial)
        return trial.number, {
            axis: trial.suggest_int(axis, 0, len(values) - 1)
            for axis, values in self.on.design.axes.items()
        }

    def goes_on(self, looks: Sequence[Look]) -> bool:
        dense, best, box = self.on.dense, best_so_far(looks), self.on.box
        if box:
            if not box.holds_size(looks[-1].size_bytes):
                return False
            best = [one for one in best if box.holds_size(one.size_bytes)]
        return self.rule.goes_on(best[-1], best, (dense.size_bytes, dense.perplexity))

    def end(self, trial: int, values: tuple[float, float] | None) -> None:
        self.study.tell(trial, values, state=None if values else optuna.trial.TrialState.FAIL)


class Search:
    """A plan run once, by simulated workers that train as many epochs a second, until it has spent
    so many `epochs` or has the hypervolume."""

    def __init__(
        self,
        plan: Plan,
        seed: int,
        epochs: float,
        volume: float = math.inf,
        on: Grid | None = None,
    ) -> None:
        self.on = on or table()
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
            self.looks.append(replace(self.on.looks[cell][rung], trial=trial))
            self.spent += self._cost(rung)
            self.course.spent.append(self.spent)
            self.course.volume.append(volume_of(self.looks, self.on))
            if self.course.volume[-1] >= self.volume:
                break
            if rung + 1 < len(self.on.design.ladder) and self.searcher.goes_on(self.looks):
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
            trial, setting = self.searcher.ask(self.looks)
            axes = self.on.design.axes
            cell = tuple(values[setting[axis]] for axis, values in axes.items())
            if cell not in self.taken:
                self.taken.add(cell)
                self._train(now, trial, cell, self.first)
                return
            self.searcher.end(trial, self.known.get(cell))

    def _train(self, now: float, trial: int, cell: Cell, rung: int) -> None:
        heapq.heappush(self.clock, (now + self._cost(rung), trial, cell, rung))

    def _cost(self, rung: int) -> float:
        """Epochs of training from the rung before."""
        ladder = self.on.design.ladder
        return ladder[rung] - (ladder[rung - 1] if rung > self.first else 0.0)


def _run(asked: tuple[str, str, int, float, float]) -> tuple[str, Course]:
    quiet_optuna()
    on, name, seed, epochs, volume = asked
    return name, Search(plans(on)[name], seed, epochs, volume, table(on)).run()


# --- what it says ------------------------------------------------------------------------------


def correlations(on: Grid) -> dict[str, float]:
    """Kendall's tau of the perplexities at each rung, and of the additive prediction, with the
    last rung's."""
    last = [looks[-1].perplexity for looks in on.looks.values()]
    found = {
        f"tau_rung_{epochs:g}": kendalltau(
            [looks[rung].perplexity for looks in on.looks.values()], last
        ).statistic
        for rung, epochs in enumerate(on.design.rungs)
    }
    nats = [_additive(cell, on) for cell in on.looks]
    return {**found, "tau_additive": kendalltau(nats, last).statistic}


def _additive(cell: Cell, on: Grid) -> float:
    given = on.design.named(cell)
    return sum(
        on.alone[tuple(given[axis] if axis in part else None for axis in given)].nats
        for part in on.design.parts
    )


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    on = table(sys.argv[2] if len(sys.argv) > 2 else SMALL.name)
    full = full_volume(on)
    budget = WHOLE_TRIALS * on.design.epochs
    known = plans(on.design.name)
    whole = [name for name in known if name.endswith("whole")]
    others = [name for name in known if name not in whole]
    courses: dict[str, list[Course]] = {name: [] for name in known}
    with multiprocessing.get_context("spawn").Pool() as pool:
        for name, course in pool.imap(
            _run, [(on.design.name, n, s, budget, math.inf) for n in whole for s in range(seeds)]
        ):
            courses[name].append(course)
        reached = {name: median(course.volume[-1] for course in courses[name]) for name in whole}
        best = max(reached, key=lambda name: reached[name])
        end = max(reached[best], SHARES[-1] * full)
        for name, course in pool.imap(
            _run, [(on.design.name, n, s, MOST * budget, end) for n in others for s in range(seeds)]
        ):
            courses[name].append(course)
    if not installed():
        print("without MOASHA: syne-tune is not installed")
    print(f"{len(on.looks)} recipes, reference {reference(on)}, hypervolume {full:.4f}")
    print(f"best of {WHOLE_TRIALS} whole trials: {best}, {reached[best] / full:.4f} of it")
    marks = {f"{share:.0%}": share * full for share in SHARES} | {"best whole": reached[best]}
    print(f"{'epochs until':24s}" + "".join(f"{mark:>22s}" for mark in marks))
    figures: dict[str, Any] = {}
    for name in courses:
        needed = {mark: [c.needed(v) for c in courses[name]] for mark, v in marks.items()}
        figures[name] = {mark: _quartiles(values) for mark, values in needed.items()}
        print(f"{name:24s}" + "".join(f"{_shown(q):>22s}" for q in figures[name].values()))
    ours = figures["tpe, ours, follows"]["best whole"][1]
    ratio = ours and ours / budget
    print(json.dumps({**correlations(on), "ratio": ratio, "epochs": figures}))


def _quartiles(values: list[float]) -> list[float | None]:
    """First quartile, median, third; None for one that is never reached."""
    ordered, last = sorted(values), len(values) - 1
    return [v if math.isfinite(v := ordered[round(q * last)]) else None for q in (0.25, 0.5, 0.75)]


def _shown(quartiles: list[float | None]) -> str:
    low, middle, high = ("-" if value is None else f"{value:.0f}" for value in quartiles)
    return f"{middle} ({low}..{high})"


if __name__ == "__main__":
    main()
