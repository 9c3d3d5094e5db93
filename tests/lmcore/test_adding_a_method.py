"""docs/adding_a_method.md adds a method: its files, in a copy of the package, pass the contract."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
PAGE = ROOT / "docs" / "adding_a_method.md"
COPIED = ("lmcore", "search", "conf", "tests", "benchmarks")
BUILT = """
import torch
from pathlib import Path
from lmcore.bundle import load, packed_size, save
from lmcore.building import build
from lmcore.corpus import Vocabulary
from lmcore.methods import methods_of, sentences, where
from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve

model = ModelSettings(layers=2, hidden=24, embedding=24, tied=False)
words = Vocabulary(["<eos>", *(f"word{i}" for i in range(59))])
dense = random_model(model, len(words), 0.2, torch.Generator().manual_seed(0)).eval()
structure = {"kind": "kronecker", "rows": 4, "columns": 6, "terms": 2}
bits = {"kind": "uniform", "step": 0.5}
given = {"sites": {"lstm.*": {"structure": structure, "bits": bits, "sparsity": 0.5}}}
recipe = resolve(Recipe.model_validate(given), model, len(words))
assert methods_of(recipe.plain()) == ["kronecker", "pruning", "bits"]
assert where(recipe.plain()) == "lstm.*.input lstm.*.recurrent"
assert any("Kronecker" in line for lines in sentences(recipe.plain()).values() for line in lines)
built = build(dense, recipe).eval()
assert {w.structure.kind for site, w in built.sites.items() if site[:4] == "lstm"} == {"kronecker"}
size = save(Path("model.lmb"), built, words)
assert size <= packed_size(recipe, model, words)
again = load(Path("model.lmb")).model
for site, weight in built.sites.items():
    assert torch.equal(again.sites[site].dense(), weight.dense()), site
"""


def files_of(page: str) -> dict[str, str]:
    """Path -> text of each file that the page shows: a block whose first line is its path."""
    blocks: list[str] = re.findall(r"^```(?:python|yaml)\n(.*?)^```$", page, re.M | re.S)
    named = (block.partition("\n") for block in blocks)
    return {first.removeprefix("# "): text for first, _, text in named}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with the page's files in it."""
    folder = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "search" / "conf").symlink_to(folder / "conf")  # as the package has it
    for path, text in files_of(PAGE.read_text()).items():
        (folder / path).write_text(text)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python there; what is installed of the package gives way to the copy."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # files change within a second
            "LMPARETO_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
    )


def contract(folder: Path, which: str) -> subprocess.CompletedProcess[str]:
    """Some tests of the contract suite there."""
    (suite,) = (folder / "tests").rglob("test_contract.py")
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", str(suite), "-k", which)


def which_tests() -> str:
    """Those that the page's own command names."""
    command = r"^python -m pytest tests/lmcore/test_contract\.py -k \"(.*)\"$"
    (found,) = re.findall(command, PAGE.read_text(), re.M)
    return str(found)


def test_the_page_shows_a_file_and_a_space() -> None:
    assert list(files_of(PAGE.read_text())) == [
        "lmcore/compress/kronecker.py",
        "conf/space/kronecker.yaml",
    ]


@pytest.mark.slow
def test_the_method_passes_the_contract(copy: Path) -> None:
    done = contract(copy, which_tests())
    assert done.returncode == 0, done.stdout[-3000:]
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 50


def test_the_method_is_built_and_written(copy: Path) -> None:
    done = run(copy, "-c", BUILT)
    assert done.returncode == 0, done.stderr


def test_the_method_needs_no_torch_to_be_read(copy: Path) -> None:
    code = "import sys, lmcore.compress.kronecker; sys.exit('torch' in sys.modules)"
    assert run(copy, "-c", code).returncode == 0


def test_the_space_can_be_sampled(copy: Path) -> None:
    command = next(
        line for line in PAGE.read_text().splitlines() if line.startswith("lmpareto space study=")
    )
    main = "from search.cli import main; main()"
    done = run(copy, "-c", main, *command.split()[1:], "format=json")
    assert done.returncode == 0, done.stderr
    names = {one["name"] for one in json.loads(done.stdout)["parameters"]}
    assert {"input.structure.terms", "recurrent.structure.terms"} <= names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (".transpose(1, 2)", ""),  # R has no blocks for rows
        ('"tmn,trc->mrnc"', '"tmn,trc->rmnc"'),  # B x A in part
        ("    @classmethod\n    def examples", "    @classmethod\n    def no_examples"),
    ],
)
def test_a_mistake_on_the_page_would_be_found(copy: Path, right: str, wrong: str) -> None:
    path = copy / "lmcore/compress/kronecker.py"
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    try:
        done = contract(copy, which_tests())
    finally:
        path.write_text(text)
    assert done.returncode in (1, 2)  # tests failed, or could not be collected
    assert "kronecker" in done.stdout.lower()


LAYER_METHOD = """
from __future__ import annotations
from typing import TYPE_CHECKING, Any, ClassVar
from lmcore.codec import Ladder
from lmcore.compress.embedding import reduce_embedding
from lmcore.layer_methods import LayerMethod
from lmcore.model_settings import ModelSettings

class Halved(LayerMethod[bool]):
    field: ClassVar[str] = "halved"
    kind: ClassVar[str] = "half_embedding"
    order: ClassVar[int] = 30
    setting: ClassVar[Any] = bool

    def examples(self, model: ModelSettings) -> Ladder:
        return [{"halved": True}, {"halved": False}]

    def canonical(self, asked: bool, model: ModelSettings, words: int) -> bool | None:
        return True if asked else None

    def shape(self, value: bool, model: ModelSettings) -> ModelSettings:
        return model.model_copy(update={"embedding": model.embedding // 2})

    def apply(self, value: bool, dense: Any, calibration: Any) -> Any:
        reduced = reduce_embedding(dense, dense.settings.embedding // 2, calibration)
        return reduced, calibration.of(reduced)
"""


@pytest.mark.slow
def test_a_method_of_the_layers_is_one_file_too(copy: Path) -> None:
    path = copy / "lmcore/compress/halved.py"
    path.write_text(LAYER_METHOD)
    try:
        done = contract(copy, "layer_method or sentence")
        keys = run(
            copy,
            "-c",
            "from lmcore.recipe import Recipe; from lmcore.methods import methods_of\n"
            "print(Recipe(layers={'embedding': 8}).plain()['layers'])\n"
            "print(methods_of(Recipe(layers={'halved': True}).plain()))",
        )
    finally:
        path.unlink()
    assert done.returncode == 0, done.stdout[-3000:]
    assert keys.stdout.splitlines() == [
        "{'units': None, 'projection': None, 'embedding': 8}",
        "['half_embedding']",
    ]
