"""A study in a person's own --config-dir: what is wrong with its file, before Hydra composes it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from lmcore.errors import UserError
from search.commands.refusals import nearest, no_yaml

_HEADER = "# @package _global_"
_LINE = "- override /corpus: text"
_DEFAULT = re.compile(r"(override\s+)?(?:optional\s+)?([^@]*)(@.*)?", re.DOTALL)


def check_own_study(path: Path, chosen: Collection[str], groups: Collection[str]) -> None:
    """Raises UserError where the file is no study.

    `groups` are all groups of settings. Every study has an option of those that are `chosen`, which
    its defaults override.
    """
    settings = _read(path)
    defaults = settings.get("defaults", [])
    if not isinstance(defaults, list):
        raise UserError(f"{path}: defaults is a list, each line like {_LINE}")
    for default in defaults:
        if isinstance(default, Mapping):
            for key, option in default.items():
                _check_default(path, str(key), option, chosen, groups)
        elif not isinstance(default, str):
            raise UserError(f"{path}: defaults has {default!r} in it; a line is like {_LINE}")


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        settings = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: it has the byte 0x{error.object[error.start]:02X} at "
            f"offset {error.start:,}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except MarkedYAMLError as error:
        raise UserError(no_yaml(error, str(path))) from None
    except YAMLError as error:
        raise UserError(f"{path}: this is no YAML: {str(error).splitlines()[0]}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{path}: this is no YAML: it is nested too deeply") from None
    if not isinstance(settings, Mapping) or not settings:
        raise UserError(f"{path} has no settings; write them as NAME: VALUE, one a line")
    first = next(line for line in text.splitlines() if line.strip())
    if not re.fullmatch(r"\s*#\s*@package\s+_global_\s*", first):
        raise UserError(f"{path}: the first line of a study is {_HEADER}, with nothing before it")
    return settings


def _check_default(
    path: Path, key: str, option: Any, chosen: Collection[str], groups: Collection[str]
) -> None:
    """Raises UserError where a line of the defaults, KEY: OPTION, names no group, or one in a way
    that Hydra does not take."""
    found = _DEFAULT.fullmatch(key)
    assert found  # it matches any text
    override, group, package = found.groups()
    name = group.strip("/")
    if name not in groups and not name.startswith("hydra/"):
        known = ", ".join(nearest(name, groups))
        raise UserError(f"{path}: the defaults name {group!r}; there is no such group, but {known}")
    if group != f"/{name}" or (name in chosen and not override and not package):
        right = f"/{name}{package or ''}" if package else f"override /{name}"
        raise UserError(f"{path}: the defaults have {key}: {option}; write {right}: {option}")
