"""Every file in conf/ composes, means what it says, and holds no secret."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lmcore.bundle import load
from lmcore.data import CorpusSettings
from lmcore.errors import UserError
from lmcore.model_settings import ModelSettings
from lmcore.network_settings import NetworkSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.cli import COMMANDS
from search.config import StudyConfig, SweepConfig
from search.space.space import Space
from search.study.study import sampler
from studies import Shell, write_configs

CONF = Path(str(files("search.conf")))
GROUPS = {
    path.name: sorted(option.stem for option in path.glob("*.yaml"))
    for path in sorted(CONF.iterdir())
    if path.is_dir() and any(path.glob("*.yaml"))
}
STUDIES = GROUPS["study"]
COMMAND_FILES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "base")
# a study is composed as a whole, and `finetuning` is a part of spaces
ALONE = [group for group in GROUPS if group not in ("study", "finetuning")]
OPTIONS = [(group, option) for group in ALONE for option in GROUPS[group]]
NEEDED = {
    "build": ["recipe=recipe.yaml", "to=model"],
    "evaluate": ["bundle=model.lmb"],
    "export": ["to=model"],
    "import": ["weights=model.safetensors", "vocabulary=words.txt"],
    "publish": ["to=folder"],
    "rename": ["to=other"],
    "replay": ["trial=1"],
}
WORDS = {"ptb": 10_000, "pydoc": 1_500, "text": 10_000}
NO_EMBEDDING = (
    "this network of the kind reader has no embedding|the embedding of this network stays"
)
NO_PROJECTION = (
    "no layer of this network takes the setting; leave it out: '~space.layers.projection'"
)
REFUSED = {  # a space for settings that a network cannot have, and why
    **dict.fromkeys(
        (("reader", one) for one in ("compositions", "embedding", "methods", "transform")),
        NO_EMBEDDING,
    ),
    ("classifier", "projection"): NO_PROJECTION,
    ("matcher", "projection"): NO_PROJECTION,
}
SECRET = "s3cret"


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMPARETO_CACHE", str(tmp_path))
    monkeypatch.setenv("LMPARETO_STORAGE", "sqlite://")


@pytest.fixture(scope="module")
def spaces() -> dict[str, Any]:
    """The settings of every space."""
    return {space: composed("train", f"space={space}").space for space in GROUPS["space"]}


def config_of(command: str) -> type[StudyConfig]:
    """The class of the command's settings."""
    kind: type[StudyConfig] = importlib.import_module(f"search.commands.{command}").Config
    return kind


def composed(command: str, *overrides: str) -> StudyConfig:
    """The settings that a command is given, as Hydra composes and we parse them."""
    with initialize_config_module("search.conf", version_base="1.3"):
        config = compose(command, [*NEEDED.get(command, []), *overrides])
    data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(data, dict)
    return parse(config_of(command), {str(key): data[key] for key in data})


def own_values(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text()) or {}
    return {name: value for name, value in found.items() if name != "defaults"}


