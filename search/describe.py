"""Recipes, failures and commands as text for people."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any


def command_line(name: str, study: str, *settings: str) -> str:
    """A command on a study as it is typed in a shell, whatever the study's name."""
    return " ".join(["lmpareto", name, shlex.quote(f"study={study}"), *settings])


def failure_line(failure: str | None) -> str:
    """Why something failed, in a line: what is stored may be a traceback."""
    lines = (failure or "").strip().splitlines()
    return lines[-1] if lines else "unknown"


def recipe_lines(recipe: Mapping[str, Any], most: int = 20, width: int = 64) -> list[str]:
    """A recipe as lines of text: "embedding: structure=svd(rank=40), bits=linear(bits=8)".

    Each site has an entry, and so has each other group of settings. An entry is wrapped at `width`
    characters and cut after two lines; there are at most `most` lines in all. Settings that are
    None or empty are left out.
    """
    lines = []
    for line in _lines("", recipe):
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=2 * "\N{NO-BREAK SPACE}",
            max_lines=2,
            placeholder=" …",
            break_on_hyphens=False,
        )
    return lines if len(lines) <= most else [*lines[: most - 1], "…"]


def _lines(path: str, groups: Mapping[str, Any]) -> Iterator[str]:
    """An entry for each group of settings. A group of nothing but groups has an entry for each."""
    for name, value in groups.items():
        title = f"{path}.{name}".removeprefix(".").removeprefix("sites.")
        if isinstance(value, Mapping) and value and all(map(_is_group, value.values())):
            yield from _lines(title, value)
        elif text := _settings(value) if _is_group(value) else setting_text(value):
            yield f"{title}: {text}"


def _is_group(value: Any) -> bool:
    """Whether a value is a group of settings: a mapping without a "kind"."""
    return isinstance(value, Mapping) and "kind" not in value


def _settings(settings: Mapping[str, Any]) -> str:
    texts = {name: setting_text(value) for name, value in settings.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items() if text)


def setting_text(value: Any) -> str:
    """A setting's value in short: "svd(rank=40)". Empty text for None and for an empty list."""
    if isinstance(value, Mapping):
        inner = _settings({name: value for name, value in value.items() if name != "kind"})
        return f"{value.get('kind', '')}({inner})" if inner else str(value.get("kind", ""))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None or value == [] else str(value)
