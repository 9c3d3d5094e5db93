"""What Hydra refuses, in a sentence for the person who typed it.

Every sentence names the argument or the file, and says what would be right. None shows a password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

REFUSED = (HydraException, OmegaConfBaseException, YAMLError)
PAIRS = {"(": ")", "[": "]", "{": "}"}
SECRET = re.compile(r"://.*:.*@|passw", re.DOTALL | re.IGNORECASE)


def shown(argument: str) -> str:
    """The argument, with dots in place of a value that may hold a password."""
    setting, equals, _ = argument.partition("=")
    if not SECRET.search(argument):
        return argument
    return f"{setting}=..." if equals and "://" not in setting else "..."


def without_secrets(message: str, settings: list[str]) -> str:
    """The message, with dots in place of the values that may hold a password."""
    for setting in settings:
        if shown(setting) != setting:
            message = message.replace(setting.partition("=")[2].strip("'\""), "...")
    return message


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names, those that are most like `name` first."""
    return sorted(names, key=lambda one: -difflib.SequenceMatcher(None, name, one).ratio())


def has_several_values(setting: str) -> bool:
    """Whether Hydra reads several values, which takes --multirun."""
    try:
        return bool(OverridesParser.create().parse_override(setting).is_sweep_override())
    except HydraException:
        return False


def refusal(error: BaseException, arguments: list[str]) -> str:
    """What was wrong with the arguments that Hydra was given, and what would be right."""
    settings = [one for one in arguments if not one.startswith("-")]
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    several = [one for one in settings if has_several_values(one)]
    if several and "--multirun" not in arguments:
        return _one_value(several[0])
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(error.missing_cfg_file, error.options or (), settings)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _no_setting(cause)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return no_yaml(error, error.problem_mark.name)
    lines = [str(one).strip().splitlines() for one in (error, error.__cause__) if one]
    said = ": ".join(line[0] for line in lines if line)
    if merged := re.match(r"Error merging override \+*([^=]+)=.*Cannot merge DictConfig", said):
        name = merged[1]
        return f"{name}: got a list; it takes settings by name, as in {name}.NAME=VALUE"
    if absent := re.match(r"Could not override '([^']+@[^']+)'", said):
        return f"{absent[1]}: nothing is chosen there yet; a plus adds it: +{absent[1]}=NAME"
    return without_secrets(said, settings)


def no_yaml(error: MarkedYAMLError, file: str) -> str:
    """Where a file is no YAML, and why."""
    line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
    return f"{file}{line}: this is no YAML: {error.problem}"


def unresolved(error: OmegaConfBaseException) -> str:
    """Why a setting that refers to another, or to the environment, has no value."""
    said = str(error).splitlines()[0]
    if variable := re.search(r"Environment variable '(\w+)' not found", said):
        return f"it is taken from ${variable[1]}, which is not set; export {variable[1]}=... first"
    return said


def _unreadable(argument: str) -> str:
    setting, _, value = argument.partition("=")
    if not re.fullmatch(r"\+{0,2}[\w.@/$-]+|~.+", setting):
        return f"{shown(argument)}: no setting is called {setting!r}"
    for quote in "\"'":
        if value.count(quote) % 2:
            return f"{shown(argument)}: a quote ({quote}) is opened and not closed"
    for opening, closing in PAIRS.items():
        if value.count(opening) != value.count(closing):
            return f"{shown(argument)}: the {opening} and {closing} in it do not match"
    return (
        f"{shown(argument)}: this value cannot be read; "
        f"where it is a text, put it in two pairs of quotes: {setting}='\"TEXT\"'"
    )


def _one_value(argument: str) -> str:
    setting, _, value = argument.partition("=")
    if re.fullmatch(r"\d+,\d+ *\w*", value):
        point = value.replace(",", ".")
        return f"{argument}: a number has a decimal point: {setting}={point}"
    return (
        f"{shown(argument)}: several values take --multirun; "
        f"a list is written {setting}=[A,B], and a text with commas {setting}='\"A,B\"'"
    )


def _no_choice(missing: str, options: Iterable[str], settings: list[str]) -> str:
    group, _, choice = missing.rpartition("/")
    typed = any(one.partition("=")[0].lstrip("+").split("@")[0] == group for one in settings)
    known = ", ".join(nearest(choice, options))
    where = f"{group}={choice}" if typed else f"the defaults of a study: {missing}"
    return f"{where}: there is no {group} {choice!r}; there are {known}"


def _no_setting(error: OmegaConfBaseException) -> str:
    from search.commands.fields import fields

    name, parent = str(error.full_key), error.parent_node
    inside, _, last = name.rpartition(".")
    siblings = [str(one) for one in parent] if isinstance(parent, DictConfig) else []
    listed = ", ".join(nearest(last, (one for one in siblings if one not in ("hydra", "kind"))))
    if not inside:
        return f"{name}: this command has no such setting; it has {listed}"
    here = parent.get("kind") if siblings else None
    owners = [field.owner for field in fields() if field.name == name]
    kinds = [owner.model_fields["kind"].default if here else None for owner in owners]
    if here in kinds:
        return f"{name}: this optional setting is written with a plus: +{name}=VALUE"
    elsewhere = ""
    if kinds:
        *some, one = (f"{inside}={kind}" for kind in kinds)
        elsewhere = f"; {', '.join(some)} and {one} have it" if some else f"; {one} has it"
    return (
        f"{name}: {f'{inside}={here}' if here else inside} has {listed or 'no settings'}{elsewhere}"
    )
