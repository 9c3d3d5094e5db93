"""What `pip install` brings, far from the checkout: no studies/, no conf/ beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from studies import environment

MAIN = "import search.cli; assert {here!r} in search.__file__; search.cli.main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, in a folder of their own."""
    source = tmp_path_factory.mktemp("source") / "lmpareto"
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for room in ("lmcore", "search", "conf"):
        shutil.copytree(ROOT / room, source / room, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    made = source.parent / "wheel"
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(made)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (wheel,) = made.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(
    installed: Path, *arguments: str, cwd: Path, said: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(here=str(installed)), *arguments],
        input=said,
        cwd=cwd,
        env=environment(cwd / "cache", PYTHONPATH=str(installed)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_one_command_shows_what_this_is_about(installed: Path, tmp_path: Path) -> None:
    done = run(
        installed, "complete", "format=json", cwd=tmp_path, said="the company s\nthe company said "
    )
    assert done.returncode == 0, done.stderr
    begun, after = map(json.loads, done.stdout.splitlines())
    assert "said" in [word for word, _ in begun["completions"]]
    assert [word for word, _ in after["next_words"]] == ["it", "its", "that"]


@pytest.mark.slow
def test_no_studies_are_there_and_the_message_says_where_they_are(
    installed: Path, tmp_path: Path
) -> None:
    done = run(installed, "front", "study=methodz", cwd=tmp_path)
    assert done.returncode == 1
    assert "published studies are in the folder studies/" in done.stderr
