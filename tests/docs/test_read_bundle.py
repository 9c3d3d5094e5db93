"""The reader of NumPy alone reads what the real reader reads, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import assume
from test_cells import CELLS
from test_compositions import (
    VOCABULARY,
    WORDS,
    compositions,
    dense_of,
    every_composition,
    with_units_gone,
)

from lmcore import bundle
from lmcore.building import build
from lmcore.bundle import Bundle
from lmcore.calibration import Calibration
from lmcore.cells import Cell
from lmcore.codec import Codec
from lmcore.coding import encode
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.pruning import Pattern
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.sites import leaf_name
from lmcore.structure import Structure

READER = ROOT / "docs" / "read_bundle.py"
SIZES = {"hidden": (10, 8), "embedding": 9, "tied": False}


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("read_bundle", READER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


def assert_read(reader: ModuleType, path: Path, ids: list[int]) -> Bundle:
    """All values are the same to the bit, and so is the perplexity of a text but for rounding."""
    mine, real = reader.read_bundle(path), bundle.load(path)
    assert tuple(mine.words) == real.vocabulary.words
    stored = dict(real.model.biases)
    for site, weight in real.model.sites.items():
        stored |= {leaf_name(site, name): leaf for name, leaf in weight.leaves.items()}
    assert mine.leaves.keys() == stored.keys()
    for name, leaf in stored.items():
        values = leaf.value().detach().numpy()
        assert mine.leaves[name].dtype == values.dtype
        assert np.array_equal(mine.leaves[name], values), name
    expected = score(real.language, torch.tensor(ids), real.vocabulary.eos).value
    assert mine.perplexity(ids) == pytest.approx(expected, rel=1e-4)
    return real


def written(given: dict[str, Any], cell: Cell, sizes: dict[str, Any], seed: int, path: Path) -> int:
    """The size of the recipe's file. Raises UserError where the recipe cannot be."""
    dense = dense_of(cell, sizes, seed)
    recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, WORDS)
    start = with_units_gone(dense, seed) if recipe.layers.units else dense
    text = torch.randint(WORDS, (240,), generator=torch.Generator().manual_seed(0))
    model = build(start, recipe, Calibration(start, text)).eval()
    return bundle.save(path, model, VOCABULARY)


IDS = [(7 * i + i // 3) % WORDS for i in range(30)]


@compositions(30)
@every_composition
def test_every_composition_is_read(
    given: dict[str, Any],
    cell: Cell,
    sizes: dict[str, Any],
    seed: int,
    reader: ModuleType,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.lmb"
    try:
        written(given, cell, sizes, seed, path)
    except UserError:
        assume(False)
    assert_read(reader, path, IDS)


def examples() -> list[Any]:
    """A recipe for each example of each method, without its ladder's middle."""
    found: list[Any] = []
    for family in cast(list[type[Codec]], Codec.members.values()):
        for ladder in family.examples():
            for step in (ladder[0], ladder[-1]):
                found.append({"bits": {"kind": family.model_fields["kind"].default, **step}})
    for structure in cast(list[type[Structure]], Structure.members.values()):
        for ladder in structure.examples((40, 9)):
            kind = structure.model_fields["kind"].default
            found.append({"structure": {"kind": kind, **ladder[0]}, "bits": "float16"})
    patterns: list[Pattern] = ["weights", "rows", (4, 1)]
    found += [
        {"sparsity": 0.6, "pattern": pattern, "bits": {"kind": "linear", "bits": 3}}
        for pattern in patterns
    ]
    return found


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell.plain().values())))
def test_every_method_and_cell_is_read(cell: Cell, reader: ModuleType, tmp_path: Path) -> None:
    read = 0
    for settings in examples()[:: 1 if cell.kind == "lstm" else 9]:
        given = {"sites": {"*": settings, "embedding": {"bits": "float32"}}}
        try:
            written(given, cell, SIZES, 1, tmp_path / "model.lmb")
        except UserError:  # a method that no cell or no site of these sizes can have
            continue
        assert_read(reader, tmp_path / "model.lmb", IDS[:8])
        read += 1
    assert read > (20 if cell.kind == "lstm" else 2)


@pytest.mark.slow
def test_a_published_bundle_is_read(reader: ModuleType) -> None:
    """The smallest."""
    path = min(ROOT.glob("studies/*/bundles/*.lmb"), key=lambda path: path.stat().st_size)
    assert_read(reader, path, [(37 * i * i) % 10_000 for i in range(60)])


@pytest.mark.parametrize("shape", [(420, 401), (37, 90), (260, 2), (2, 300)])
@pytest.mark.parametrize(("low", "high"), [(-127, 127), (0, 510), (0, 1), (-3, 3)])
def test_matrices_of_integers_are_decoded(
    shape: tuple[int, int], low: int, high: int, reader: ModuleType
) -> None:
    """Also those in groups of columns, with escapes and with low bits."""
    generator = np.random.default_rng(1)
    spread = generator.standard_normal(shape) * generator.gamma(1, 1, (shape[0], 1)) * (high - low)
    matrix = np.clip(np.rint((low + high) / 2 + spread / 8), low, high).astype(int)
    data = encode(matrix, low, high)
    assert np.array_equal(reader.decode(data, shape, low, high), matrix)
    flat = matrix.ravel()[:3000]
    assert np.array_equal(reader.decode(encode(flat, low, high), flat.shape, low, high), flat)
    same = np.full(shape, high)
    assert np.array_equal(reader.decode(encode(same, low, high), shape, low, high), same)


@pytest.mark.parametrize("size", [2, 5, 7, 64, 101, 200, 650, 1500, 10_000])
@pytest.mark.parametrize("cores", [2, 3, 4])
def test_factors_of_a_tensor_train_are_the_same(size: int, cores: int, reader: ModuleType) -> None:
    from lmcore.compress.tensor_train import near_equal_factors

    assert reader.near_equal(size, cores) == near_equal_factors(size, cores)


def test_it_runs_by_itself_and_imports_numpy_alone(tmp_path: Path) -> None:
    words = ["<eos>", "<unk>", *(f"w{i:02d}" for i in range(WORDS - 2))]
    model = dense_of(CELLS[0], SIZES, 1)
    bundle.save(tmp_path / "model.lmb", model, Vocabulary(words))
    (tmp_path / "text.txt").write_text("w01 w02 other\nw03 w00\n")
    command = [sys.executable, "-I", str(READER), "model.lmb", "text.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    ids = [3, 4, 1, 0, 5, 2, 0]
    expected = score(bundle.load(tmp_path / "model.lmb").language, torch.tensor(ids), 0).value
    assert done.stdout == f"perplexity {expected:.4f} of 7 tokens\n"
    code = f"import sys; sys.path.insert(0, {str(READER.parent)!r}); import read_bundle"
    heavy = ("torch", "lmcore", "scipy", "constriction")
    show = f"print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; {show}"], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"


def test_an_altered_file_is_refused(reader: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.lmb"
    bundle.save(path, dense_of(CELLS[0], SIZES, 1), VOCABULARY)
    path.write_bytes(path.read_bytes()[:-40] + b"x" + path.read_bytes()[-39:])
    with pytest.raises(ValueError, match="altered"):
        reader.read_bundle(path)


def test_it_stays_short() -> None:
    """Below 400 lines, without blank ones."""
    assert sum(bool(line.strip()) for line in READER.read_text().splitlines()) < 400
