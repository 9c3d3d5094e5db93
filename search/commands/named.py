"""A study is known by its name: the settings that it was begun with stand in for those of `conf/`.

`study=NAME` is a study in the storage, else one of `conf/study`, else a published study. Where
`name=NAME` is typed too, a study of that name in the storage comes first. Before Hydra composes,
`by_name` looks the study up and offers its settings to Hydra as the option STORED of each group. So
all else that is typed, `--multirun` and launchers work as they do with a study of `conf/`.

A file `study/NAME.yaml` in a person's own --config-dir is taken as it stands now: it was typed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmcore.errors import UserError
from search.commands.own_study import check_own_study
from search.commands.refusals import nearest
from search.commands.typed import CONF, uninterpolated
from search.work.launching import holds_password

if TYPE_CHECKING:
    from search.store.settings import StorageSettings

STORED = "__stored__"
LIMITED = ("sweep", "worker")  # the commands that take a study's limits
COMPUTING = ("train", "sweep", "worker", "space", "sensitivity")  # every setting matters to them
BEGUN_ONLY = (
    *("worker", "confirm", "status", "front", "dashboard", "plot", "report"),
    *("export", "replay", "publish"),
)
SHOWN = 24
NONE_HERE = "; published studies are in the folder studies/ of the project's page, not installed"


def by_name(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with which Hydra composes what the study was begun with, and what is typed.
    They are given as `for_hydra` makes them.

    Raises UserError where there is no study of the name that is typed as `study=`, and where the
    storage cannot be opened.
    """
    typed = _Typed.of(arguments)
    if command == "build" and "recipe" in typed.settings:
        return _of_recipe(command, arguments, Path(str(typed.settings["recipe"])))
    if typed.own:
        chosen = _choices(OmegaConf.load(CONF / "base.yaml")).keys() - {"study"}
        check_own_study(typed.own, chosen, _groups(typed.folders))
    refused = "--multirun" in arguments and holds_password(typed.url)  # by Launching
    if typed.own or not typed.names or refused:
        return list(arguments)
    from search.study.begun import SETTINGS

    storage = typed.storage
    known = _known(typed.names, storage)
    for name, attributes in known.items():
        if SETTINGS in attributes:
            _tell_changes(command, name, attributes[SETTINGS])
            return _offered(command, arguments, name, attributes)
    # begun by an earlier version or by another of Optuna's tools, or not begun
    name = typed.study or typed.names[0]
    if typed.study is None and not known and command not in BEGUN_ONLY:
        return list(arguments)
    if name in _options("study", [CONF]):
        return [*_without(arguments, "study"), f"study={name}"]
    attributes = known[name] if name in known else _published(name, storage, typed.folders)
    return _offered(command, arguments, name, attributes)


# --- what is typed -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Typed:
    """What the arguments say of the study, and of where it is stored."""

    settings: Mapping[str, Any]
    folders: list[Path]  # conf/, and the person's own --config-dir

    @classmethod
    def of(cls, arguments: Sequence[str]) -> _Typed:
        settings = {}
        for one in arguments:
            if re.fullmatch(r"study|name|recipe|cache|storage(\..+)?", _key(one)):
                try:
                    override = OverridesParser.create().parse_override(one)
                except HydraException:  # Hydra says so when it composes
                    continue
                if not override.is_sweep_override():
                    settings[_key(one)] = override.value()
        own = [Path(one.partition("=")[2]) for one in arguments if one.startswith("--config-dir=")]
        return cls(settings, [CONF, *own])

    @property
    def study(self) -> str | None:
        value = self.settings.get("study")
        return None if value is None else str(value)

    @property
    def own(self) -> Path | None:
        """The file of the study in the person's own --config-dir, None where there is none."""
        found = (folder / "study" / f"{self.study}.yaml" for folder in self.folders[1:])
        return next((path for path in found if path.is_file()), None)

    @property
    def names(self) -> list[str]:
        """The names under which to look for the study, the first one first."""
        given = (self.settings.get(setting) for setting in ("name", "study"))
        return [str(name) for name in given if name is not None]

    @property
    def url(self) -> str:
        return str(self.settings.get("storage.url", ""))

    @property
    def storage(self) -> StorageSettings | None:
        """Where the study is stored. None where Hydra will say what is wrong with that."""
        from lmcore.settings import parse
        from search.store.settings import StorageSettings

        base = OmegaConf.load(CONF / "base.yaml")
        option = self.settings.get("storage", _choices(base)["storage"])
        found = [folder / "storage" / f"{option}.yaml" for folder in self.folders]
        try:
            composed = OmegaConf.create({"cache": base.cache, "storage": {}})
            for path in [path for path in found if path.is_file()][:1]:
                composed.storage = OmegaConf.load(path)
            for setting, value in self.settings.items():
                if setting == "cache" or setting.startswith("storage."):
                    OmegaConf.update(composed, setting, value)
            resolved = OmegaConf.to_container(composed, resolve=True)
            assert isinstance(resolved, dict)
            return parse(StorageSettings, resolved["storage"], "storage")
        except (OmegaConfBaseException, UserError):
            return None


def _key(argument: str) -> str:
    """ "++name=mine" -> "name"."""
    return argument.partition("=")[0].lstrip("+~")


def _without(arguments: Sequence[str], setting: str) -> list[str]:
    return [one for one in arguments if _key(one) != setting]


