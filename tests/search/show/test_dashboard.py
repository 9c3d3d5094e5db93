"""Optuna's dashboard: the real server, what it serves, what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from lmcore.errors import UserError
from search.front import front_of
from search.measurement import Measurement
from search.show.annotated import AnnotatedStorage, ReadOnlyError
from search.show.dashboard import serve
from search.show.dashboard_notes import PIECE, note_attributes, study_note, trial_note
from search.study.context import StudyContext
from studies import COMMAND, Sweep, environment, new_database, settings, sweep_here

RUNGS = {"kind": "whole", "rungs": [0, 0.05]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three trials of three rungs; the second limit is broken by all."""
    folder = tmp_path_factory.mktemp("dashboard")
    return sweep_here(settings(folder, fidelity=RUNGS, trials=3, max_perplexity=1.5), slots=3)


@dataclass
class Served:
    base: str
    study: int
    cache: Path

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        with urlopen(f"{self.base}{path}", timeout=60) as answer:
            found: bytes = answer.read()
            return found

    @property
    def detail(self) -> Any:
        return self.get(f"/api/studies/{self.study}")


@pytest.fixture(scope="module")
def served(swept: Sweep) -> Iterator[Served]:
    """The command, from its address to its end by Ctrl-C."""
    cache = swept.context.config.folder
    process = subprocess.Popen(
        [COMMAND, "dashboard", "study=mine", "port=0"],
        env=environment(cache),
        cwd=cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    line = process.stderr.readline()
    found = re.search(r"(http://127\.0\.0\.1:\d+)/dashboard/studies/(\d+); Ctrl-C ends it", line)
    assert found, line + process.stderr.read()
    yield Served(found[1], int(found[2]), cache)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "the dashboard has ended\n", "")


def test_a_trial_has_its_attributes_one_by_one(swept: Sweep, served: Served) -> None:
    detail = served.detail
    assert detail["objective_names"] == ["size_bytes", "valid_perplexity"]
    files = swept.context.store.files("mine")
    for one in detail["trials"]:
        number = one["number"]
        shown = {entry["key"]: entry["value"] for entry in one["user_attrs"]}
        best = min(files[number].values(), key=lambda file: file.valid_measure)
        assert float(shown["MB"]) == best.size_bytes / 1e6
        assert float(shown["perplexity"]) == best.valid_measure
        assert files[number][int(shown["rung"])] == best
        assert shown["last rung"] == "2"
        assert shown["export"] == f"lmpareto export study=mine trial={number} to=trial_{number}"
        assert shown["methods"] == "bits"
        assert "lmpareto" not in shown
        assert {entry["step"]: entry["value"] for entry in one["intermediate_values"]} == {
            rung: file.valid_measure for rung, file in files[number].items()
        }
        assert len(one["constraints"]) == 1
        assert one["constraints"][0] > 0
    sortable = {entry["key"]: entry["sortable"] for entry in detail["union_user_attrs"]}
    assert sortable["MB"]
    assert sortable["perplexity"]
    assert not any(entry["key"].startswith("lmpareto") for entry in detail["user_attrs"])


def test_notes_say_what_was_found_and_how_to_take_it(served: Served) -> None:
    detail = served.detail
    assert detail["note"]["body"].startswith("` mine `: of ")
    assert "lmpareto export study=mine to=model" in detail["note"]["body"]
    note = detail["trials"][2]["note"]["body"]
    assert "| 2 | 0.1 |" in note
    assert "(best)" in note
    assert "bits=uniform(" in note
    assert "lmpareto export study=mine trial=2 to=trial_2" in note


def test_a_bundle_is_downloaded_from_where_it_lies(swept: Sweep, served: Served) -> None:
    trial = served.detail["trials"][1]
    files = swept.context.store.files("mine")[1]
    assert [one["filename"] for one in trial["artifacts"]] == [
        f"trial_1_rung_{rung}.lmb" for rung in files
    ]
    for one, measured in zip(trial["artifacts"], files.values(), strict=True):
        path = f"/artifacts/{served.study}/{trial['trial_id']}/{one['artifact_id']}"
        assert hashlib.sha256(served.read(path)).hexdigest() == measured.sha256
    with pytest.raises(HTTPError, match="404"):
        served.read(f"/artifacts/{served.study}/{trial['trial_id']}/{'0' * 16}")


