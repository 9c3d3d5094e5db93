"""A study is known by its name alone, in a new shell and from another folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lmcore.corpus import TextFiles
from lmcore.errors import UserError
from lmcore.settings import parse
from search.commands.named import by_name
from search.commands.typed import CONF
from search.config import StudyConfig, SweepConfig
from search.study.begun import BEGUN, CORPUS, LIMITS, SETTINGS, kept
from search.study.published import shareable
from studies import Run, Shell, lmpareto, write_configs, write_text

STUDIES = sorted(path.stem for path in CONF.glob("study/*.yaml"))
TINY = ("model.hidden=16", "model.embedding=16", "training.epochs=1", "space=bits")
QUICK = ("prior=none", "fidelity=whole", "space.finetuning.epochs=0.1")


def test_a_stranger_types_the_place_of_a_text_once(tmp_path: Path) -> None:
    """From a text of his own to an exported model, and on with more trials."""
    (tmp_path / "my texts").mkdir()
    write_text(tmp_path / "my texts" / "été #1.txt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache = tmp_path / "cache"

    text = ("corpus=text", "corpus.file=my texts/été #1.txt", "name=mine", "trials=2")
    begins = ("sweep", "study=quickstart", *text, *TINY, *QUICK)
    lmpareto(*begins, cache=cache, cwd=tmp_path).ok()
    with Shell(cache) as shell:

        def typed(*arguments: str) -> Run:
            return shell(*arguments, cwd=elsewhere).ok()

        front = typed("front", "study=mine", "format=json").document
        assert front["study"] == "mine"
        document = typed("export", "study=mine", "to=model", "format=json").document
        assert document["trial"] in {point["trial"] for point in front["front"]}
        measured = typed("evaluate", "study=mine", f"bundle={document['bundle']}", "format=json")
        assert measured.document["perplexity"] == document["valid_perplexity"]
        typed("sweep", "name=mine", "trials=3", "workers=0")
        assert "3 of 3 trials complete" in typed("worker", "study=mine").out
        assert "3 of 3 trials complete" in typed("sweep", "study=mine").out


# --- what is kept is what is composed ----------------------------------------------------------


def composed(kind: type[StudyConfig], *arguments: str) -> Any:
    """The settings that Hydra composes of these arguments."""
    with initialize_config_module("search.conf", version_base="1.3"):
        data = OmegaConf.to_container(compose("sweep", list(arguments)), resolve=True)
    assert isinstance(data, dict)
    return parse(kind, {str(name): value for name, value in data.items()})


def store(cache: Path, name: str, **attributes: Any) -> None:
    """A study that keeps these attributes, in the storage of a cache folder."""
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{cache}/studies.db",
        directions=["minimize", "minimize"],
        load_if_exists=True,
    )
    for key, value in attributes.items():
        study.set_user_attr(key, value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMPARETO_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("study", STUDIES)
def test_what_is_kept_is_composed_again(study: str, cache: Path) -> None:
    settings = kept(composed(SweepConfig, f"study={study}"))
    store(cache, "mine", **{SETTINGS: settings})
    again = composed(SweepConfig, *by_name("sweep", ["study=mine"]))
    assert (again.name, kept(again)) == ("mine", settings)


ODD = ["${x}", "\\${x}", "\\\\${x", "a b", "'", '"', "été #1", "a,b=c", "%20", "[1]", "~", "$", "1"]


def test_texts_are_kept_as_they_are(cache: Path) -> None:
    """Whatever they would mean to Hydra, to OmegaConf or to YAML."""
    config = composed(SweepConfig, "study=quickstart").model_copy(
        update={"corpus": TextFiles(file="/a ${b}/c.txt")}
    )
    settings = {**kept(config), "seeds": {"recipes": [], "studies": ODD}}
    store(cache, "mine", **{SETTINGS: settings})
    again = composed(SweepConfig, *by_name("sweep", ["name=mine"]))
    assert again.seeds.studies == ODD
    assert kept(again) == settings


def test_files_that_a_study_begins_with_are_found_from_any_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others see their names alone. What is known by a name stays one."""
    typed = ("task=sentiment", "embeddings=elmo_glove", "name=mine")
    named = kept(composed(SweepConfig, *typed))
    assert (named["corpus"]["vocabulary"], named["training"]["start"]) == ("elmo", "elmo")
    assert named["training"]["vectors"] == "glove.6B.50d"
    (tmp_path / "own.lmb").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    own = composed(SweepConfig, *typed, "training.start=own.lmb", "corpus.vocabulary=own.lmb")
    settings, path = kept(own), str(tmp_path / "own.lmb")
    assert (settings["corpus"]["vocabulary"], settings["training"]["start"]) == (path, path)
    store(cache, "mine", **{SETTINGS: settings})
    monkeypatch.chdir("/")
    again = composed(SweepConfig, *by_name("sweep", ["study=mine"]))
    assert kept(again) == settings
    assert str(tmp_path) not in str(shareable(settings))
    assert shareable(settings)["training"]["start"] == "own.lmb"


