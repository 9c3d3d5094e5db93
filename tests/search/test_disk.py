"""A disk that is full or read-only, files that were cut short: said clearly, nothing corrupted."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmcore.bundle import load
from lmcore.corpus import load_corpus
from lmcore.errors import UserError
from lmcore.progress import TrainingRecord, ignore
from search.bench.dense import (
    DenseCheckpoint,
    dense_key,
    find_dense,
    need_dense,
    train_dense,
)
from search.bench.held import held
from search.bench.stages import Stages
from search.config import SweepConfig
from search.show.export import export
from search.show.folder import Forms
from search.study.results import results_of
from search.study.study import progress
from studies import Run, Shell, lmpareto, settings, sweep_here, write_configs

pytestmark = pytest.mark.slow

TRIALS = 3
SIZE = 16  # MB of the disk
FULL = ("No space left on device", "disk is full", "is the disk full?")  # by who notices first


@dataclass(frozen=True)
class Studio:
    """A folder with configs and the cache of a study, and a shell."""

    folder: Path
    shell: Shell

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def __call__(self, name: str, *more: str, cache: Path | None = None) -> Run:
        """The command on the study; a sweep starts workers, which takes a process of its own."""
        configs, cache = ("--config-dir", str(self.folder / "configs")), cache or self.cache
        arguments = (*configs, "study=mine", f"trials={TRIALS}", "format=json", *more)
        if name == "sweep":
            return lmpareto(name, *arguments, cache=cache)
        return self.shell(name, *arguments, cwd=cache.parent, LMPARETO_CACHE=str(cache))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Its study is swept."""
    folder = tmp_path_factory.mktemp("disk")
    write_configs(folder / "configs")
    with Shell(folder / "cache") as shell:
        studio = Studio(folder, shell)
        studio("sweep").ok()
        yield studio


@pytest.fixture
def disk(study: Studio, tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, with a copy of the study's cache."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield shutil.copytree(study.cache, folder / "cache")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    path = disk.parent / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            return path
    return path


def dense_of(cache: Path) -> Path:
    (path,) = (cache / "dense").glob("*.lmb")
    return path


# --- full, read-only ---------------------------------------------------------------------------


def test_a_sweep_on_a_full_disk_goes_on_once_there_is_room(disk: Path, study: Studio) -> None:
    more = (f"trials={TRIALS + 2}", "attempts=1", "storage.lease=2")
    filler = fill(disk)
    for _ in range(2):
        run = study("sweep", *more, cache=disk)
        run.refused()
        assert any(said in run.err for said in FULL)
    for path in (disk / "bundles").glob("*.lmb"):
        load(path)
    filler.unlink()
    done = study("sweep", *more, cache=disk).ok().document
    assert (done["complete"], done["failed"], done["left"]) == (TRIALS + 2, {}, 0)


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_a_dense_model_is_not_trained_into_a_full_disk(
    name: str, disk: Path, study: Studio
) -> None:
    shutil.rmtree(disk / "dense")
    filler = fill(disk)
    run = study(name, cache=disk).refused()
    assert any(said in run.err for said in FULL)
    assert not (disk / "dense").exists() or not list((disk / "dense").iterdir())
    filler.unlink()
    study(name, cache=disk).ok()
    assert dense_of(disk).read_bytes() == dense_of(study.cache).read_bytes()


def test_a_read_only_disk(disk: Path, study: Studio) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk.parent)], check=True)
    run = study("sweep", f"trials={TRIALS + 2}", "storage.lease=2", cache=disk)
    run.refused(str(disk))
    assert "read-only" in run.err.lower() or "readonly" in run.err or "unable to open" in run.err
    subprocess.run(["mount", "-o", "remount,rw", str(disk.parent)], check=True)
    done = study("sweep", f"trials={TRIALS + 2}", cache=disk).ok().document
    assert (done["complete"], done["failed"]) == (TRIALS + 2, {})


@pytest.mark.parametrize("database", ["at rest", "in use"])
def test_what_only_reads_works_on_a_read_only_disk(
    database: str, disk: Path, study: Studio, tmp_path: Path
) -> None:
    shown = study("front").ok().document
    read_only = tmp_path / "read_only"
    read_only.mkdir()
    with ExitStack() as ending:
        if database == "in use":
            ending.enter_context(closing(sqlite3.connect(disk / "studies.db"))).execute(
                "UPDATE lmpareto_slot SET outcome = 'in the log'"
            ).connection.commit()
        subprocess.run(["mount", "--bind", str(disk), str(read_only)], check=True)
        ending.callback(subprocess.run, ["umount", "--lazy", str(read_only)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(read_only)], check=True)
        assert study("front", cache=read_only).ok().document == shown
        assert study("status", cache=read_only).ok().document["complete"] == TRIALS
        for name in ("export", "publish", "report"):
            study(name, f"to={tmp_path / name}", cache=read_only).ok()
        study("replay", "trial=0", cache=read_only).ok()