def _choices(base: Any) -> dict[str, str]:
    """Group -> option, of the defaults of conf/base.yaml."""
    chosen = [one for one in base.defaults if isinstance(one, DictConfig)]
    return {str(group): option for one in chosen for group, option in one.items()}


def _groups(folders: Iterable[Path]) -> list[str]:
    return sorted({path.name for folder in folders for path in folder.glob("[!_.]*/")})


def _options(group: str, folders: Iterable[Path]) -> list[str]:
    return sorted(path.stem for folder in folders for path in folder.glob(f"{group}/*.yaml"))


# --- what is known -----------------------------------------------------------------------------


def _known(names: Sequence[str], storage: StorageSettings | None) -> dict[str, dict[str, Any]]:
    """Name -> attributes, of the studies of these names that the storage has."""
    from search.store.reader import Reader
    from search.study.begun import check_kept

    if storage is None:
        return {}
    store = Reader(storage)
    found = {name: store.attributes(name) for name in names}
    known = {name: attributes for name, attributes in found.items() if attributes is not None}
    for name, attributes in known.items():
        check_kept(name, attributes)
    return known


def _published(
    study: str, storage: StorageSettings | None, folders: Sequence[Path]
) -> dict[str, Any]:
    """The attributes of the published study of that name. Raises UserError where there is none."""
    from search.config import PUBLISHED
    from search.store.reader import Reader
    from search.study.published import attributes_in, folder_of

    if folder := folder_of(study):
        return attributes_in(folder)
    if storage is None:
        return {}
    stored, others = Reader(storage).studies(), _options("study", folders)
    near = get_close_matches(study, [*stored, *others], 1)
    raise UserError(
        f"there is no study {study}{f': did you mean {near[0]}?' if near else '.'} "
        f"{storage.shown} has {_listed(study, stored) or 'none'}; "
        f"those to begin are {_listed(study, others)}{'' if PUBLISHED.is_dir() else NONE_HERE}"
    )


def _listed(name: str, names: Sequence[str]) -> str:
    return ", ".join([*nearest(name, names)[:SHOWN], *(["..."] if len(names) > SHOWN else [])])


def _tell_changes(command: str, name: str, stored: Mapping[str, Any]) -> None:
    """Say on standard error where the study of that name in `conf/` has other settings."""
    if command not in COMPUTING or name not in _options("study", [CONF]):
        return
    from lmcore.settings import parse
    from search.config import StudyConfig
    from search.study.begun import kept

    with initialize_config_module("search.conf", version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", [f"study={name}"]), resolve=True)
    assert isinstance(composed, dict)
    built_in = kept(parse(StudyConfig, {str(key): value for key, value in composed.items()}))
    others = [one for one in built_in if one != "trials" and built_in[one] != stored.get(one)]
    if others:
        print(
            f"study {name} goes on with the settings that it was begun with; "
            f"the built-in of that name has another {', '.join(others)}",
            file=sys.stderr,
        )


# --- what Hydra composes with ------------------------------------------------------------------


def _offered(
    command: str, arguments: Sequence[str], name: str, attributes: Mapping[str, Any]
) -> list[str]:
    """Offer the settings of a study to Hydra, and choose them in the arguments."""
    from search.study.begun import SETTINGS, damaged, kept_in, limits_in

    settings = kept_in(attributes)
    groups = settings.keys() & _choices(OmegaConf.load(CONF / "base.yaml")).keys()
    defaults: list[Any] = []
    store = ConfigStore.instance()
    for group in sorted(groups):
        chosen = settings[group]
        if isinstance(chosen, dict):
            store.store(name=STORED, node=_literal(chosen), group=group)
            chosen = STORED
        elif not isinstance(chosen, str):
            raise UserError(damaged(name, SETTINGS))
        defaults.append({f"override /{group}": chosen})
    own = {one: settings[one] for one in settings.keys() - groups}
    limits = limits_in(attributes) if command in LIMITED else {}
    node = {"defaults": defaults, **_literal({**own, **limits, "name": name})}
    store.store(name=STORED, node=node, group="study", package="_global_")
    again = [_again(one, settings) for one in _without(arguments, "study")]
    return [*(one for one in again if one), f"study={STORED}"]


def _of_recipe(command: str, arguments: Sequence[str], path: Path) -> list[str]:
    """The settings that the model of a recipe.yaml was made with stand in for those of a study."""
    from search.bench.recipe_file import read_recipe
    from search.study.begun import SETTINGS

    recipe = read_recipe(path.expanduser())
    return _offered(command, arguments, recipe.study, {SETTINGS: recipe.settings})


def _again(argument: str, settings: Mapping[str, Any]) -> str:
    """An argument that was typed before as it is typed again: what was added is changed, and what
    was deleted is not there any more."""
    key = _key(argument)
    if argument.startswith("~") and not _has(settings, key.split(".")):
        return ""
    if argument.startswith("+") and not re.search("[@/]", key):
        return f"++{argument.lstrip('+')}"
    return argument


def _has(settings: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return True


def _literal(data: Any) -> Any:
    """The data, with each text in them as it stands."""
    if isinstance(data, dict):
        return {key: _literal(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_literal(value) for value in data]
    if isinstance(data, str):
        return uninterpolated(data)
    return data
