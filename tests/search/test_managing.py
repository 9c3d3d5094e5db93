"""`remove`, `rename` and `clean`, as a person types them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.commands.answer import agreed
from search.study.context import WorkContext
from studies import Shell, settings, sweep_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """With a study `mine` of six trials, swept two hours ago."""
    cache = tmp_path_factory.mktemp("managing") / "cache"
    cache.mkdir()
    sweep_here(settings(cache, trials=6))
    before = time.time() - 7200
    for path in cache.rglob("*"):
        os.utime(path, (before, before))
    with Shell(cache) as made:
        yield made


def test_clean_says_what_it_would_free_and_frees_it(shell: Shell) -> None:
    bundles = shell.cache / "bundles"
    said = shell("clean").ok()
    assert "bundles" in said.out
    assert "; yes=true deletes what no study needs, " in said.out
    assert len(list(bundles.iterdir())) == 6
    (share,) = (
        one
        for one in shell("clean", "format=json").ok().document["cache"]
        if one["what"] == "bundles"
    )
    assert (share["study"], share["files"]) == ("mine", 6)
    front = len(shell("front", "name=mine", "format=json").ok().document["front"])
    assert shell("clean", "yes=true").ok().out.startswith("freed ")
    assert len(list(bundles.iterdir())) == front
    assert shell("clean").ok().out.endswith("\nnothing was deleted\n")


def test_a_study_is_renamed_and_removed(shell: Shell) -> None:
    shown = shell("front", "name=mine").ok().out
    assert shell("rename", "name=mine", "to=other").ok().out == "study mine is now other\n"
    assert shell("front", "name=other").ok().out == shown
    shell("rename", "name=mine", "to=more").refused("there is no study mine in sqlite:///")
    shell("remove", "name=mine", "yes=true").refused("there is no study mine in sqlite:///")
    shell("remove", "name=other").refused(
        "Remove study other with 6 trials in sqlite:///",
        "Standard input is no terminal to ask at; yes=true agrees",
    )
    worked = WorkContext(settings(shell.cache, name="other", trials=7)).slots
    worked.provide([], [])
    slot = worked.claim("elsewhere:1:abc")
    assert slot
    for act in (("rename", "to=more"), ("remove", "yes=true")):
        shell(act[0], "name=other", act[1]).refused(
            "study other is worked on by elsewhere:1:abc; stop what works on it, or wait "
        )
    worked.leave(slot, "elsewhere:1:abc")
    removed = shell("remove", "name=other", "yes=true").ok().out
    assert removed.startswith("removed study other with 6 trials in sqlite:///")
    assert shell("status", "format=json").ok().document == {"studies": []}


def test_no_database_is_made_where_there_is_none(shell: Shell, tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    for command in (("remove", "yes=true"), ("rename", "to=other")):
        shell(*command, "name=mine", LMPARETO_CACHE=none).refused("there is no study mine in ")
    assert shell("clean", LMPARETO_CACHE=none).ok().out.endswith("nothing was deleted\n")
    assert not Path(none).exists()


@pytest.mark.parametrize(("typed", "meant"), [("y\n", True), ("YES\n", True), ("\n", False)])
def test_a_person_at_a_terminal_is_asked(
    typed: str, meant: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return typed

    monkeypatch.setattr("sys.stdin", Terminal())
    assert agreed(False, "Remove it?") is meant
    assert capsys.readouterr().err == "Remove it? [y/N] "