def test_what_is_typed_has_the_last_word(cache: Path) -> None:
    begun = composed(SweepConfig, "study=ptb_small", "+model.projection=[0,40]")
    store(cache, "mine", **{SETTINGS: kept(begun)})
    typed = ("sampler=nsga2", "trials=7", "name=mine_2", "+model.projection=[0,20]", "~baselines.x")
    again = composed(SweepConfig, *by_name("sweep", ["study=mine", *typed]))
    assert again.name == "mine_2"
    assert again.sampler["_target_"].endswith("NSGAIISampler")
    assert "multivariate" not in again.sampler
    changed = {"sampler": again.sampler, "trials": 7, "model": again.model.plain()}
    assert kept(again) == kept(begun) | changed
    assert again.model.projection == (0, 20)


def test_a_name_of_its_own_comes_before_the_study_that_it_was_made_of(cache: Path) -> None:
    for name, seed in (("mine", 5), ("quickstart", 6)):
        settings = kept(composed(SweepConfig, "study=quickstart", f"seed={seed}"))
        store(cache, name, **{SETTINGS: settings})
    both = by_name("sweep", ["study=quickstart", "name=mine"])
    assert composed(SweepConfig, *both).seed == 5
    other = by_name("sweep", ["study=quickstart", "name=other"])
    assert composed(SweepConfig, *other).seed == 6


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (SETTINGS, [1]),
        (SETTINGS, None),
        (SETTINGS, {"model": 5}),
        (BEGUN, "text"),
        (CORPUS, {"kind": "text"}),
        (LIMITS, {"max_size_bytes": "1 MB"}),
        (LIMITS, {"max_perplexity": 0}),
        (LIMITS, {"most": 5}),
    ],
)
def test_a_damaged_attribute_is_named(attribute: str, value: Any, cache: Path) -> None:
    store(cache, "mine", **{attribute: value})
    with pytest.raises(UserError, match=f"study mine: its attribute {attribute} is damaged"):
        by_name("front", ["study=mine"])


def test_a_database_names_no_other_folder_or_program(cache: Path) -> None:
    """Of what somebody else's database keeps, only the settings of a study are taken."""
    theirs = {"cache": "/theirs", "storage": {"path": "/theirs.db"}, "hydra": {"run": {"dir": "/"}}}
    store(cache, "mine", **{SETTINGS: {"trials": 5, **theirs}})
    found = composed(SweepConfig, *by_name("sweep", ["study=mine", "corpus=pydoc"]))
    assert (found.trials, found.folder) == (5, cache)
    assert found.storage.file == cache / "studies.db"