def contained(part: Any, whole: Any) -> bool:
    """Whether all that `part` sets stands in `whole`, at any depth. What is left out is null."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            contained(value, whole.get(name)) for name, value in part.items()
        )
    return bool(part == whole)


def test_each_command_has_its_config() -> None:
    assert sorted(COMMANDS) == COMMAND_FILES
    assert len(STUDIES) >= 2
    assert {"corpus", "model", "training", "space", "sampler", "storage"} <= set(GROUPS)


@pytest.mark.parametrize(
    ("command", "study"),
    sorted(
        {
            *itertools.product(COMMAND_FILES, ["quickstart"]),
            *itertools.product(["sweep"], STUDIES),
        }
    ),
)
def test_every_command_composes_with_every_study(command: str, study: str) -> None:
    config = composed(command, f"study={study}")
    assert isinstance(config, config_of(command))


@pytest.mark.parametrize("command", COMMAND_FILES)
def test_every_command_composes_without_a_study(command: str) -> None:
    assert composed(command).name is None


@pytest.mark.parametrize("study", STUDIES)
def test_what_a_study_sets_is_what_it_gets(study: str) -> None:
    config = composed("sweep", f"study={study}").plain()
    own = own_values(CONF / "study" / f"{study}.yaml")
    assert own["name"] == study
    assert {name for name in own if not contained(own[name], config[name])} == set()


@pytest.mark.parametrize("study", STUDIES)
def test_the_command_line_has_the_last_word(study: str) -> None:
    config = composed("sweep", f"study={study}", "trials=7", "name=other", "seed=3", "workers=2")
    assert isinstance(config, SweepConfig)
    assert (config.trials, config.name, config.seed, config.workers) == (7, "other", 3, 2)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_parses_and_keeps_what_it_sets(group: str, option: str) -> None:
    own = own_values(CONF / group / f"{option}.yaml")
    own = {name: value for name, value in own.items() if "${" not in str(value)}
    config = composed("train", f"task={task_of(group, own)}", f"{group}={option}").plain()
    assert contained(own, config if group == "embeddings" else config.get(group, {}))


def task_of(group: str, own: dict[str, Any]) -> str:
    """The task that a corpus or a network is for, and one whose words are read as a group says."""
    if group == "embeddings":
        return "sentiment"
    families: dict[str, Any] = {"corpus": CorpusSettings, "model": NetworkSettings}
    if group not in families:
        return "language"
    found: str = families[group].members[own.get("kind", "language")].task.name
    return found


@pytest.mark.parametrize("task", GROUPS["task"])
def test_a_task_brings_what_goes_together(task: str) -> None:
    config = composed("train", f"task={task}")
    assert config.model.task == config.corpus.task
    assert config.model.task.name == {"bidirectional": "language"}.get(task, task)
    with pytest.raises(UserError, match=r"; task=\w+ or task=\w+ chooses both$"):
        composed("train", f"task={task}", f"model={'tagger' if task != 'tagging' else 'tiny'}")


@pytest.mark.parametrize("task", sorted({*GROUPS["task"]} - {"language"}))
def test_what_is_for_language_models_alone_is_refused_before_any_work(task: str) -> None:
    with pytest.raises(UserError, match="speed is measured of language models alone"):
        composed("sweep", f"task={task}", "objectives=[size,perplexity,speed]")
    with pytest.raises(UserError, match="import takes language models; lmpareto train makes"):
        composed("import", f"task={task}", "weights=w.safetensors", "vocabulary=v.txt", "name=mine")


@pytest.mark.parametrize("option", GROUPS["sampler"])
def test_every_sampler_proposes_and_learns(option: str) -> None:
    config = composed("train", f"sampler={option}", "model=tiny", "space=everything")
    space = Space(config.space, config.model, 1000)
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=sampler(config, worker=0, started=0)
    )
    for size in (1.0, 2.0, 3.0):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, [size, 1 / size])
    assert len(study.best_trials) == 3


@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_space_fits_every_model(model: str, spaces: dict[str, Any]) -> None:
    own = own_values(CONF / "model" / f"{model}.yaml")
    settings = composed("train", f"task={task_of('model', own)}", f"model={model}").model
    for name, space in spaces.items():
        if why := REFUSED.get((model, name)):
            with pytest.raises(UserError, match=why):
                Space(space, completed(settings), WORDS["ptb"])
        else:
            Space(space, completed(settings), WORDS["ptb"])


def completed(settings: NetworkSettings) -> NetworkSettings:
    """With labels and letters, which come from the data."""
    known = {"labels": ("a", "b", "c"), "alphabet": "abcdefgh"}
    own = {name: value for name, value in known.items() if hasattr(settings, name)}
    return settings.model_copy(update=own)


@pytest.mark.parametrize("space", [name for name in GROUPS["space"] if name != "methods"])
def test_every_space_has_a_choice_for_a_model_of_any_size(
    space: str, spaces: dict[str, Any]
) -> None:
    """A range beyond a model's sizes is refused, or gives the same recipe at both of its ends."""
    for width, layers, tied in itertools.product((8, 16, 200, 650), (1, 2, 3), (False, True)):
        model = ModelSettings(layers=layers, hidden=width, embedding=width, tied=tied)
        corners = Space(spaces[space], model, 1000).corners
        recipes = [one.recipe.model_copy(update={"finetuning": None}) for one in corners]
        assert any(one != recipes[0] for one in recipes), (width, layers, tied)


def test_published_studies_keep_their_spaces(spaces: dict[str, Any]) -> None:
    """A study cannot go on with another space than the one that it was begun with."""
    assert composed("sweep", "study=methods").space == spaces["methods"]
    assert spaces["methods"]["layers"] == {"embedding": {"low": 100, "high": 200}}
    for study in ("ptb_small", "ptb_tied"):
        assert composed("sweep", f"study={study}").space == spaces["codes"]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_can_begin(study: str) -> None:
    """Its space, the values it starts from and its baselines fit its model and corpus."""
    config = composed("sweep", f"study={study}")
    words, model = WORDS.get(config.corpus.kind, 10_000), completed(config.model)
    models = {name: completed(one.model) for name, one in config.models.items()}
    space = Space(config.space, model, words, models)
    start = own_values(CONF / "study" / f"{study}.yaml").get("start", [])
    for values in [*start, *config.start]:
        space.start(values)
    for name, recipe in config.baselines.items():
        resolve(parse(Recipe, recipe, f"baselines.{name}"), model, words)


def test_the_cache_holds_all_that_runs_write(tmp_path: Path) -> None:
    config = composed("sweep", "study=quickstart")
    assert config.folder == tmp_path
    assert config.storage.resolved.database == f"{tmp_path}/studies.db"


