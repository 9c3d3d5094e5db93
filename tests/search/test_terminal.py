"""What is said while something takes long: in a log, and where a training goes wrong."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT
from terminals import Keyboard, Seen

from lmcore.corpus import Corpus, unigram_perplexity
from lmcore.progress import TrainingRecord
from lmcore.task import PERPLEXITY
from search.bench.dense import DenseCheckpoint, doubt
from search.commands.answer import tell_corpus
from search.show.tables import progress_text
from search.streams import say
from search.study.context import StudyContext
from search.study.study import Progress
from search.terminal import WORSE, progress_bar, training_bar
from studies import environment, settings, write_text


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_a_log_gets_a_line_each_30_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress_bar("dense model of mine", "updates") as bar:
        for second in range(10, 101):  # a model has to be built first
            clock.now = second
            bar.to(1900 + 10 * second, 6000)
    assert capsys.readouterr().err.splitlines() == [
        f"dense model of mine: {done} of 6,000 updates, {passed} passed, {left} left"
        for done, passed, left in [
            ("2,200", "00:30", "06:20"),
            ("2,500", "01:00", "05:50"),
            ("2,800", "01:30", "05:20"),
        ]
    ]


def test_a_log_has_what_is_at_work_and_what_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress_bar("mine", "trials") as bar:
        bar.to(0.0, 30)
        bar.say("trial 1: failed")
        clock.now = 31
        bar.to(0.0, 30, "trial 2")
        clock.now = 62
        bar.to(3.4217, 30, "trial 4, trial 5")
    assert capsys.readouterr().err.splitlines() == [
        "trial 1: failed",
        "mine: 0.0 of 30 trials, 00:31 passed, trial 2",
        "mine: 3.4 of 30 trials, 01:02 passed, 08:01 left, trial 4, trial 5",
    ]


BAR = """
import os, sys, time
from search.terminal import progress_bar
with progress_bar("mine", "trials") as bar:
    bar.to(0.0, 30)
    bar.say("trial 1: failed")
    print("warning: \x1b[31mred\x1b[0m [bold]", file=sys.stderr)
    bar.to(3.4217, 30, "trial 4")
"""


def shown_by(program: str, tmp_path: Path, columns: int = 80, **variables: str) -> Keyboard:
    """A program at a terminal, after its end."""
    env = {**environment(tmp_path), "TERM": "xterm", **variables}
    with Keyboard([sys.executable, "-c", program], env, ROOT, columns) as at:
        assert at.end() == 0, at.text
    return at


def test_a_terminal_has_a_bar(tmp_path: Path) -> None:
    lines = shown_by(BAR, tmp_path).seen()
    assert lines[:2] == ["trial 1: failed", "warning: red [bold]"]
    assert re.fullmatch(
        r"mine ━━━─{10,} 3.4 of 30 trials, 00:00 passed, 00:\d\d left, trial 4", lines[2]
    )
    assert lines[3:] == [""]


def test_a_terminal_that_knows_no_colours_or_no_unicode_has_a_bar(tmp_path: Path) -> None:
    at = shown_by(BAR, tmp_path, NO_COLOR="1", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert re.search(r"mine ###-{10,} 3.4 of 30", at.seen()[2])
    assert not re.search(r"\x1b\[(\d+;)*3\d", at.text)


def test_a_dumb_terminal_has_lines(tmp_path: Path) -> None:
    at = shown_by(BAR, tmp_path, TERM="dumb")
    assert at.text.replace("\x1b[31m", "").replace("\x1b[0m", "").splitlines() == [
        "trial 1: failed",
        "warning: red [bold]",
    ]


def test_a_name_that_is_too_long_is_cut_and_what_is_done_is_seen(tmp_path: Path) -> None:
    said = BAR.replace('"mine"', '"a study of a long name: each part alone, to predict a front"')
    line = shown_by(said, tmp_path, columns=60).seen(60)[2]
    assert re.fullmatch(r"a study.*… 3.4 of 30 trials, 00:00 passed, 00:.*", line)


def test_what_processes_write_goes_by_above_the_screen(tmp_path: Path) -> None:
    program = """
import subprocess, sys
from rich.text import Text
from search.screen import screen
with screen(of_processes=True) as shown:
    shown.draw([Text("first"), Text("second")])
    for number in range(3):
        subprocess.run(["sh", "-c", f"echo warning {number} >&2"])
        shown.draw([Text("first"), Text(f"number {number}")])
    print("mine", file=sys.stderr)
