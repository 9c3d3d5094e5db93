"""The pages of docs/ are run: every command in a block `sh`, every line of Python, in the order of
the page, in one folder. Models are tiny, so that it takes seconds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.cli import COMMANDS
from studies import COMMAND, Shell, environment, write_text

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# the file that a block is, named by a comment in its first line, or below Hydra's own
FILE = re.compile(r"(?:# @package .*\n)?# ([\w/.-]+\.\w+)")
LEAVES = {  # page -> where else its blocks are run
    "adding_a_method": "tests/lmcore/test_adding_a_method.py",
    "clusters": "tests/search/work/test_launchers.py",
}
# what makes a page's commands take seconds; the settings that a page types itself win
TINY = {
    "sweep": "trials=2 workers=1",
    "confirm": "workers=1",
}
DENSE = "model.hidden=12 model.embedding=12 training.epochs=1"
OWN = "model.hidden=128 model.embedding=128 training.epochs=1"  # its space has ranks up to 120
IN_A_SHELL = COMMANDS.keys() - {"sweep", "confirm"}  # those that start no workers


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block."""
    return BLOCK.findall(PAGES[page])


def runs(page: str) -> bool:
    return page not in LEAVES and any(language in ("sh", "python") for language, _ in blocks(page))


def tiny(line: str) -> str:
    """The line of a shell, of a tiny model."""
    words = shlex.split(line)
    at = words.index("lmpareto") if "lmpareto" in words else None
    if at is None:
        return line
    command, given = words[at + 1], {word.partition("=")[0] for word in words[at + 2 :]}
    settings = TINY.get(command, "").split()
    if command in ("train", "sweep") and "--config-dir" in words:
        settings += OWN.split()
    elif command in ("train", "sweep") and "study=quickstart" in words:
        settings += DENSE.split()
    more = [one for one in settings if one.partition("=")[0] not in given]
    return f"{line} {shlex.join(more)}"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("pages") / "cache") as shell:
        yield shell


@pytest.fixture(scope="module")
def begun(shell: Shell) -> Path:
    """A folder with a text and a cache, where the tutorial's study was begun; pages go on there."""
    folder = shell.cache.parent
    write_text(folder / "my.txt", lines=600)
    (begins,) = re.findall(r"^lmpareto sweep study=quickstart .*$", PAGES["tutorial"], re.M)
    run(["sh", "-ec", tiny(begins)], folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_a_page(page: str, begun: Path, shell: Shell) -> None:
    own, python = blocks(page), []
    for index, (language, text) in enumerate(own):
        if named := FILE.match(text):
            file = begun / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif language == "sh":
            for line in text.strip().splitlines():
                run_line(tiny(line), begun, shell)
        elif language == "python":
            python.append(text)
            if [one for one, _ in own[index + 1 : index + 2]] != ["python"]:
                run([sys.executable, "-c", "\n".join(python)], begun)


def run_line(line: str, folder: Path, shell: Shell) -> None:
    words = shlex.split(line, comments=True)
    if words[:1] == ["lmpareto"] and words[1] in IN_A_SHELL:
        shell(*words[1:]).ok()
    else:
        run(["sh", "-ec", line], folder)


def run(line: list[str], folder: Path) -> None:
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line,
        cwd=folder,
        env=environment(folder / "cache", PATH=path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, "README"])
def test_the_commands_that_a_page_names_exist(page: str) -> None:
    text = PAGES.get(page) or (ROOT / "README.md").read_text()
    named = re.findall(r"(?:^|`|bin/)lmpareto ([a-z]+)\b", text, re.M)
    assert set(named) <= COMMANDS.keys()


@pytest.mark.parametrize("page", [*PAGES, "README"])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    folder = ROOT / "docs" if page in PAGES else ROOT
    text = PAGES.get(page) or (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [one for one in links if not (folder / one).exists()] == []


def test_the_page_of_commands_has_them_all() -> None:
    assert set(re.findall(r"^\| `lmpareto ([a-z]+)\b", PAGES["commands"], re.M)) == COMMANDS.keys()