def test_a_studys_own_settings_win_over_the_built_in_ones(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = kept(composed(SweepConfig, "study=quickstart", "seed=7", "trials=3", "space=bits"))
    store(cache, "quickstart", **{SETTINGS: settings})
    capsys.readouterr()
    assert kept(composed(SweepConfig, *by_name("sweep", ["study=quickstart"]))) == settings
    said = capsys.readouterr().err
    assert said == (
        "study quickstart goes on with the settings that it was begun with; "
        "the built-in of that name has another space, seed\n"
    )
    by_name("front", ["study=quickstart"])
    assert capsys.readouterr().err == ""


def test_a_study_of_a_folder_of_ones_own_is_taken_as_it_stands_there(cache: Path) -> None:
    configs = write_configs(cache / "configs")
    store(cache, "mine", **{SETTINGS: kept(composed(SweepConfig, "study=quickstart"))})
    arguments = [f"--config-dir={configs}", "study=mine"]
    assert by_name("sweep", arguments) == arguments


def test_a_study_of_an_earlier_version_takes_what_it_kept(cache: Path) -> None:
    """Which was all that it may not change, but of its text the kind alone."""
    begun = kept(composed(SweepConfig, "study=ptb_tied", "seed=9"))
    identity = {name: begun[name] for name in ("model", "training", "space", "seed")}
    attributes = {BEGUN: {**identity, "corpus": "0123456789abcdef"}, CORPUS: "text"}
    store(cache, "mine", **attributes)
    again = composed(SweepConfig, *by_name("export", ["name=mine", "corpus.file=x.txt"]))
    assert {name: kept(again)[name] for name in identity} == identity
    assert again.corpus == TextFiles(file="x.txt")
    store(cache, "quickstart", **attributes)
    for typed in ("name=quickstart", "study=quickstart"):
        assert "study=quickstart" in by_name("export", [typed])


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["storage.url=sqlite:///{there}/studies.db"], ""),
        (["cache={there}"], ""),
        (["storage=url"], "{there}"),
    ],
)
def test_a_study_is_looked_up_where_it_is_stored(
    arguments: list[str], folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = cache / "there"
    there.mkdir()
    monkeypatch.setenv("LMPARETO_STORAGE", f"sqlite:///{folder.format(there=there)}/studies.db")
    store(there, "mine", **{SETTINGS: kept(composed(SweepConfig, "study=quickstart", "seed=7"))})
    typed = [one.format(there=there) for one in arguments]
    assert composed(SweepConfig, *by_name("front", ["name=mine", *typed])).seed == 7
    assert not (cache / "studies.db").exists()


# --- a study that has begun --------------------------------------------------------------------


@dataclass
class Studio:
    """Where the study `mine` has begun; `typed` is a command in a new shell, in another folder."""

    cache: Path
    text: Path
    shell: Shell

    def typed(self, *arguments: str, **more: Any) -> Run:
        return self.shell(*arguments, cwd=self.cache, **more)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    configs, cache = write_configs(folder / "configs"), folder / "cache"
    with Shell(cache) as shell:
        mine = ("--config-dir", str(configs), "study=mine", "max_size=1MB", "trials=1")
        cache.mkdir()
        shell("sweep", *mine, "workers=0").ok()
        shell("worker", "study=mine", cwd=cache).ok()
        yield Studio(cache, configs / "text.txt", shell)


@pytest.mark.parametrize(
    "command",
    [
        "train study=mine",
        "space study=mine",
        "status study=mine",
        "front study=mine",
        "export study=mine to=model",
        "export name=mine to=model",
        "report study=mine to=plot",
        "inspect study=mine to=plot",
        "replay study=mine trial=0",
        "publish study=mine to=published",
        "sweep study=mine workers=0",
        "sensitivity study=mine settings=2",
    ],
)
def test_every_command_takes_the_name_alone(command: str, studio: Studio) -> None:
    run = studio.typed(*command.split(), PATH="/nonexistent", BROWSER_PATH="/nonexistent")
    assert run.ok().out


def test_limits_stay_until_a_sweep_changes_them(studio: Studio) -> None:
    def limit(*arguments: str) -> Any:
        shown = studio.typed(*arguments, "study=mine", "--cfg", "job").ok().out
        return OmegaConf.create(shown).max_size

    assert limit("sweep") == limit("worker") == 10**6
    assert limit("sweep", "max_size=null") is None
    assert limit("export", "to=x") is None  # which chooses among the models


def test_a_text_that_was_moved_is_said_and_found_again(studio: Studio, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(studio.cache, cache)
    moved = Path(shutil.copy(studio.text, tmp_path / "moved.txt"))
    away = studio.text.rename(tmp_path / "away.txt")
    try:
        run = studio.typed("export", "study=mine", "to=model", LMPARETO_CACHE=str(cache))
        run.refused("the text of study mine is not at", str(studio.text), "corpus.file=...")
        place = f"corpus.file={moved}"
        studio.typed("sweep", "study=mine", "workers=0", place, LMPARETO_CACHE=str(cache)).ok()
        studio.typed("export", "study=mine", f"to={cache}/model", LMPARETO_CACHE=str(cache)).ok()
    finally:
        away.rename(studio.text)


@pytest.mark.parametrize("command", ["train", "sweep", "worker", "export to=model"])
def test_a_text_that_has_changed_is_said(command: str, studio: Studio, tmp_path: Path) -> None:
    other = write_text(tmp_path / "other.txt", words=100)
    run = studio.typed(*command.split(), "study=mine", f"corpus.file={other}")
    run.refused(
        f"study mine was begun with another text or vocabulary than corpus.file={other} has now",
        "name=mine_2",
    )


def test_no_such_study(studio: Studio, tmp_path: Path) -> None:
    for arguments in ("front study=mien", "front name=mien", "sweep study=mien"):
        run = studio.typed(*arguments.split())
        run.refused("there is no study mien: did you mean mine?", "studies.db has mine;")
        assert run.err.count("\n") == 1
        assert all(study in run.err for study in STUDIES)
    run = studio.typed("front", "study=zzz", LMPARETO_CACHE=str(tmp_path / "none"))
    run.refused("there is no study zzz.", "studies.db has none;")
    assert not (tmp_path / "none").exists()


def test_a_study_of_another_of_optunas_tools_is_shown(studio: Studio, tmp_path: Path) -> None:
    store(tmp_path, "theirs")
    run = studio.typed("status", "study=theirs", LMPARETO_CACHE=str(tmp_path))
    assert "theirs: 0 of 0 trials complete" in run.ok().out


def test_a_bundle_of_another_text_says_how_to_name_its_text(studio: Studio) -> None:
    bundle = studio.typed("train", "study=mine", "format=json").ok().document["bundle"]
    assert "perplexity" in studio.typed("evaluate", "study=mine", f"bundle={bundle}").ok().out
    run = studio.typed("evaluate", f"bundle={bundle}", "corpus=pydoc")
    run.refused("it was trained on another text", "study=NAME", "corpus=text corpus.file=FILE")