def test_it_changes_nothing_and_answers_this_machine_alone(served: Served) -> None:
    for request, reason in [
        (Request(f"{served.base}/api/studies/{served.study}", method="DELETE"), "changes nothing"),
        (Request(f"{served.base}/api/studies", data=b"{}", method="POST"), "changes nothing"),
        (Request(f"{served.base}/api/studies", headers={"Host": "evil.example:80"}), "alone"),
    ]:
        with pytest.raises(HTTPError) as refused:
            urlopen(request, timeout=60)
        assert refused.value.code == 403
        assert reason in json.loads(refused.value.read())["reason"]
    assert len(served.get("/api/studies")["study_summaries"]) == 1
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(f"{served.base}/api/meta", headers={"Host": ""}), timeout=60)


def test_a_taken_port_and_a_missing_package_are_said(
    served: Served, swept: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = StudyContext(swept.context.config)
    with pytest.raises(UserError, match="give another port="):
        serve(reading, int(served.base.rpartition(":")[2]), print)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match=r"pip install 'lmpareto\[dashboard\]'"):
        serve(reading, 0, print)


def test_a_study_that_runs_is_shown_as_it_goes_and_nothing_is_written(
    url: str, tmp_path: Path
) -> None:
    config = settings(tmp_path, storage={"url": new_database(url)}, trials=2)
    sweep_here(config, slots=1)
    reading = StudyContext(config)
    storage, study_id = AnnotatedStorage(reading), reading.study._study_id
    assert [one.user_attrs["rung"] for one in storage.get_all_trials(study_id)] == [0]
    assert "of 1 files" in storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]
    sweep_here(config, slots=1)
    first, second = storage.get_all_trials(study_id)
    assert storage.get_trial(second._trial_id) == second
    assert second.user_attrs["MB"] == second.values[0] / 1e6
    with pytest.raises(ReadOnlyError):
        storage.set_trial_user_attr(first._trial_id, "mine", 1)
    stored = reading.study.get_trials(deepcopy=False)
    assert all(set(one.user_attrs) == {"lmpareto"} for one in stored)
    assert not any(one.intermediate_values for one in stored)


def test_a_read_only_folder_is_enough(tmp_path: Path) -> None:
    config = settings(tmp_path, trials=1)
    sweep_here(config, slots=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    os.chmod(tmp_path, 0o500)  # noqa: PTH101
    try:
        reading = StudyContext(config)
        assert AnnotatedStorage(reading).get_all_studies()[0].study_name == "mine"
    finally:
        os.chmod(tmp_path, 0o700)  # noqa: PTH101
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_long_note_is_what_the_dashboard_reads() -> None:
    from optuna_dashboard._note import get_note_from_system_attrs

    text = "ä" * (2 * PIECE + 7)
    for trial in (None, 12):
        assert get_note_from_system_attrs(note_attributes(trial, text), trial)["body"] == text


@pytest.mark.slow
def test_a_browser_shows_notes_and_attributes(served: Served, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(f"{served.base}/dashboard/studies/{served.study}/trials?numbers=1")
        page.wait_for_selector("text=The recipe of its best file")
        page.wait_for_selector("text=trial_1_rung_2.lmb")
        page.screenshot(path=tmp_path / "dashboard.png", full_page=True)
        browser.close()
    assert (tmp_path / "dashboard.png").stat().st_size > 20_000


FILE = Measurement("k", {}, 1000, 90.0, 9000.0, 10, 2.0, "", {})
HOSTILE = "a `b` **c** <img src=http://elsewhere/> it's\n\n# head\r<script>alert(1)</script>"


def test_nothing_in_a_name_acts_as_markup_in_a_note() -> None:
    """The dashboard renders the HTML of a note. What is in backticks or indented stays text."""
    front = front_of(HOSTILE, [])
    found, *lines = study_note(front, 0).split("\n")
    assert found == (
        "`` a `b` **c** <img src=http://elsewhere/> it's # head <script>alert(1)</script> `` "
        "has no measured model yet."
    )
    blocks = [line for line in re.split(r"\r|\n", "\n".join(lines)) if "<" in line or "#" in line]
    assert len(blocks) == 9
    assert all(line.startswith("    ") for line in blocks)


def test_commands_of_notes_can_be_typed() -> None:
    for name in ("mine", "my study", "it's"):
        note = trial_note(name, 3, {0: FILE})
        typed = shlex.split(note.rpartition("To take it:")[2])
        assert typed == ["lmpareto", "export", f"study={name}", "trial=3", "to=trial_3"]
