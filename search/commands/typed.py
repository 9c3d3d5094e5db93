"""What a person types after a command, as Hydra takes it.

Hydra reads a value by a grammar of its own, in which `=`, `,`, `#` or `é` mean something or are
refused. A path, a name or a URL is meant as typed, so it is quoted for Hydra here. So is the option
of a group, which would be a number in `model=5`. With `--multirun`, several values with commas
between them stay several values; a comma inside one of them is quoted by hand: 'name="a,b",c'.
"""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from lmcore.errors import UserError
from lmcore.files import home_opened
from search.commands.refusals import has_several_values, shown

CONF = Path(str(files("search.conf")))
SHORT = {
    **{"-h": "--help", "-m": "--multirun", "-c": "--cfg", "-i": "--info"},
    **{"-p": "--package", "-cd": "--config-dir", "-sc": "--shell-completion"},
}
ALONE = ("--help", "--hydra-help", "--multirun", "--resolve", "--shell-completion")
WITH_VALUE = {  # and the values that each takes, where they are few
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--config-dir": (),
    "--package": (),
}
ADDED = ("bundles",)  # whose entries, under any names, are added to those that the study has
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
WORD = re.compile(r"[\w.+-]+")
SETTING = re.compile(r"(\+{0,2})([^=+][^=]*)=(.*)", re.DOTALL)


def for_hydra(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them: its flags, then the settings, which it takes in one run
    only. Raises UserError for what is neither."""
    flags, settings = _apart(arguments)
    if settings and "--shell-completion" not in flags:
        from search.commands.fields import fields

        _check_settings(settings)
        texts = {field.name for field in fields() if field.is_text}
        multirun = "--multirun" in flags
        settings = [_quoted(setting, texts, multirun) for setting in settings]
    return [*flags, *settings]


def _apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The flags, each with its value as one word, and the settings."""
    flags, settings = [], []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        flag = SHORT.get(flag, flag)
        if not word.startswith("-"):
            settings.append(word)
        elif flag in ALONE and not equals:
            flags.append(flag)
        elif flag in WITH_VALUE:
            flags.append(f"{flag}={_value(flag, value if equals else next(words, ''))}")
        else:
            raise UserError(_no_flag(flag, value if equals else next(words, "VALUE")))
    return flags, settings


def _value(flag: str, value: str) -> str:
    """The value of a flag. Raises UserError where the flag does not take it."""
    if flag == "--config-dir":
        folder = home_opened(value) if value else ""
        if not Path(folder).is_dir() or not value:
            raise UserError(
                f"--config-dir: there is no folder {value!r}; it takes the folder in which "
                f"study/NAME.yaml lies"
            )
        return folder
    choices = WITH_VALUE[flag]
    if not value or (choices and value not in choices):
        raise UserError(f"{flag}: got {value!r}; it takes {', '.join(choices) or 'a value'}")
    return value


def _no_flag(flag: str, value: str) -> str:
    if near := difflib.get_close_matches(flag, [*ALONE, *WITH_VALUE], 1, 0.7):
        return f"{flag}: there is no such flag; did you mean {near[0]}?"
    setting = flag.strip("-").replace("-", "_") or "SETTING"
    return f"{flag}: there is no such flag; a setting is written {shown(f'{setting}={value}')}"


def _check_settings(words: list[str]) -> None:
    """Raises UserError for a word that is no setting."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{word!a}: an argument has to be text in UTF-8") from None
        if word.startswith("~") or SETTING.fullmatch(word):
            continue
        if word.startswith("=") or following.startswith("="):
            raise UserError("a setting is written without blanks around its =, as in trials=60")
        example = f"{word}={following}" if following and "=" not in following else "trials=60"
        raise UserError(
            f"{shown(word)}: this is no setting; write SETTING=VALUE, as in {shown(example)}"
        )


def _quoted(setting: str, texts: set[str], multirun: bool) -> str:
    """The setting with its value quoted for Hydra, where that is a text."""
    match = SETTING.fullmatch(setting)
    if not match:
        return setting
    sign, name, value = match.groups()
    if name in ADDED:
        return f"++{name}={value}"
    if name != "study" and _is_group(name):
        is_text = bool(WORD.fullmatch(value))
    else:
        is_text = name == "study" or (name in texts and value != "null")
    if not is_text or QUOTED.fullmatch(value) or (multirun and has_several_values(setting)):
        return setting
    if name != "storage.url":  # its password may be an interpolation
        value = uninterpolated(value)
    return f"{sign}{name}={QuotedString(value, Quote.single).with_quotes()}"


def uninterpolated(text: str) -> str:
    """The text as OmegaConf takes it, with each "${" as two characters."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _is_group(setting: str) -> bool:
    """Whether the setting chooses an option of a group, as do model@models.wide.model and
    hydra/launcher."""
    return setting.startswith("hydra/") or (CONF / setting.partition("@")[0]).is_dir()
