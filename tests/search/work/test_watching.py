"""What a sweep shows in a terminal: how far it is, who does what, and the front so far."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from terminals import Keyboard, Seen

from search.front import Point, front_of, hypervolume
from search.rules.fidelity import Look
from search.rules.limits import Limits
from search.screen import Size, gauge, sparkline
from search.show.live import AtWork, Live, frame
from search.store.slots import Slots
from search.terminal import Pace
from search.work.watching import Growing
from studies import COMMAND, environment, settings, sweep_here, write_configs

REFERENCE = (1_000_000.0, 200.0)


def looks(count: int, seed: int) -> list[Look]:
    """Trials of up to three rungs, many of them equal or of no use."""
    draw = random.Random(seed)
    found = []
    for trial in range(count):
        for rung in range(draw.randint(1, 3)):
            perplexity = draw.choice([float(draw.randint(90, 120)), math.inf, math.nan])
            found.append(Look(trial, rung, draw.randint(1, 30) * 50_000, perplexity))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limits", [Limits(), Limits(900_000, 110.0)])
def test_front_and_hypervolume_grow_as_if_computed_anew(seed: int, limits: Limits) -> None:
    growing, every = Growing(limits, REFERENCE), looks(40, seed)
    for number, look in enumerate(every, 1):
        growing.add(every[max(0, number - 3) : number])  # what is known comes again
        points = [
            Point(f"{one.trial}/{one.rung}", None, one.size_bytes, one.perplexity, None, None)
            for one in every[:number]
            if not (math.isfinite(one.perplexity) and limits.broken(one.size_bytes, one.perplexity))
        ]
        front = front_of("", points).points
        assert [(one.size_bytes, one.perplexity) for one in growing.front] == [
            (one.size_bytes, one.valid_measure) for one in front
        ]
        assert growing.hypervolume[-1] == pytest.approx(hypervolume(front, REFERENCE))
        assert len(growing.hypervolume) == number
        assert growing.rungs(look.trial) == look.rung + 1


def live(workers: int, points: int) -> Live:
    pace = Pace("trials")
    pace.to(34.5, 120)
    front = [Look(n, n % 3, 10_000 * (n + 1), 200.0 - n) for n in range(points)]
    at_work = [AtWork(f"worker {n}", f"trial {n}", 1, n / workers) for n in range(workers)]
    return Live(
        "mine", pace, at_work, front, [0.1 * n for n in range(points)], min(points, 2), failed=3
    )


def test_a_sweep_without_trials_to_go_says_the_time_alone() -> None:
    pace = Pace("trials")
    pace.to(0, 0)
    assert str(pace) == "00:00 passed"


@pytest.mark.parametrize("workers", [0, 1, 2, 64])
@pytest.mark.parametrize("points", [0, 1, 2, 300])
@pytest.mark.parametrize("lines", [3, 4, 8, 19, 60])
def test_a_screen_has_no_more_lines_than_the_terminal(
    workers: int, points: int, lines: int
) -> None:
    shown = [one.plain for one in frame(live(workers, points), Size(80, lines))]
    assert len(shown) <= lines
    assert "34.5 of 120 trials" in shown[0]
    if lines >= 8:
        assert any("worker 0" in one for one in shown) == (workers > 0)
    if lines >= 19:
        assert any("perplexity" in one for one in shown) == (points > 0)
    if workers == 64 and lines >= 8:
        (more,) = (one for one in shown if one.endswith("more at work"))
        assert int(more.split()[1]) + sum(one.startswith("worker") for one in shown) == 64
    if points == 300 and lines >= 19:
        assert any("trial 0 " in one for one in shown)
        assert any("trial 299" in one for one in shown)


def test_sixty_columns_and_ascii_are_enough() -> None:
    shown = [one.plain for one in frame(live(2, 12), Size(60, 19, ascii=True))]
    assert all(len(one) <= 60 for one in shown)
    assert all(one.isascii() for one in shown)
    assert any("worker 1  trial 1  rung 1  ##########----------  50%" in one for one in shown)
    assert "hypervolume 1.100, +1.000 now, 3 failed" in shown[1]


def test_gauges_and_courses() -> None:
    assert gauge(0.5, 10, ascii=True) == ("#####", "-----")
    assert gauge(1.7, 4, ascii=False) == ("━━━━", "")
    assert sparkline([], 5) == ""
    assert sparkline([2.0, 2.0], 5) == "▁▁"
    assert sparkline([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    context = sweep_here(settings(tmp_path), slots=3).context
    slots: Slots = context.slots
    every = {one.name for one in slots.ended() if one.kind == "trial"}
    assert {one.name for one in slots.ended(max(every)) if one.kind == "trial"} == {max(every)}
    assert len(slots.ended(max(every))) == 1 + len(slots.ended()) - len(every)  # and baselines
    more = context.but(trials=5).slots
    more.provide([], [])
    assert more.first_open() == {"trial": (2, "00000003")}
    store: Any = context.store
    assert store.looks("mine", {1}) == [one for one in store.looks("mine") if one.trial == 1]
    assert store.looks("mine", set()) == []


@pytest.mark.slow
def test_a_sweep_at_a_terminal_leaves_its_last_state_and_the_summary(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs")
    command = [COMMAND, "sweep", f"--config-dir={configs}", "study=mine", "trials=3", "workers=2"]
    env = {**environment(tmp_path / "cache"), "TERM": "xterm"}
    with Keyboard(command, env, tmp_path, columns=100) as at:
        assert at.end() == 0, at.text
    screen = Seen(100).feed(at.text)
    lines = screen.lines
    assert not screen.hidden
    assert [one for one in lines if one.startswith("mine ━")][-1].count("3 of 3 trials") == 1
    assert sum("hypervolume" in one for one in lines) == 1  # drawn in place
    for trial in range(3):
        assert sum(one.startswith(f"trial {trial}: ") for one in lines) == 1
    summary = lines.index("mine: 3 of 3 trials complete")
    (front,) = (at for at, one in enumerate(lines) if one.startswith("front of "))
    assert front < summary
    assert "worker 0" in at.text


@pytest.mark.slow
def test_ctrl_c_gives_the_terminal_back(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs")
    long = ("study=mine", "trials=3", "workers=1", "space.finetuning.epochs=500")
    env = {**environment(tmp_path / "cache"), "TERM": "xterm"}
    with Keyboard([COMMAND, "sweep", f"--config-dir={configs}", *long], env, tmp_path) as at:
        at.read(lambda text: "trial 0" in text and "%" in text.rpartition("worker 0")[2])
        at.press(b"\x03")
        assert at.end() == 130
    screen = Seen(80).feed(at.text)
    assert not screen.hidden
    assert "lmpareto sweep: stopped; the same command goes on from here" in screen.lines[-2]
    assert "Traceback" not in at.text
