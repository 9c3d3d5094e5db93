"""The house of `search`: a room uses the rooms below it, none above, and nothing goes round."""

from __future__ import annotations

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import search

FLOORS = (
    *("cli", "api", "commands", "work", "show", "study", "bench", "config", "store", "space"),
    *("rules", "front", "terminal", "screen", "process", "measurement", "describe", "names"),
    *("streams", "units"),
)
ROOT = Path(search.__file__).parent
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if "migrations" not in path.parts]


def room(module: str) -> str:
    """ "search.work.sweep" -> "work"."""
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """The modules of `search` that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("search.") and is_module(name)}


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def name_of(path: Path) -> str:
    inside = path.relative_to(ROOT.parent).with_suffix("")
    return ".".join(part for part in inside.parts if part != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    name = name_of(path)
    if name == "search":
        assert not imports_of(path)
        return
    for other in imports_of(path):
        assert FLOORS.index(room(other)) >= FLOORS.index(room(name)), f"{name} imports {other}"


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({name_of(path): imports_of(path) for path in MODULES}).prepare()


def test_every_room_says_what_it_is_for() -> None:
    for path in MODULES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_a_wheel_has_every_room() -> None:
    """An editable install finds each folder; a wheel has those that pyproject.toml lists."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(path.parent.relative_to(ROOT.parent).parts)
        for top in ("lmcore", "search")
        for path in (ROOT.parent / top).rglob("__init__.py")
    }
    assert listed == folders | {"search.conf"}
