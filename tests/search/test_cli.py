"""The command line: a study from its first training to the exported model, and every refusal."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import connect
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from sqlalchemy import create_engine

from lmcore.bundle import load
from search import commands
from search.cli import COMMANDS
from search.commands import status
from search.commands.answer import Answer
from search.store.slots import Slots
from search.units import format_size
from studies import COMMAND, TRIALS, Run, Shell, environment, lmpareto, write_configs, write_text

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")

# an environment without it
BLIND: dict[str, Any] = {"PATH": "/nonexistent", "BROWSER_PATH": "/nonexistent"}


@dataclass
class Studio:
    """A person's folder: own configs, a cache, a shell; `mine` is trained and swept."""

    folder: Path
    cache: Path
    configs: Path
    shell: Shell
    trained: Run
    swept: Run

    def __call__(self, command: str, *arguments: str, **more: Any) -> Run:
        """The command on the study `mine`."""
        configs = ("--config-dir", str(self.configs))
        return self.shell(command, *configs, "study=mine", *arguments, **more)

    @property
    def front(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.swept.document["front"]
        return found

    def bundles(self) -> dict[str, int]:
        """Every model file of the cache and when it was written."""
        return {str(p): p.stat().st_mtime_ns for p in self.cache.rglob("*.lmb")}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    cache, configs = folder / "cache", write_configs(folder / "configs")
    mine = ("--config-dir", str(configs), "study=mine", "format=json")
    trained = lmpareto("train", *mine, cache=cache).ok()
    swept = lmpareto("sweep", *mine, f"trials={TRIALS}", "workers=2", cache=cache).ok()
    with Shell(cache) as shell:
        yield Studio(folder, cache, configs, shell, trained, swept)


@pytest.fixture(scope="module")
def exported(studio: Studio) -> Run:
    return studio("export", f"to={studio.folder}/model", "format=json").ok()


def bits_of(bundle: str | Path) -> bytes:
    return Path(bundle).read_bytes()


# --- help and version --------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], [], ["--version"], ["-V"]])
def test_help_and_version_are_printed(arguments: list[str], tmp_path: Path) -> None:
    run = lmpareto(*arguments, cache=tmp_path / "cache").ok()
    assert run.err == ""
    if "--version" in arguments or "-V" in arguments:
        assert re.fullmatch(r"lmpareto \d+\.\d+\.\d+\n", run.out)
    else:
        assert all(re.search(rf"^ +{command} ", run.out, re.MULTILINE) for command in COMMANDS)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("argument", ["--help", "--version", "swep"])
def test_what_answers_at_once_imports_nothing_heavy(argument: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, argument],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "search.cli" in imported
    assert imported.isdisjoint({"torch", "optuna", "hydra", "plotly", "numpy", "sqlalchemy"})


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_examples(command: str, studio: Studio) -> None:
    run = studio.shell(command, "--help").ok()
    assert f"lmpareto {command}: " in run.out
    examples = re.findall(rf"^ +lmpareto {command}( .*)?$", run.out, re.MULTILINE)
    assert examples
    for group in ("corpus", "model", "sampler", "space", "storage", "study", "training"):
        assert re.search(rf"^{group}: ", run.out, re.MULTILINE)


# --- the walk ----------------------------------------------------------------------------------


def test_what_a_study_can_sample_is_shown_without_a_model(studio: Studio, tmp_path: Path) -> None:
    run = studio("space", LMPARETO_CACHE=str(tmp_path)).ok()
    assert re.search(r"^all\.bits\.step +0\.3 to 3\.0, log +always$", run.out, re.MULTILINE)
    assert "2 parameters, 2 of them in every trial" in run.out
    assert not list(tmp_path.rglob("*.lmb"))
    document = studio("space", "format=json").ok().document
    assert document["study"] == "mine"
    assert [one["name"] for one in document["parameters"]] == ["all.bits.step", "finetuning.rate"]
    for point in studio.front:
        assert point["size_bytes"] <= document["largest"]["packed_bytes"]
    run = studio("space", "+space.biases={kind: linear, bits: 9}")
    run.refused("space.biases", "9")
    run = studio("space", "space.biases={kind: linear, bits: 8}")
    run.refused("space.biases: space has sites, finetuning")


RICH = """\
layers: {projection: {foreach: layer, low: 0.3, high: 1.0, of: units}}
sites:
  "*":
    foreach: kind
    tie: all
    structure: {choice: [dense, {kind: svd, rank: {low: 0.1, high: 0.5, of: rank}}]}
    sparsity: {low: 0.1, high: 0.9, when: {.structure: dense}}
finetuning:
  epochs: {ordered: [0.25, 0.5, 1.0]}
  optimizer: {choice: [sgd, adam]}
  rate: 1.0
  dropout: {kind: sequence, rate: 0.1}
  clip: {low: 0.1, high: 0.4, when: {finetuning.optimizer: sgd}, otherwise: 0.25}
"""


def test_all_that_the_language_of_spaces_has_may_stand_in_a_file(studio: Studio) -> None:
    (studio.configs / "space" / "rich.yaml").write_text(RICH)
    mine = ("--config-dir", str(studio.configs), "study=mine", "space=rich")
    run = studio.shell("space", *mine, "format=json").ok()
    cases = {one["name"]: one["cases"] for one in run.document["parameters"]}
    assert cases["layers.projection.0"] == [[]]
    assert cases["all.input.structure.svd.rank"] == [["all.input.structure = svd"]]
    assert cases["all.recurrent.sparsity"] == [["all.recurrent.structure = dense"]]
    assert cases["finetuning.clip"] == [["finetuning.optimizer = sgd"]]


def test_a_space_is_shown_without_a_study(studio: Studio) -> None:
    text = studio.configs / "text.txt"
    run = studio.shell("space", "corpus=text", f"corpus.file={text}", "model=tiny", "space=bits")
    assert "embedding.bits " in run.ok().out


def test_train_writes_a_bundle_that_does_what_it_says(studio: Studio) -> None:
    document = studio.trained.document
    path = Path(document["bundle"])
    assert path.is_relative_to(studio.cache)
    assert path.stat().st_size == document["size_bytes"]
    assert load(path).size_bytes == document["size_bytes"]
    assert 1 < document["valid_perplexity"] < 202
    assert len(document["valid_perplexities"]) == 2


def test_train_does_not_train_twice(studio: Studio) -> None:
    before = studio.bundles()
    run = studio("train").ok()
    assert "trained before" in run.out
    assert studio.bundles() == before
    assert "epoch" not in run.err


def test_sweep_runs_the_trials(studio: Studio) -> None:
    document = studio.swept.document
    assert (document["study"], document["complete"], document["failed"]) == ("mine", TRIALS, {})
    assert (document["running"], document["left"], document["trials"]) == (0, 0, TRIALS)
    sizes = [point["size_bytes"] for point in document["front"]]
    perplexities = [point["valid_perplexity"] for point in document["front"]]
    assert sizes == sorted(sizes)
    assert perplexities == sorted(perplexities, reverse=True)


def test_a_sweep_names_trials_baselines_and_the_dense_model(studio: Studio) -> None:
    assert all(f"\ntrial {number}: " in studio.swept.err for number in range(TRIALS))
    assert "\ndense model: " in studio.swept.err
    assert "\nbaseline coarse: " in studio.swept.err


def test_sweep_again_trains_nothing_and_ends_at_once(studio: Studio) -> None:
    before = studio.bundles()
    started = time.perf_counter()
    run = studio("sweep", f"trials={TRIALS}", "workers=2", "format=json").ok()
    assert time.perf_counter() - started < 30
    assert run.document == studio.swept.document
    assert studio.bundles() == before


def test_status_of_a_study_and_of_all(studio: Studio) -> None:
    run = studio("status", f"trials={TRIALS}").ok()
    assert f"mine: {TRIALS} of {TRIALS} trials complete" in run.out
    other = studio("status", f"trials={TRIALS + 3}", "format=json").ok().document
    assert (other["complete"], other["left"], other["running"]) == (TRIALS, 0, 0)
    assert other["trials"] == TRIALS  # which only a sweep changes
    everything = studio.shell("status", "format=json").ok().document
    assert [(one["study"], one["trials"]) for one in everything["studies"]] == [("mine", TRIALS)]
    assert studio.shell("status", "name=mine", "format=json").ok().document == other
    assert "mine: " in studio.shell("status").ok().out


def test_a_worker_does_what_sweeps_asked_for(studio: Studio) -> None:
    """Whatever its own settings say; and a sweep of no workers may ask for more."""
    mine = ("name=asked", "prior=none")
    for trials in (1, 2):
        run = studio("sweep", *mine, f"trials={trials}", "workers=0").ok()
        assert f"asked: {trials - 1} of {trials} trials complete" in run.out
        run = studio("worker", *mine, "trials=7").ok()
        assert f"asked: {trials} of {trials} trials complete" in run.out


def test_status_of_nothing(studio: Studio, tmp_path: Path) -> None:
    empty = str(tmp_path / "cache")
    assert "no studies in " in studio.shell("status", LMPARETO_CACHE=empty).ok().out
    document = studio.shell("status", "format=json", LMPARETO_CACHE=empty).ok().document
    assert document == {"studies": []}


def test_optunas_own_command_opens_the_study(studio: Studio) -> None:
    front = studio.swept.document["front"]
    database = f"sqlite:///{next(studio.cache.glob('*.db'))}"
    optuna = str(Path(COMMAND).with_name("optuna"))
    asked = ("best-trials", "--study-name", "mine", "--storage", database, "--format", "json")
    said = subprocess.run([optuna, *asked], capture_output=True, text=True, check=True).stdout
    best = [one["values"] for one in json.loads(said)]
    for point in front:
        if isinstance(point["trial"], int):
            assert {name: point[name] for name in ("size_bytes", "valid_perplexity")} in best


def test_front_as_a_table_and_as_a_document(studio: Studio) -> None:
    document = studio("front", "format=json").ok().document
    assert document["study"] == "mine"
    assert document["front"] == studio.front
    beside = {one["name"]: one for one in document["baselines"]}
    assert "dense" in beside
    assert beside["coarse"]["size_bytes"] < beside["dense"]["size_bytes"]
    for point in document["front"]:
        assert {"trial", "size_bytes", "valid_perplexity", "recipe"} <= set(point)
        assert isinstance(point["trial"], int)
        assert isinstance(point["size_bytes"], int)
        assert isinstance(point["recipe"], dict)
    table = studio("front").ok().out
    for point in document["front"]:
        row = rf"^ *{point['trial']} .* {point['valid_perplexity']:.2f}( |$)"
        assert re.search(row, table, re.MULTILINE)
    assert table.count("<- knee") == 1
    assert re.search(r"^ *dense ", table, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="pictures take Chrome or Chromium: none found")
def test_plot_draws_pictures(studio: Studio, tmp_path: Path) -> None:
    """In a process of its own: it starts a browser."""
    mine = ("--config-dir", str(studio.configs), "study=mine")
    run = lmpareto("plot", *mine, f"to={tmp_path}/plots", "format=json", cache=studio.cache).ok()
    begins = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}
    assert run.document["files"] == [f"{tmp_path}/plots/front.{form}" for form in begins]
    for path, begin in zip(run.document["files"], begins.values(), strict=True):
        assert bits_of(path).startswith(begin)


