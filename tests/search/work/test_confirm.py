"""Points of a front trained again with other seeds: beside the search, resumable, never twice."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from lmcore.errors import UserError
from lmcore.settings import parse
from search.bench.workbench import Workbench, stored_recipe
from search.commands.named import STORED, by_name
from search.config import ConfirmConfig, SweepConfig
from search.show.tables import front_document, front_table, progress_text
from search.store.repeat_slots import RepeatSlots
from search.store.settings import StorageSettings
from search.store.slots import Slots, worker_name
from search.store.store import Store
from search.study.cache import survey
from search.study.confirming import checkpoints_of, confirmation
from search.study.context import StudyContext, WorkContext
from search.study.history import History, history_of, write_history
from search.study.published import RECORDS
from search.study.results import results_of, write_records
from search.study.sureness import bands_of, sureness_of
from search.work import confirming
from search.work.claiming import waiting
from search.work.confirming import Confirmer, confirm
from studies import COMMAND, Sweep, environment, lmpareto, settings, sweep_here

REPEATS = 2


def confirm_settings(config: SweepConfig, **changed: Any) -> ConfirmConfig:
    given = {k: value for k, value in config.plain().items() if k in ConfirmConfig.model_fields}
    return parse(ConfirmConfig, {**given, "repeats": REPEATS, "points": [], **changed})


class HereCrew:
    """In place of the processes of a confirmation: one worker in this process."""

    def __init__(self, context: Any, checkpoints: Any, *_: Any) -> None:
        stop = threading.Event()
        self.worker = Confirmer(waiting(context.config, stop), worker_name(), checkpoints, stop)

    def run(self) -> None:
        self.worker.run()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("confirm")
    fidelity = {"kind": "whole", "rungs": [0]}
    return sweep_here(settings(folder, trials=3, fidelity=fidelity))


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confirming, "_ConfirmCrew", HereCrew)
        yield


@pytest.fixture(scope="module")
def before(swept: Sweep) -> History:
    return history_of(swept.context)


@pytest.fixture(scope="module")
def context(swept: Sweep, before: History, here: None) -> WorkContext[ConfirmConfig]:
    """A study whose front was confirmed."""
    context = WorkContext(confirm_settings(swept.context.config))
    done = confirm(context)
    trained = [p for p in before.results.front.points if (p.recipe or {}).get("finetuning")]
    assert trained, "the front has a point that is trained"
    assert (done.repeats, done.done) == (REPEATS * len(trained), REPEATS * len(trained))
    untrained = [p.label for p in before.results.front.points if p not in trained]
    assert list(done.untrained) == untrained
    return context


def test_each_trained_point_has_its_measurements_with_other_seeds(
    context: WorkContext[ConfirmConfig], before: History
) -> None:
    after = history_of(context)
    assert after.results == before.results
    assert after.trials == before.trials
    assert set(after.repeats) == {
        p.name for p in before.results.front.points if (p.recipe or {}).get("finetuning")
    }
    for name, found in after.repeats.items():
        own = after.results.measured(name)
        assert [one.provenance["seed"] for one in found] == [2, 3]
        assert all(one.recipe == own.recipe for one in found)
        perplexities = {one.valid_measure for one in (own, *found)}
        assert len(perplexities) == 1 + REPEATS, "a seed matters"


def test_a_repeat_is_what_a_study_of_that_seed_measures_from_the_same_dense_model(
    context: WorkContext[ConfirmConfig],
) -> None:
    history = history_of(context)
    name, (first, _) = next(iter(history.repeats.items()))
    wanted = confirmation(history.results, 1)
    (checkpoint,) = checkpoints_of(context, wanted.repeats).values()
    seeded = context.but(seed=2).bench(checkpoint)
    (repeat,) = (one for one in wanted.repeats if one.file == history.results.measured(name))
    recipe = stored_recipe(context.bench(checkpoint), name, repeat.file)
    again = seeded.measure(recipe)
    assert (again.key, again.sha256) == (first.key, first.sha256)


def test_the_cheapest_come_first(context: WorkContext[ConfirmConfig]) -> None:
    history = history_of(context)
    trained = [one for every in history.repeats.values() for one in every]
    costs = [history.results.measured(name).seconds for name in history.repeats]
    wanted = confirmation(history.results, REPEATS)
    assert [one.slot for one in wanted.repeats] == sorted(one.slot for one in wanted.repeats)
    dear = replace(wanted.repeats[0].file, seconds=1e5)
    cheap = replace(wanted.repeats[0].file, seconds=99.0)
    assert replace(wanted.repeats[0], file=cheap).slot < replace(wanted.repeats[0], file=dear).slot
    assert len(wanted.repeats) == len(trained) == REPEATS * len(costs)


def test_points_may_be_named(context: WorkContext[ConfirmConfig]) -> None:
    """By trial, or by the name of a limit; a point with two names is trained once."""
    results = history_of(context).results
    chosen = next(iter(history_of(context).repeats))
    point = next(one for one in results.front.points if one.name == chosen)
    limited = replace(results, bundles={"any": max(one.size_bytes for one in results.best.points)})
    best = limited.within("any")
    wanted = confirmation(limited, 3, [point.trial or 0, "any", "any"])
    assert {one.label for one in wanted.repeats} | {one.label for one in wanted.untrained} == {
        results.find(point.trial or 0).label,
        best.label,
    }
    assert [one.number for one in wanted.repeats if one.label == wanted.repeats[0].label] == [
        1,
        2,
        3,
    ]
    with pytest.raises(UserError, match=r"^points: got half a MB; it takes"):
        confirmation(results, 3, ["half a MB"])


@pytest.mark.parametrize("points", [1.5, [[1]], [None], {"a": 1}, [True]])
def test_what_is_no_list_of_points_gets_one_sentence(
    context: WorkContext[ConfirmConfig], points: Any
) -> None:
    given = {**context.config.plain(), "points": points}
    with pytest.raises(
        UserError, match=r"^points: got .*; it is a list of trials and names of [^\n]*$"
    ):
        parse(ConfirmConfig, given)


def test_one_point_needs_no_brackets(context: WorkContext[ConfirmConfig]) -> None:
    given = {**context.config.plain(), "points": "0.5MB"}
    assert parse(ConfirmConfig, given).points == ("0.5MB",)


def test_the_same_command_trains_nothing_twice(
    context: WorkContext[ConfirmConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was trained before")

    monkeypatch.setattr(Workbench, "measure", measure)
    done = confirm(WorkContext(context.config))
    assert done.done == done.repeats > 0


def test_a_worker_that_died_leaves_its_repeat_to_another(
    swept: Sweep, context: WorkContext[ConfirmConfig], tmp_path: Path
) -> None:
    """Its measurement may be there already: it died before it said so."""
    slots = RepeatSlots(context.store.engine, context.name, trials=1, lease=-1.0)
    wanted = confirmation(results_of(context), REPEATS + 1).repeats
    known = [one.slot for one in wanted if one.number <= REPEATS]
    slots.provide_repeats([one.slot for one in wanted], known)
    dead = slots.claim("dead")
    assert dead
    assert dead.name == min(one.slot for one in wanted if one.number == REPEATS + 1)
    assert swept.context.slots.open() == 0, "a sweep does not see it"
    assert swept.context.slots.claim("sweep") is None
    done = confirm(WorkContext(confirm_settings(swept.context.config, repeats=REPEATS + 1)))
    assert done.done == len(wanted)
    assert context.slots.repeats() == (len(wanted), len(wanted))
    fewer = confirm(WorkContext(context.config))
    assert fewer.done == fewer.repeats < done.done


def test_repeats_that_are_no_longer_wanted_are_no_jobs(url: str) -> None:
    engine = Store(StorageSettings(url=url)).engine
    slots = RepeatSlots(engine, uuid4().hex, trials=1, lease=60.0)
    slots.provide_repeats(["1 a 1", "2 b 1", "3 c 1"], [])
    held = slots.claim("me")
    assert held
    assert held.name == "1 a 1"
    slots.provide_repeats(["3 c 1", "4 d 1"], [])
    assert slots.open() == 3, "what is held goes on"
    assert slots.finish(held, "me", "failed: diverged")
    slots.provide_repeats(["1 a 1", "3 c 1"], ["3 c 1"])
    assert slots.open() == 2, "what failed is tried again"
    slots.provide_repeats([], [])
    assert slots.repeats() == (0, 0), "what is neither wanted nor done nor held is no job"
    search = Slots(engine, slots.study, trials=1, lease=60.0)
    search.provide([], [])
    assert (search.total(), search.open(), slots.open()) == (1, 1, 0)


def test_status_and_front_say_it(context: WorkContext[ConfirmConfig]) -> None:
    history = history_of(context)
    sure, front = sureness_of(history), history.results.front
    assert set(sure) == set(history.repeats)
    for name, one in sure.items():
        assert one.seeds == 1 + len(history.repeats[name])
        assert 0 < one.on_front <= 1
    table = front_table(front, [], sure)
    assert table.count("seeds") == len(sure)
    documents = {one["trial"]: one["seeds"] for one in front_document(front, [], sure)["front"]}
    assert any(documents.values())
    bands = bands_of(history)
    assert bands["best"]
    assert bands["worst"]
    assert "trainings of the front with other seeds done" in progress_text(
        replace(history.progress, repeats=4, repeats_done=2), 1
    )


def test_cleaning_frees_the_files_of_repeats_and_keeps_those_of_the_front(
    context: WorkContext[ConfirmConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.cache.RECENT_SECONDS", -1)
    history = history_of(context)
    free = {path.stem for share in survey(context) for path in share.unneeded}
    assert {one.key for every in history.repeats.values() for one in every} <= free
    front = {history.results.measured(point.name).key for point in history.results.front.points}
    assert not front & free


def test_a_study_takes_its_repeats_along(
    context: WorkContext[ConfirmConfig], tmp_path: Path
) -> None:
    file = context.config.storage.file
    assert file
    context.store.engine.dispose()
    for path in file.parent.glob(f"{file.name}*"):
        shutil.copy(path, tmp_path / path.name)
    url = f"sqlite:///{tmp_path / file.name}"
    storage = context.config.storage.model_copy(update={"url": url})
    copy = WorkContext(context.config.model_copy(update={"storage": storage}))
    repeats = history_of(copy).repeats
    copy.store.rename(copy.slots, "renamed")
    other = copy.but(name="renamed")
    assert history_of(other).repeats == repeats
    other.store.remove(other.slots)
    assert other.store.repeats("renamed") == {}
    assert other.slots.repeats() == (0, 0)


@pytest.mark.slow
def test_a_confirmation_that_is_killed_goes_on_with_nothing_lost_or_twice(
    swept: Sweep, tmp_path: Path
) -> None:
    """By the command, its processes killed at once; the study is as it was before."""
    cache = tmp_path / "cache"
    shutil.copytree(swept.context.config.folder, cache)
    arguments = ("confirm", "study=mine", "repeats=5", "workers=2")
    context = StudyContext(
        confirm_settings(
            swept.context.config,
            cache=str(cache),
            storage={"url": f"sqlite:///{cache}/studies.db"},
        )
    )
    before = history_of(context)
    known = sum(map(len, before.repeats.values()))

    def repeated() -> int:
        return sum(map(len, context.store.repeats("mine").values()))

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [COMMAND, *arguments],
            env=environment(cache),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while repeated() <= known and process.poll() is None:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    assert repeated() > known
    killed_at = context.slots.repeats()  # the slot of a repeat that is kept may not yet say so
    document = lmpareto(*arguments, "format=json", cache=cache).ok().document
    assert document["repeats_done"] == document["repeats"] > killed_at[1]
    after = history_of(context)
    assert (after.results, after.trials) == (before.results, before.trials)
    for found in after.repeats.values():
        assert [one.provenance["seed"] for one in found] == list(range(2, 7))


# --- published ---------------------------------------------------------------------------------


@pytest.fixture
def published(
    context: WorkContext[ConfirmConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StudyContext[ConfirmConfig]:
    """The same study, published, with an empty database."""
    monkeypatch.setattr("search.study.published.PUBLISHED", tmp_path)
    history, folder = history_of(context), tmp_path / context.name
    folder.mkdir()
    write_history(history, context.attributes, folder)
    write_records(history.results, folder / RECORDS)
    storage = context.config.storage.model_copy(update={"url": f"sqlite:///{tmp_path}/new.db"})
    return StudyContext(context.config.model_copy(update={"storage": storage}))


def test_a_published_study_has_the_same_history(
    context: WorkContext[ConfirmConfig], published: StudyContext[ConfirmConfig]
) -> None:
    ours, theirs = history_of(context), history_of(published)
    assert theirs.results == ours.results
    assert theirs.trials == ours.trials
    assert theirs.repeats == ours.repeats
    assert theirs.trials_to_have == 3
    assert theirs.settings["space"] == ours.settings["space"]
    assert theirs.settings["corpus"]["file"] == "text.txt", "where it lies here is left out"
    assert replace(theirs.progress, repeats=0, repeats_done=0) == replace(
        ours.progress, repeats=0, repeats_done=0
    )
    assert sureness_of(theirs) == sureness_of(ours)
    assert theirs.seconds_by_stage()["score"] > 0


def test_a_published_study_of_an_earlier_version_is_shown_with_what_it_has(
    published: StudyContext[ConfirmConfig], tmp_path: Path
) -> None:
    for name in ("history.jsonl", "repeats.jsonl", "study.json"):
        (tmp_path / published.name / name).unlink()
    history = history_of(published)
    assert [one.number for one in history.trials] == [0, 1, 2]
    assert history.progress.complete == 3
    assert not history.settings
    assert not history.repeats


@pytest.mark.parametrize("damage", ["{", "[]\n", '{"number": -1, "trials": "many"}\n'])
@pytest.mark.parametrize("name", ["history.jsonl", "repeats.jsonl", "study.json"])
def test_a_damaged_file_gets_a_sentence(
    name: str, damage: str, published: StudyContext[ConfirmConfig], tmp_path: Path
) -> None:
    (tmp_path / published.name / name).write_text(damage)
    with pytest.raises(UserError, match=name):
        history_of(published)


DAMAGE: list[tuple[str, list[str], list[Any]]] = [
    ("trials.jsonl", ["size_bytes"], [0, -1, 10**400, math.inf, "x", [1]]),
    ("trials.jsonl", ["seconds"], [-1, math.nan, math.inf]),
    ("trials.jsonl", ["trial"], [-1, 10**400, []]),
    ("trials.jsonl", ["recipe"], [None, [], {"sites": 1}]),
    ("trials.jsonl", ["recipe", "finetuning"], [{}, 1, "x"]),
    (
        "trials.jsonl",
        ["recipe", "sites", "decoder", "structure"],
        [{"kind": None}, "dense"],
    ),
    ("trials.jsonl", ["provenance", "seconds"], [1, [], {"build": None}, {"build": 10**400}]),
    ("repeats.jsonl", ["size_bytes"], [0, 10**400]),
    ("history.jsonl", ["number"], [-1, 10**400, "x"]),
    ("history.jsonl", ["started"], [math.nan, math.inf, 1e300, -1]),
    ("history.jsonl", ["measured_at"], [{"0": 1e300}, {"-1": 0}, []]),
    ("history.jsonl", ["seconds"], [{"ask": "long"}, {"ask": math.inf}]),
    ("history.jsonl", ["parameters"], [{"a": [1]}, {"a": {"b": 1}}, [], None]),
]


@pytest.mark.parametrize(("name", "path", "values"), DAMAGE, ids=lambda one: str(one)[:30])
def test_a_damaged_field_gets_a_sentence(
    name: str,
    path: list[str],
    values: list[Any],
    published: StudyContext[ConfirmConfig],
    tmp_path: Path,
) -> None:
    file = tmp_path / published.name / name
    first, *others = file.read_text().splitlines()
    for value in values:
        row = json.loads(first)
        inner = row
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        file.write_text("\n".join([json.dumps(row), *others]))
        with pytest.raises(UserError, match=f"{name}, line 1 is no record") as said:
            history_of(published)
        assert len(str(said.value)) < 600
    file.unlink()
    file.mkdir()
    if name != "trials.jsonl":
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            history_of(published)


def test_a_published_study_is_confirmed_where_its_dense_model_is_at_hand(
    published: StudyContext[ConfirmConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = published.config.model_copy(update={"repeats": REPEATS + 1})
    path = tmp_path / config.study / "repeats.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0])
    measured = Workbench.measure
    trained = list[int]()

    def measure(bench: Workbench, *given: Any, **more: Any) -> Any:
        trained.append(bench.seed)
        return measured(bench, *given, **more)

    monkeypatch.setattr(Workbench, "measure", measure)
    done = confirm(WorkContext(config))
    assert done.done == done.repeats == len(trained) + 1, "what is published counts"
    history = history_of(published.but(repeats=3))
    assert sum(map(len, history.repeats.values())) == done.done
    (typed,) = [one for one in by_name("replay", ["study=mine"]) if one.startswith("study=")]
    assert typed == f"study={STORED}", "its settings are enough to name it"
    elsewhere = config.model_copy(update={"cache": str(tmp_path / "empty")})
    with pytest.raises(UserError, match="dense model that is not at hand"):
        confirm(WorkContext(elsewhere))