def test_a_log_without_its_index_on_a_read_only_disk_is_said(disk: Path, study: Studio) -> None:
    with closing(sqlite3.connect(disk / "studies.db")) as connection:
        connection.execute("UPDATE lmpareto_slot SET outcome = 'in the log'").connection.commit()
        left = shutil.copytree(disk, disk.parent / "left", ignore=shutil.ignore_patterns("*-shm"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk.parent)], check=True)
    study("front", cache=left).refused(
        f"{left / 'studies.db'} cannot be read where it is",
        "studies.db-wal",
        "copy both files to a folder that can be written",
    )


@pytest.mark.parametrize("folder", ["bundles", "stages", "workers"])
def test_a_file_in_a_folders_place_fails_no_trial(folder: str, tmp_path: Path) -> None:
    config = settings(tmp_path, trials=2)
    begin(config)
    (tmp_path / folder).write_text("")
    with pytest.raises(UserError, match=str(tmp_path / folder)):
        sweep_here(config)
    (tmp_path / folder).unlink()
    done = progress(sweep_here(config).study, 2)
    assert (done.complete, done.failed, done.left) == (2, {}, 0)


# --- cut short -----------------------------------------------------------------------------------


def begin(config: SweepConfig) -> DenseCheckpoint:
    return train_dense(config, load_corpus(config.corpus, config.folder))


def test_a_dense_model_that_another_process_trains_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path)
    corpus, seen = load_corpus(config.corpus, config.folder), list[int]()

    def impatient(record: TrainingRecord, updates: int) -> None:
        seen.append(record.updates * updates)
        raise KeyboardInterrupt

    folder, key = config.folder / "dense", dense_key(config, corpus)
    with held(folder, key, ignore), pytest.raises(KeyboardInterrupt):
        train_dense(config, corpus, impatient)
    assert seen == [0]
    assert "waiting for another process" in capsys.readouterr().err
    made = train_dense(config, corpus)
    assert train_dense(config, corpus, impatient) == made
    assert seen == [0]


@pytest.mark.parametrize("suffix", [".lmb", ".json"])
@pytest.mark.parametrize("kept", [0, 200])
def test_a_dense_checkpoint_cut_short_is_made_again(suffix: str, kept: int, tmp_path: Path) -> None:
    config = settings(tmp_path, trials=1)
    corpus = load_corpus(config.corpus, config.folder)
    dense = begin(config)
    whole = dense.path.read_bytes()
    path = dense.path.with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:kept])
    assert find_dense(config, corpus) is None
    with pytest.raises(UserError, match="lmpareto train with the same settings trains it"):
        need_dense(config, corpus)
    sweep_here(config)
    assert need_dense(config, corpus).path.read_bytes() == whole


def test_a_dense_checkpoint_that_was_altered_says_what_to_do(tmp_path: Path) -> None:
    dense = begin(settings(tmp_path))
    bent = bytearray(dense.path.read_bytes())
    bent[len(bent) // 2] ^= 1
    dense.path.write_bytes(bytes(bent))
    with pytest.raises(UserError, match=r"is damaged.*once it is deleted, lmpareto train makes"):
        dense.load()


@pytest.mark.parametrize("kept", [0, 300])
def test_a_bundle_cut_short_is_made_again(kept: int, tmp_path: Path) -> None:
    swept = sweep_here(settings(tmp_path, trials=1))
    results = results_of(swept.context)
    one = results.trials[0]
    path = tmp_path / "bundles" / f"{one.key}.lmb"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    export(swept.context, results.find(0), one, tmp_path / "to", Forms(onnx=False))
    assert (tmp_path / "to" / "model.lmb").read_bytes() == path.read_bytes() == whole


def test_what_a_dead_process_was_writing_goes(tmp_path: Path) -> None:
    stages = Stages(tmp_path, 10**9)
    old, new, kept = (tmp_path / n for n in (".a.lmb.x1", ".b.safetensors.x2", "c.lmb"))
    for path in (old, new, kept):
        path.write_bytes(b"part")
    yesterday = time.time() - 86400
    for path in (old, kept):
        os.utime(path, (yesterday, yesterday))
    stages.trim()
    assert sorted(tmp_path.iterdir()) == [new, kept]