def test_plot_says_what_it_needs(studio: Studio, tmp_path: Path) -> None:
    studio("plot", f"to={tmp_path}/plots", **BLIND).refused("front.png", "Install it")
    assert not (tmp_path / "plots").exists()


def test_report_goes_to_the_cache_by_default(studio: Studio) -> None:
    """It needs no browser."""
    document = studio("report", "format=json", **BLIND).ok().document
    page = studio.cache / "plots" / "mine" / "report.html"
    assert document["studies"] == ["mine"]
    assert document["files"][0] == str(page)
    assert page.stat().st_size > 10_000
    assert document["sentence"] in studio("report", **BLIND).ok().out


def test_a_report_of_several_studies(studio: Studio, tmp_path: Path) -> None:
    both = studio.shell("report", "studies=[mine,ptb_small]", f"to={tmp_path}/page").ok()
    assert "2 studies of 2 texts" in both.out
    assert (tmp_path / "page" / "report.html").exists()
    studio("report", "studies=[mine]").refused("study and studies exclude each other")
    studio.shell("report").refused("name a study")
    studio.shell("report", "studies=[mine,mnie]").refused("there is no study mnie")


def test_a_report_of_a_complete_study_is_not_watched_for_long(
    studio: Studio, tmp_path: Path
) -> None:
    run = studio("report", "watch=true", f"to={tmp_path}", "format=json").ok()
    assert "at most every 5 s; Ctrl-C ends that" in run.err
    assert run.document["files"][0] == str(tmp_path / "report.html")