print("after", file=sys.stderr)
"""
    at = shown_by(program, tmp_path)
    lines = at.seen()
    assert sorted(lines[:4]) == ["mine", "warning 0", "warning 1", "warning 2"]
    assert lines[4:] == ["first", "number 2", "after", ""]
    assert not Seen(80).feed(at.text).hidden


def test_a_terminal_that_becomes_narrower_leaves_no_rests(tmp_path: Path) -> None:
    """Its lines wrap: 80 columns in 50 take two lines each."""
    program = """
import sys
from rich.text import Text
from search.screen import screen
with screen() as shown:
    shown.draw([Text("x" * 78), Text("short"), Text("y" * 79)])
    input()
    shown.draw([Text("X" * 78), Text("short"), Text("Y" * 79)])
"""
    env = {**environment(tmp_path), "TERM": "xterm"}
    with Keyboard([sys.executable, "-c", program], env, ROOT) as at:
        at.read(lambda text: "y" * 79 in text)
        before, columns = len(at.text), 50
        at.resize(columns, 24)
        at.press(b"\n")
        assert at.end() == 0
    narrow = Seen(columns).feed(at.text[:before])  # wrapped, as the terminal does it
    narrow.feed(at.text[before:].replace("\r\n", "", 1))  # the key's echo
    lines = [line for line in narrow.lines if line]
    assert lines[-3:] == ["X" * 50, "short", "Y" * 50]
    assert not any("x" in line or "y" in line for line in lines)


SAID = WORSE.format(PERPLEXITY.name)


def said_of(perplexities: Sequence[float], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a training with these valid perplexities after its epochs says."""
    with training_bar("mine") as observe:
        for epoch in range(len(perplexities)):
            observe(TrainingRecord(epoch + 1, valid_measures=list(perplexities[: epoch + 1])), 9)
    return capsys.readouterr().err.splitlines()


def test_a_training_that_only_gets_worse_is_told_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = said_of([100, 120, 140, 160, 180], capsys)
    assert said.index(SAID) == 3
    assert said.count(SAID) == 1
    assert "smaller training.rate" in SAID
    assert "Ctrl-C" in SAID


@pytest.mark.parametrize(
    "perplexities", [[100], [100, 120], [100, 90, 120, 130], [100, 100, 120], [100, 120, 110, 130]]
)
def test_a_training_that_gets_better_at_times_is_not_told_of(
    perplexities: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(perplexities, capsys)
    assert len(said) == len(perplexities)
    assert SAID not in said


def test_a_model_that_knows_frequencies_alone_is_told_of(corpus: Corpus) -> None:
    unigram = unigram_perplexity(corpus.train, corpus.valid, len(corpus.vocabulary))

    def said(perplexity: float) -> str | None:
        return doubt(DenseCheckpoint(ROOT, {"valid_perplexity": perplexity}), corpus, PERPLEXITY)

    assert said(unigram * 0.99) is None
    for perplexity in (unigram, unigram * 1.5, math.inf):
        found = said(perplexity)
        assert found
        assert f"valid perplexity {perplexity:.1f}," in found
        assert f"alone give {unigram:.1f}" in found
        assert "training.epochs" in found


def test_a_person_is_told_what_the_text_is_and_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "my text.txt")
    corpus = {"kind": "text", "file": str(text), "max_words": 52}
    tell_corpus(StudyContext(settings(tmp_path, corpus=corpus)))
    described, warning = capsys.readouterr().err.splitlines()
    assert described.startswith("text my text.txt: ")
    assert warning.startswith("warning: unknown words are ")
    assert "train has 200 different words, and corpus.max_words=52 keeps 50." in warning


def test_what_others_named_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb\r\x9bc\u202egnp\n\tünï 漢字 \N{GRINNING FACE}")
    shown = capsys.readouterr().out
    assert shown == "a\\x1b[2Jb\\r\\x9bc\\u202egnp\n\tünï 漢字 \N{GRINNING FACE}\n"


def test_reasons_of_failures_are_lines_and_few() -> None:
    reasons = {" \n ": 1, "Traceback\n  File\nValueError: x": 2, "ValueError: x": 3}
    reasons |= {f"the rank {rank} is over 120": 1 for rank in range(121, 1121)}
    done = Progress("mine", 2000, 0, 0, reasons, 0, 0.0)
    lines = progress_text(done, 1).splitlines()
    assert "5 failed: ValueError: x" in lines
    assert "992 failed for 992 other reasons" in lines
    assert len(lines) < 20