def test_sizes_of_models_are_the_ones_of_the_papers() -> None:
    """Zaremba's small model has 4.65 M weights, the tied one 2.65 M (Grachev's tables)."""
    for name, tied, weights in (("small", False, 4.65), ("small_tied", True, 2.65)):
        model = composed("train", f"model={name}").model
        assert model == ModelSettings(layers=2, hidden=200, embedding=200, tied=tied)
        assert model.weights(10_000) / 1e6 == pytest.approx(weights, abs=0.005)


# --- through the command line ------------------------------------------------------------------


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("run") / "cache") as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sweep", "export"])
def test_a_persons_own_study_is_one_of_all(command: str, configs: Path, shell: Shell) -> None:
    run = shell(command, "--config-dir", str(configs), "study=mine", "--cfg", "job").ok()
    shown = yaml.safe_load(run.out)
    own = own_values(configs / "study" / "mine.yaml")
    assert {name for name in own if not contained(own[name], shown[name])} == set()


@pytest.mark.slow
def test_a_persons_own_study_has_a_status(configs: Path, shell: Shell) -> None:
    run = shell("status", "--config-dir", str(configs), "study=mine")
    run.refused("there is no study mine", "lmpareto sweep with the same settings")


def test_a_study_without_a_name_is_called_as_its_file(configs: Path, shell: Shell) -> None:
    text = (configs / "study" / "mine.yaml").read_text().replace("name: mine\n", "")
    (configs / "study" / "nameless.yaml").write_text(text)
    run = shell("status", "--config-dir", str(configs), "study=nameless")
    run.refused("there is no study nameless")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/studies",
        f"postgresql://ada:{SECRET}@127.0.0.1:port/studies",
        f"postgresql+psycopg://ada:{SECRET}@no.such.host.invalid/studies",
        f"postgresql+nodriver://ada:{SECRET}@127.0.0.1/studies",
        f"postgresql://127.0.0.1:1/studies?user=ada&password={SECRET}",
        f"mysql://ada:{SECRET}@127.0.0.1/studies",
        f"nosuchdatabase://ada:{SECRET}@127.0.0.1/studies",
        f"postgresql://ada:p@{SECRET}@127.0.0.1:1/studies",
        f"postgresql://ada:p/q@{SECRET}@127.0.0.1:1/studies",
        f"ada:{SECRET}@127.0.0.1/studies",
        f"//ada:{SECRET}@127.0.0.1",
        SECRET,
    ],
)
def test_no_message_holds_the_password_of_a_storage(url: str, shell: Shell) -> None:
    run = shell("status", "storage=url", "study=quickstart", LMPARETO_STORAGE=url)
    assert SECRET not in run.out + run.err
    run.refused("storage")
    for path in shell.cache.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_the_settings_that_are_shown_hold_no_password(shell: Shell) -> None:
    url = f"postgresql://ada:{SECRET}@127.0.0.1:1/studies"
    run = shell("sweep", "storage=url", "--cfg", "job", LMPARETO_STORAGE=url).ok()
    assert SECRET not in run.out + run.err
    assert yaml.safe_load(run.out)["storage"]["url"] == "${oc.env:LMPARETO_STORAGE}"


def test_a_storage_that_the_environment_does_not_give_is_named(shell: Shell) -> None:
    shell("status", "storage=url").refused("storage.url", "LMPARETO_STORAGE")


def test_a_home_is_not_needed_where_the_cache_is_given(shell: Shell) -> None:
    shell("status", unset=("HOME",)).ok()


def test_a_tilde_in_the_cache_is_the_home(shell: Shell, tmp_path: Path) -> None:
    run = shell("status", cwd=tmp_path, HOME=str(tmp_path / "home"), LMPARETO_CACHE="~/cache").ok()
    assert run.out == f"no studies in sqlite:///{tmp_path}/home/cache/studies.db\n"
    assert not (tmp_path / "~").exists()


def test_nothing_is_written_where_the_command_is_typed(shell: Shell, tmp_path: Path) -> None:
    shell("status", cwd=tmp_path).ok()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sizes_of_each_layer_are_taken_from_the_command_line(configs: Path, shell: Shell) -> None:
    mine = ["train", "--config-dir", str(configs), "study=mine", "format=json", "model.layers=2"]
    mine += ["training.epochs=0.1", "model.embedding=12"]
    run = shell(*mine, "model.hidden=[10,8]", "model.tied=true", "+model.projection=[0,4]").ok()
    model = load(Path(run.document["bundle"])).model
    assert model.settings.plain() == {
        **{"layers": 2, "hidden": [10, 8], "embedding": 12, "tied": True},
        "projection": [0, 4],
    }
    assert model.sites["decoder.projection"].shape == (12, 4)
    assert run.document["model"] == model.settings.plain()
    shell(*mine, "model.hidden=[10]").refused("model.hidden: got [10]", "2 in all")
    shell(*mine, "+model.projection=[16,0]").refused("projection of 16", "16 units")