@pytest.mark.slow
def test_a_watched_report_is_written_anew(studio: Studio, tmp_path: Path) -> None:
    """In a copy of the database with a trial to go: until Ctrl-C, which is no failure."""
    path = tmp_path / "copy.db"
    with closing(connect(studio.cache / "studies.db")) as mine, closing(connect(path)) as copy:
        mine.backup(copy)
        copy.execute(
            "UPDATE lmpareto_slot SET done = 0 WHERE name = '00000000'"
        ).connection.commit()
        page = tmp_path / "page" / "report.html"
        url = f"storage.url=sqlite:///{path}"
        watching = subprocess.Popen(
            [COMMAND, "report", "study=mine", "watch=true", f"to={page.parent}", url],
            env=environment(studio.cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stderr is not None
        assert "is written anew" in watching.stderr.readline()
        before = page.read_bytes()
        copy.execute(
            "INSERT INTO lmpareto_rung SELECT study, 0, 1, key FROM lmpareto_rung WHERE trial = 1"
        ).connection.commit()
        waited = time.monotonic() + 60
        while page.read_bytes() == before and time.monotonic() < waited:
            time.sleep(0.2)
        during = page.read_bytes()
        watching.send_signal(signal.SIGINT)
        out, _ = watching.communicate(timeout=60)
    assert before != during != page.read_bytes()  # the last one does not load itself anew
    assert watching.returncode == 0
    assert str(page) in out


def test_a_study_is_shown_by_its_name_alone(studio: Studio, tmp_path: Path) -> None:
    """As what it is: the settings are then those of Penn Treebank."""
    assert studio.shell("front", "name=mine").ok().out == studio("front").ok().out
    shown = studio.shell("report", "name=mine", f"to={tmp_path}", "format=json").ok().document
    assert shown["sentence"] == studio("report", "format=json").ok().document["sentence"]


@pytest.mark.slow
def test_status_counts_on_the_workers_that_are_at_work(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    with closing(connect(studio.cache / "studies.db")) as mine, closing(connect(path)) as copy:
        mine.backup(copy)
    url, trials = f"sqlite:///{path}", TRIALS + 3
    studio("sweep", f"storage.url={url}", f"trials={trials}", "workers=0").ok()
    slots = Slots(create_engine(url), "mine", trials, lease=600.0)
    for worker, known in (("one", 1), ("two", 2)):
        assert slots.claim(worker)
        said = studio("status", f"storage.url={url}").ok().out
        assert f"3 to go, less than a minute with {known} worker(s)" in said


def test_nothing_is_said_of_a_reader_that_has_read_enough(studio: Studio) -> None:
    with subprocess.Popen(
        [COMMAND, "status"],
        env=environment(studio.cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# --- inspect -----------------------------------------------------------------------------------


def test_inspect_tells_of_every_byte_of_the_dense_model(studio: Studio) -> None:
    """Without a browser on its path, it still writes the page."""
    page = studio.cache / "plots" / "mine" / "inspect.html"
    run = studio("inspect", "format=json", **BLIND).ok()
    document = run.document
    trained = studio.trained.document
    assert (document["bundle"], document["files"]) == (trained["bundle"], [str(page)])
    assert document["size_bytes"] == sum(document["parts"].values()) == trained["size_bytes"]
    assert set(document["sites"]) | {"biases", "vocabulary", "header"} == set(document["parts"])
    assert all(site["bits"] == 16 for site in document["sites"].values())
    assert "the dense model of mine: why" in page.read_text()


@pytest.mark.slow
def test_inspect_of_a_bundle_takes_the_file_alone(
    studio: Studio, exported: Run, tmp_path: Path
) -> None:
    """In a process of its own: it starts a browser."""
    path = exported.document["bundle"]
    run = lmpareto("inspect", f"bundle={path}", f"to={tmp_path}/to", cache=tmp_path / "cache").ok()
    size = format_size(exported.document["size_bytes"])
    assert re.search(rf"^file +{size} +100.0%$", run.out, re.MULTILINE)
    written = {one.name for one in (tmp_path / "to").iterdir()}
    assert written == {"inspect.html", *({"inspect.png", "inspect.svg"} if BROWSER else ())}
    assert all(f"{tmp_path}/to/{name}" in run.out for name in written)
    assert not (tmp_path / "cache").exists()


# --- export, evaluate, replay ------------------------------------------------------------------


def test_export_takes_the_knee_home(studio: Studio, exported: Run) -> None:
    document = exported.document
    folder = studio.folder / "model"
    own = {"SHA256SUMS", "card.md", "metrics.json", "model.lmb", "recipe.yaml"}
    onnx = {"model.onnx", "model_nll.onnx", "tokens.txt"}
    assert {path.name for path in folder.iterdir()} == own | onnx
    table = studio("front").ok().out
    knee = re.search(r"^ *(\d+) .*<- knee$", table, re.MULTILINE)
    assert knee
    assert document["trial"] == int(knee[1])
    (point,) = [one for one in studio.front if one["trial"] == document["trial"]]
    assert document["size_bytes"] == point["size_bytes"] == (folder / "model.lmb").stat().st_size
    assert document["valid_perplexity"] == point["valid_perplexity"]
    assert document["bundle"] == str(folder / "model.lmb")
    assert document["test_perplexity"] > 1
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["recipe"] == point["recipe"]
    kept = json.loads((folder / "metrics.json").read_text())
    assert {**kept, "bundle": document["bundle"]} == document


@pytest.mark.slow
def test_export_by_size_perplexity_and_trial(studio: Studio, tmp_path: Path) -> None:
    smallest, best = studio.front[0], studio.front[-1]
    choices = {
        f"max_size={smallest['size_bytes']}": smallest,
        f"max_size={smallest['size_bytes'] / 1000}kB": smallest,
        "max_size=1MB": best,
        f"max_perplexity={best['valid_perplexity']!r}": best,
        "max_perplexity=1000": smallest,
        f"trial={best['trial']}": best,
        "pick=knee": None,
    }
    for number, (choice, point) in enumerate(choices.items()):
        to = f"to={tmp_path}/{number}"
        run = studio("export", to, choice, "onnx=false", "format=json").ok()
        assert point is None or run.document["trial"] == point["trial"], choice
        assert bits_of(tmp_path / str(number) / "model.lmb")


@pytest.mark.slow
def test_export_of_a_dominated_trial_and_of_a_baseline(studio: Studio, tmp_path: Path) -> None:
    for trial in range(TRIALS):
        run = studio("export", f"to={tmp_path}", f"trial={trial}", "onnx=false", "format=json")
        assert run.ok().document["trial"] == trial
    to = f"to={tmp_path}"
    dense = studio("export", to, "trial=dense", "onnx=false", "format=json").ok().document
    assert dense["trial"] is None
    assert bits_of(tmp_path / "model.lmb") == bits_of(studio.trained.document["bundle"])


@pytest.mark.slow
def test_publish_computes_test_once_for_each_file(studio: Studio, tmp_path: Path) -> None:
    folder, other = tmp_path / "studies" / "mine", tmp_path / "studies" / "other"
    studio("publish", f"to={folder}").ok()
    lines = list(csv.DictReader((folder / "results.csv").open()))
    front = [str(point["trial"]) for point in studio.front]
    assert [line["name"] for line in lines if line["trial"]] == front
    assert {"dense"} <= {line["name"] for line in lines}
    plane = {
        line["name"]: (int(line["size_bytes"]), float(line["valid_perplexity"])) for line in lines
    }
    best = {
        name
        for name, (size, perplexity) in plane.items()
        if not any(s <= size and p < perplexity for s, p in plane.values())
    }
    assert "coarse" in best
    kept = {path.stem for path in (folder / "bundles").iterdir()}
    assert kept == {*front, *best} - {"dense"}
    assert (folder / "dense.lmb").exists()
    for line in lines:
        assert float(line["test_perplexity"]) > 1
        assert line["method"]
        assert line["site"]
        assert int(line["tokens_per_second"]) > 0
    evaluate = shlex.split(lines[-1]["command"])[1:]
    again = studio.shell(*evaluate, "format=json").ok().document
    assert f"{again['perplexity']:.3f}" == lines[-1]["test_perplexity"]

    lines[0]["test_perplexity"] = "kept"
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    studio("publish", f"to={folder}").ok()
    assert list(csv.DictReader((folder / "results.csv").open())) == lines

    studio("publish", f"to={other}").ok()  # the dense model lies beside it
    assert not (other / "dense.lmb").exists()
    (dense,) = [
        line for line in csv.DictReader((other / "results.csv").open()) if line["name"] == "dense"
    ]
    assert str(folder / "dense.lmb") in dense["command"]


@pytest.mark.slow
def test_export_makes_a_bundle_again_that_was_deleted(
    studio: Studio, exported: Run, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(studio.cache, cache)
    shutil.rmtree(cache / "bundles")
    arguments = (f"to={tmp_path}/again", "format=json")
    again = studio("export", *arguments, LMPARETO_CACHE=str(cache)).ok()
    assert again.document["sha256"] == exported.document["sha256"]
    assert bits_of(tmp_path / "again" / "model.lmb") == bits_of(exported.document["bundle"])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluate_gives_the_numbers_of_export(split: str, studio: Studio, exported: Run) -> None:
    bundle = exported.document["bundle"]
    document = studio("evaluate", f"bundle={bundle}", f"split={split}", "format=json").ok().document
    assert document["perplexity"] == exported.document[f"{split}_perplexity"]
    assert document["size_bytes"] == exported.document["size_bytes"]
    assert document["tokens_per_second"] > 0
    text = studio("evaluate", f"bundle={bundle}", f"split={split}").ok().out
    assert f"perplexity {document['perplexity']:.2f}" in text


@pytest.mark.slow
@pytest.mark.parametrize("trial", [0, "dense"])
def test_replay_is_the_same_to_the_bit(trial: int | str, studio: Studio) -> None:
    before = studio.bundles()
    document = studio("replay", f"trial={trial}", "format=json").ok().document
    assert document["identical"]
    assert document["same"]
    assert document["again"]["sha256"] == document["stored"]["sha256"]
    assert studio.bundles() == before
    assert "the same to the bit" in studio("replay", f"trial={trial}").ok().out


# --- what programs read ------------------------------------------------------------------------


@pytest.mark.slow
def test_json_is_one_line_of_one_document_and_nothing_else(studio: Studio, tmp_path: Path) -> None:
    runs = {
        "train": studio.trained,
        "sweep": studio.swept,
        "status": studio("status", "format=json"),
        "front": studio("front", "format=json"),
        "export": studio("export", f"to={tmp_path}", "format=json"),
        "evaluate": studio("evaluate", f"bundle={tmp_path}/model.lmb", "format=json"),
        "inspect": studio("inspect", f"to={tmp_path}/plots", "format=json", **BLIND),
        "replay": studio("replay", "trial=1", "format=json"),
    }
    fields = {
        "sweep": {"study", "complete", "failed", "front"},
        "front": {"study", "front"},
        "export": {"test_perplexity", "valid_perplexity", "size_bytes", "bundle", "trial"},
        "evaluate": {"perplexity", "size_bytes", "tokens_per_second"},
        "replay": {"identical"},
    }
    for command, run in runs.items():
        run.ok()
        assert run.out.count("\n") == 1
        document = json.loads(run.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        assert fields.get(command, set()) <= set(document)


def test_numbers_that_json_has_not_are_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "settings_of", lambda *_: SimpleNamespace(format="json"))
    monkeypatch.setattr(status, "run", lambda _: Answer({"perplexity": math.inf}, ""))
    assert [*commands._answers("status", OmegaConf.create())] == ['{"perplexity": null}']


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("swep", "did you mean sweep?"),
        ("fronts", "did you mean front?"),
        ("xyzzy", "the commands are train, import, sweep, "),
        ("study=mine", "there is no command 'study=mine'"),
    ],
)
def test_an_unknown_command(typed: str, said: str, tmp_path: Path) -> None:
    run = lmpareto(typed, cache=tmp_path / "cache")
    run.refused(said)
    assert run.code == 2
    assert run.err.count("\n") == 1


BAD: dict[str, tuple[list[str], list[str]]] = {
    "unknown study": (
        ["sweep", "study=nope"],
        ["there is no study nope", "mine", "quickstart", "ptb_small"],
    ),
    "unknown option": (["train", "model=huge"], ["model=huge", "small", "tiny"]),
    "unknown group": (["train", "modle=small"], ["modle"]),
    "unknown setting": (["train", "model.hiden=16"], ["hiden"]),
    "unknown setting, added": (["train", "+model.hiden=16"], ["model.hiden", "no such setting"]),
    "words read by what is for other tasks": (
        ["train", "task=tagging", "embeddings=elmo"],
        ["corpus.vocabulary", "embeddings=elmo", "task=tagging", "docs/tasks.md"],
    ),
    "unknown setting at the top": (["train", "+trails=3"], ["trails", "no such setting"]),
    "no key=value": (["sweep", "quickstart"], ["quickstart"]),
    "export without to": (["export", "study=mine"], ["to: ", "missing", "to=..."]),
    "publish without to": (["publish", "study=mine"], ["to: ", "missing", "to=..."]),
    "evaluate without a bundle": (["evaluate"], ["bundle: ", "missing", "bundle=..."]),
    "replay without a trial": (["replay", "study=mine"], ["trial: ", "missing", "trial=..."]),
    "front without a study": (["front"], ["study=quickstart"]),
    "export without a study": (["export", "to=x"], ["study=quickstart"]),
    "sweep without a study": (["sweep"], ["study=quickstart"]),
    "a study that has not begun": (
        ["front", "study=quickstart"],
        ["no study quickstart", "lmpareto sweep with the same settings"],
    ),
    "trials that are no number": (["sweep", "study=mine", "trials=many"], ["trials", "'many'"]),
    "no trials": (["sweep", "study=mine", "trials=0"], ["trials: got 0", "greater than"]),
    "half a worker": (["sweep", "study=mine", "workers=1.5"], ["workers: got 1.5; it is auto, or"]),
    "workers in words": (["sweep", "study=mine", "workers=all"], ["workers: got 'all'", "auto"]),
    "workers below none": (["sweep", "study=mine", "workers=-1"], ["workers: got -1", "from 0 on"]),
    "no hours": (["sweep", "study=mine", "max_hours=0"], ["max_hours", "got 0"]),
    "threads below one": (["train", "study=mine", "threads=0"], ["threads: got 0"]),
    "a seed below zero": (["train", "study=mine", "seed=-1"], ["seed: got -1"]),
    "a name for a number": (["train", "study=mine", "model.hidden=big"], ["model.hidden", "'big'"]),
    "a format that is none": (["status", "format=xml"], ["format", "'xml'", "json"]),
    "a size that is none": (
        ["export", "study=mine", "to=x", "max_size=5TB"],
        ["5TB", '"1.5 MB"'],
    ),
    "a limit that is no size": (["sweep", "study=mine", "max_size=abc"], ["max_size", "'abc'"]),
    "a cache of no size": (["sweep", "study=mine", "max_stages=0GB"], ["max_stages", "'0GB'"]),
    "a perplexity that is none": (
        ["export", "study=mine", "to=x", "max_perplexity=0"],
        ["max_perplexity: got 0"],
    ),
    "two wishes": (
        ["export", "study=mine", "to=x", "max_size=1MB", "trial=1"],
        ["max_size and trial exclude each other"],
    ),
    "two wishes, one by name": (
        ["export", "study=mine", "to=x", "max_size=1MB", "trial=dense"],
        ["max_size and trial exclude each other"],
    ),
    "a size too small": (
        ["export", "study=mine", "to=x", "max_size=5B"],
        ["no point of mine has at most 5 B", "its smallest is trial "],
    ),
    "a perplexity too good": (
        ["export", "study=mine", "to=x", "max_perplexity=2"],
        ["no point of mine has perplexity 2.00 or less", "its best is trial "],
    ),
    "a trial that is not there": (
        ["export", "study=mine", "to=x", "trial=99"],
        ["no measured trial 99", "0-3"],
    ),
    "a trial below zero": (["export", "study=mine", "to=x", "trial=-1"], ["trial", "-1"]),
    "a baseline that is not there": (
        ["export", "study=mine", "to=x", "trial=bits8"],
        ["trial: got bits8", "dense"],
    ),
    "inspect of nothing": (["inspect"], ["study=quickstart", "bundle=FILE"]),
    "inspect of two": (["inspect", "study=mine", "bundle=x.lmb"], ["mine", "x.lmb", "exclude"]),
    "inspect of no file": (["inspect", "bundle=no.lmb"], ["no.lmb", "No such file"]),
    "inspect of what is not trained": (
        ["inspect", "study=mine", "seed=9"],
        ["the dense model of mine is not at hand", "lmpareto train with the same settings"],
    ),
    "replay of no trial": (["replay", "study=mine", "trial=99"], ["no measured trial 99"]),
    "a bundle that is not there": (["evaluate", "bundle=no.lmb"], ["no.lmb", "No such file"]),
    "a bundle that is a folder": (
        ["evaluate", "bundle=/"],
        ["cannot read /", "give the bundle in it: /model.lmb"],
    ),
    "a bundle that is text": (
        ["evaluate", f"bundle={Path(__file__)}"],
        ["is not a bundle of lmpareto"],
    ),
    "a split that is none": (["evaluate", "bundle=x", "split=dev"], ["split", "'dev'", "valid"]),
    "a device that is not there": (
        ["train", "study=mine", "seed=2", "device=nonsense"],
        ["device: got 'nonsense'"],
    ),
    "a corpus of no file": (
        ["train", "study=mine", "corpus.file=no.txt"],
        ["the text of study mine is not at no.txt", "corpus.file=..."],
    ),
    "a training that diverges": (
        ["train", "study=mine", "training.rate=1e30", "training.optimizer=sgd"],
        ["diverged"],
    ),
    "windows longer than the text": (
        ["train", "study=mine", "training.window=5000"],
        ["training.window 5000", "too short"],
    ),
    "a value that breaks the grammar": (["train", "study=mine", "model={"], ["model={", "{ and }"]),
    "a command of Hydra's that is none": (["train", "--bogus"], ["--bogus"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_message_and_no_traceback(
    case: str, studio: Studio, tmp_path: Path
) -> None:
    (command, *arguments), said = BAD[case]
    configs = ("--config-dir", str(studio.configs))
    before = studio.bundles()
    studio.shell(command, *configs, *arguments, cwd=tmp_path).refused(*said)
    assert studio.bundles() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bad_input_is_refused_by_the_real_command_too(studio: Studio) -> None:
    run = lmpareto("export", "study=quickstart", cache=studio.cache).refused("to: ")
    assert run.code == 1
    assert run.err.count("\n") == 1


def test_a_bundle_of_another_vocabulary(studio: Studio, exported: Run, tmp_path: Path) -> None:
    other = write_text(tmp_path / "other.txt", words=150)
    bundle = f"bundle={exported.document['bundle']}"
    run = studio("evaluate", bundle, f"corpus.file={other}", "format=json")
    run.refused("vocabulary", "202 words", "152", "another text")


def test_a_damaged_bundle(studio: Studio, exported: Run, tmp_path: Path) -> None:
    whole = bits_of(exported.document["bundle"])
    half, bent, newer = (tmp_path / name for name in ("half.lmb", "bent.lmb", "newer.lmb"))
    half.write_bytes(whole[: len(whole) // 2])
    bent.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    newer.write_bytes(whole[:4] + b"\x63" + whole[5:])
    studio("evaluate", f"bundle={half}").refused("half.lmb is damaged")
    studio("evaluate", f"bundle={bent}").refused("bent.lmb is damaged")
    studio("evaluate", f"bundle={newer}").refused("version 99", "a newer lmpareto")


@pytest.mark.parametrize("command", ["export", "inspect", "plot", "publish", "report"])
def test_a_folder_that_is_a_file(command: str, studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    studio(command, f"to={tmp_path}/file").refused(f"{tmp_path}/file")
    studio(command, f"to={tmp_path}/file/sub").refused(f"{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sweep", "status"])
@pytest.mark.parametrize("place", ["file", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written(
    command: str, place: str, studio: Studio, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / place)
    studio(command, LMPARETO_CACHE=cache).refused(cache)


def test_a_study_resumed_with_other_settings(studio: Studio) -> None:
    before = studio.bundles()
    run = studio("sweep", "model.hidden=24", "seed=5", f"trials={TRIALS + 1}")
    run.refused("model.hidden was 16, is 24", "seed was 1, is 5", "name=mine_2")
    assert studio.bundles() == before
    assert studio("front", "format=json").document["front"] == studio.front


def test_a_trial_is_not_replayed_on_another_dense_model(studio: Studio) -> None:
    studio("replay", "trial=1", "seed=5").refused("dense model")


@pytest.mark.parametrize("command", ["export", "publish"])
def test_a_model_is_not_scored_on_a_text_of_another_vocabulary(
    command: str, studio: Studio, tmp_path: Path
) -> None:
    """The bundle lies in the cache; its test perplexity on other ids would be no such thing."""
    other = write_text(tmp_path / "other.txt", words=150)
    studio(command, f"to={tmp_path}/to", f"corpus.file={other}").refused()
    assert not (tmp_path / "to").exists()


@pytest.mark.slow
def test_max_hours_ends_a_sweep_and_another_goes_on(studio: Studio, tmp_path: Path) -> None:
    """No time at all: nothing is begun, and that is no failure."""
    arguments = ("name=late", f"trials={TRIALS}", "max_hours=1e-9", "format=json")
    run = studio("sweep", *arguments).ok()
    assert (run.document["complete"], run.document["left"]) == (0, TRIALS)
    assert run.document["front"] == []
    studio("export", f"to={tmp_path}", "name=late").refused("late has no measured model yet")


def test_a_file_that_no_memory_holds(studio: Studio, tmp_path: Path) -> None:
    bundle = tmp_path / "huge.lmb"
    bundle.write_bytes(b"LMPB")
    os.truncate(bundle, 1 << 42)  # a hole takes no disk
    run = studio.shell("inspect", f"bundle={bundle}", LMPARETO_CACHE=str(tmp_path / "cache"))
    run.refused("this needs more memory than the process may have; give a smaller file or text")
