"""Tensor trains against brute force: entry by entry, path by path, setting by setting."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel, Statistics
from torch import Tensor

from lmcore import bundle
from lmcore.building import build
from lmcore.compress.tensor_train import TensorTrainStructure, near_equal_factors
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.leaf import Leaf
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.structure import DenseStructure, Structure
from lmcore.weight import Weight

CASES: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((6, 4), {"rank": 2, "cores": 2}),
    ((12, 10), {"rank": 3}),  # 10 is padded to 12
    ((11, 13), {"rank": [3, 4]}),  # both sides are padded
    ((17, 20), {"rank": 4, "cores": 4}),
    ((7, 9), {"rank": 64, "cores": 2}),
    ((5, 6), {"rank": 3, "factors": {"rows": [4, 1, 3], "columns": [1, 8, 1]}}),
]
every_case = pytest.mark.parametrize(("shape", "settings"), CASES)


NOTHING = Statistics((1, 1))  # a tensor train starts from the matrix alone


def structure_of(settings: dict[str, Any]) -> TensorTrainStructure:
    return TensorTrainStructure.model_validate(settings)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weight_of(shape: tuple[int, int], settings: dict[str, Any]) -> Weight:
    """Random cores, so that what would be padding is not zero."""
    structure = structure_of(settings)
    leaves = structure.leaf_shapes(shape).items()
    cores = {n: Leaf(random(*s, seed=i)) for i, (n, s) in enumerate(leaves)}
    return Weight(
        structure, cores, shape
    ).train()  # a float32 leaf is then the double that it was given


def values_of(weight: Weight) -> dict[str, Tensor]:
    return {name: leaf.value() for name, leaf in weight.leaves.items()}


def digits(number: int, bases: list[int]) -> list[int]:
    """The most telling first."""
    found = []
    for base in reversed(bases):
        number, digit = divmod(number, base)
        found.append(digit)
    return found[::-1]


def brute_force(weight: Weight, settings: dict[str, Any]) -> Tensor:
    """W[i, j] = G_1[i_1, j_1] ... G_d[i_d, j_d], an entry at a time."""
    structure = structure_of(settings)
    modes, ranks = structure.modes(weight.shape), structure.ranks(weight.shape)
    cores = [
        leaf.data.detach().reshape(ranks[k], m, n, ranks[k + 1])
        for k, (leaf, (m, n)) in enumerate(zip(weight.leaves.values(), modes, strict=True))
    ]
    matrix = random(*weight.shape)
    for i, j in itertools.product(*map(range, weight.shape)):
        product = torch.eye(1, dtype=torch.float64)
        places = zip(
            digits(i, [m for m, _ in modes]), digits(j, [n for _, n in modes]), strict=True
        )
        for core, (row, column) in zip(cores, places, strict=True):
            product = product @ core[:, row, column]
        matrix[i, j] = product.item()
    return matrix


# --- the matrix -----------------------------------------------------------------------------------


@every_case
def test_dense_is_the_product_of_the_cores(
    shape: tuple[int, int], settings: dict[str, Any]
) -> None:
    weight = weight_of(shape, settings)
    assert weight.shape == shape == tuple(weight.dense().shape)
    torch.testing.assert_close(weight.dense(), brute_force(weight, settings))


@every_case
@pytest.mark.parametrize("before", [(), (1,), (5,), (2, 3), (0,), (4, 0, 2)])
def test_contraction_is_the_product_with_the_matrix(
    shape: tuple[int, int], settings: dict[str, Any], before: tuple[int, ...]
) -> None:
    weight, x = weight_of(shape, settings), random(*before, shape[1], seed=9)
    expected = x @ weight.dense().T
    structure, values = structure_of(settings), values_of(weight)
    for found in (
        structure._contract(values, shape, x),
        Structure.matmul(structure, values, shape, x),
        weight.matmul(x),
    ):
        assert found.shape == (*before, shape[0])
        torch.testing.assert_close(found, expected)


@every_case
def test_rows_are_rows_of_the_matrix(shape: tuple[int, int], settings: dict[str, Any]) -> None:
    weight, structure = weight_of(shape, settings), structure_of(settings)
    values = values_of(weight)
    for ids in (
        torch.tensor(shape[0] - 1),
        torch.arange(shape[0]),
        torch.zeros(3, 2, dtype=torch.long),
        torch.zeros(0, 4, dtype=torch.long),
    ):
        expected = weight.dense()[ids]
        for found in (
            structure._contract_rows(values, shape, ids),
            Structure.look_up(structure, values, shape, ids),
            weight.rows(ids),
        ):
            assert found.shape == (*ids.shape, shape[1])
            torch.testing.assert_close(found, expected)


def test_the_cheaper_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for name in ("_contract", "_contract_rows", "dense"):
        path = getattr(TensorTrainStructure, name)

        def noted(
            self: TensorTrainStructure, *given: Any, name: str = name, path: Any = path
        ) -> Any:
            taken.append(name)
            return path(self, *given)

        monkeypatch.setattr(TensorTrainStructure, name, noted)
    weight = weight_of((1000, 200), {"rank": 16})
    weight.matmul(random(1, 200))
    weight.matmul(random(5000, 200))
    weight.rows(torch.tensor([3]))
    weight.rows(torch.arange(1000).repeat(20))
    assert taken == ["_contract", "dense", "_contract_rows", "dense"]


@every_case
def test_gradients_of_every_path(shape: tuple[int, int], settings: dict[str, Any]) -> None:
    structure, x, ids = structure_of(settings), random(2, shape[1]), torch.tensor([1, 0, 1])
    start = [random(*leaf, seed=i) for i, leaf in enumerate(structure.leaf_shapes(shape).values())]

    def paths(*cores: Tensor) -> tuple[Tensor, ...]:
        leaves = dict(zip(structure.leaf_shapes(shape), cores, strict=True))
        return (
            structure.dense(leaves, shape),
            structure._contract(leaves, shape, x),
            structure._contract_rows(leaves, shape, ids),
        )

    assert torch.autograd.gradcheck(paths, [core.requires_grad_() for core in start])


# --- the start ------------------------------------------------------------------------------------


def started(matrix: Tensor, structure: TensorTrainStructure) -> Tensor:
    rows, columns = matrix.shape
    leaves = {name: Leaf(leaf) for name, leaf in structure.factor(matrix, NOTHING).items()}
    return Weight(structure, leaves, (rows, columns)).train().dense().detach()


@every_case
def test_full_ranks_hold_any_matrix(shape: tuple[int, int], settings: dict[str, Any]) -> None:
    matrix = random(*shape)
    full = structure_of({**settings, "rank": 10_000})
    torch.testing.assert_close(started(matrix, full), matrix, rtol=0, atol=1e-12)


@every_case
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_error_is_within_what_the_bonds_discard(
    shape: tuple[int, int], settings: dict[str, Any], rank: int
) -> None:
    """Oseledets 2011, Theorem 2.2: error^2 <= sum over bonds of the discarded values^2, each of
    the matrix's own unfolding there; and no rank does better than the worst bond."""
    structure = structure_of({**settings, "rank": rank})
    modes, ranks, matrix = structure.modes(shape), structure.ranks(shape), random(*shape)
    sizes = [math.prod(side) for side in zip(*modes, strict=True)]
    padded = torch.zeros(*sizes, dtype=torch.float64)
    padded[: shape[0], : shape[1]] = matrix
    discarded = []
    for bond in range(1, len(modes)):
        # rows of the unfolding: the digits before the bond, of i and of j
        (upper, left), (lower, right) = (
            [math.prod(side) for side in zip(*part, strict=True)]
            for part in (modes[:bond], modes[bond:])
        )
        unfolded = padded.reshape(upper, lower, left, right).transpose(1, 2)
        values = torch.linalg.svdvals(unfolded.reshape(upper * left, lower * right))
        discarded.append(float(values[ranks[bond] :].square().sum()))
    error = float((started(matrix, structure) - matrix).square().sum())
    assert error <= sum(discarded) * (1 + 1e-12) + 1e-20
    if shape == tuple(sizes):  # else the padding takes part of the error
        assert error >= max(discarded) * (1 - 1e-12)


def test_the_start_is_even_and_the_same_again() -> None:
    structure, matrix = structure_of({"rank": 6}), random(40, 24).float()
    cores = structure.factor(matrix, NOTHING)
    norms = [float(core.norm()) for core in cores.values()]
    assert max(norms) <= 5 * min(norms)
    for name, again in structure.factor(matrix.clone(), NOTHING).items():
        assert again.dtype == torch.float32
        assert torch.equal(cores[name], again)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(12, 10),
        torch.ones(12, 10),
        torch.eye(12, 10),
        random(12, 10).float() * 1e-6,
        random(12, 1).float() * random(1, 10, seed=1).float() * 1e6,
    ],
    ids=["zeros", "ones", "identity", "tiny", "rank one"],
)
def test_matrices_of_low_rank_start_finite(matrix: Tensor) -> None:
    structure = structure_of({"rank": 64})
    cores = structure.factor(matrix, NOTHING)
    largest = float(matrix.abs().max())
    for core in cores.values():
        assert core.isfinite().all()
        assert float(core.abs().max()) <= 100 * max(1.0, math.sqrt(largest))
    torch.testing.assert_close(started(matrix, structure), matrix, rtol=0, atol=1e-5 * largest)


# --- factors and ranks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count", "factors"),
    [
        (10_000, 3, (20, 20, 25)),
        (10_000, 2, (100, 100)),
        (10_000, 4, (10, 10, 10, 10)),
        (9_999, 3, (20, 20, 25)),
        (9_999, 2, (99, 101)),
        (800, 3, (8, 10, 10)),
        (650, 3, (5, 10, 13)),
        (650, 2, (25, 26)),
        (200, 3, (5, 5, 8)),
        (200, 2, (10, 20)),
        (9_973, 3, (19, 21, 25)),  # a prime
        (101, 2, (6, 17)),  # a prime
        (13, 3, (2, 2, 4)),
        (8, 3, (2, 2, 2)),
        (64, 6, (2, 2, 2, 2, 2, 2)),
    ],
)
def test_automatic_factors(size: int, count: int, factors: tuple[int, ...]) -> None:
    assert near_equal_factors(size, count) == factors


@pytest.mark.parametrize("count", [2, 3])
def test_no_other_factors_have_a_smaller_product(count: int) -> None:
    for size in range(1, 50):
        found = min(
            (math.prod(factors), sum(factors), factors)
            for factors in itertools.combinations_with_replacement(range(1, 25), count)
            if size <= math.prod(factors) and factors[-1] <= 3 * factors[0]
        )
        assert near_equal_factors(size, count) == found[2]


def test_the_large_factors_of_rows_and_columns_are_apart() -> None:
    assert structure_of({"rank": 8}).modes((10_000, 200)) == [(20, 8), (20, 5), (25, 5)]


def test_ranks_are_what_their_bonds_can_have() -> None:
    factors = {"rows": [2, 3, 5], "columns": [2, 3, 5]}  # 4, 9 and 25 numbers
    for rank, ranks in (
        (3, [1, 3, 3, 1]),
        (100, [1, 4, 25, 1]),
        ([100, 6], [1, 4, 6, 1]),
        ([1, 100], [1, 1, 9, 1]),
        ([4, 100], [1, 4, 25, 1]),
    ):
        assert structure_of({"rank": rank, "factors": factors}).ranks((30, 30)) == ranks
    reverse = {"rows": [5, 3, 2], "columns": [5, 3, 2]}
    assert structure_of({"rank": [100, 1], "factors": reverse}).ranks((30, 30)) == [1, 9, 1, 1]


def test_equal_models_have_equal_settings() -> None:
    shape, automatic = (100, 60), {"rows": [4, 5, 5], "columns": [5, 4, 3]}

    def canonical(**settings: Any) -> Any:
        structure = structure_of(settings).canonical("decoder", shape)
        assert structure.canonical("decoder", shape) == structure
        assert Structure.pick(structure.plain()) == structure
        return structure

    four = TensorTrainStructure(rank=4)
    assert canonical(rank=4) == four
    assert canonical(rank=[4, 4]) == four
    assert canonical(rank=4, factors=automatic) == four
    assert canonical(rank=[4, 5]) == structure_of({"rank": [4, 5]})
    other = {"rows": [5, 5, 4], "columns": [5, 4, 3]}
    assert canonical(rank=4, factors=other) == structure_of({"rank": 4, "factors": other})
    # the first bond has at most 8, so that 20 there is 8; the second 40
    small = {"rows": [4, 5, 5], "columns": [2, 6, 6]}
    assert canonical(rank=[20, 8], factors=small) == structure_of({"rank": 8, "factors": small})
    assert canonical(rank=[20, 9], factors=small) == structure_of({"rank": 9, "factors": small})
    assert canonical(rank=[2, 90], factors=small).rank == (2, 30)
    assert canonical(rank=60) == DenseStructure()


def test_a_rank_that_saves_nothing_is_dense() -> None:
    """With 2 cores of 5 x 5 numbers each, 40 x 24 holds 960: 30 r + 32 r."""
    for rank, saves in ((15, True), (16, False)):
        structure = structure_of({"rank": rank, "cores": 2})
        numbers = sum(math.prod(leaf) for leaf in structure.leaf_shapes((40, 24)).values())
        assert (numbers < 960) == saves
        expected = structure if saves else DenseStructure()
        assert structure.canonical("decoder", (40, 24)) == expected


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": [3, 3, 3]}, [".rank: got [3, 3, 3]", "60 x 24", "3 cores", "or 2, one a bond"]),
        ({"rank": [3], "cores": 4}, [".rank: got [3]", "4 cores", "or 3, one a bond"]),
        ({"rank": 3, "cores": 5}, [".cores: got 5", "60 x 24", "at least 32"]),
        (
            {"rank": 3, "factors": {"rows": [4, 4, 3], "columns": [3, 3, 3]}},
            [".factors.rows: got [4, 4, 3]", "48", "60 x 24", "at least 60"],
        ),
        (
            {"rank": 3, "factors": {"rows": [4, 4, 4], "columns": [2, 3, 3]}},
            [".factors.columns: got [2, 3, 3]", "18", "60 x 24", "at least 24"],
        ),
        (
            {"rank": 3, "factors": {"rows": [8, 8], "columns": [3, 3, 3]}},
            [".factors.rows: got [8, 8]", "60 x 24", "3 factors a side"],
        ),
        (
            {"rank": 3, "cores": 2, "factors": {"rows": [8, 8], "columns": [3, 3, 3]}},
            [".factors.columns: got [3, 3, 3]", "60 x 24", "2 factors a side"],
        ),
        (
            {"rank": 3, "factors": {"rows": [8, 1, 8], "columns": [5, 1, 5]}},
            [".factors: core 1 has factors 1 and 1", "60 x 24"],
        ),
    ],
)
def test_what_a_site_cannot_have_is_said(settings: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(UserError) as error:
        structure_of(settings).canonical("decoder", (60, 24))
    assert str(error.value).startswith("recipe.sites.decoder.structure.")
    assert [part for part in said if part not in str(error.value)] == []


def test_a_matrix_too_small_to_be_factored_is_named() -> None:
    with pytest.raises(UserError, match=r"lstm\.0\.input\.structure\.cores: got 3; a 3 x 5 matrix"):
        structure_of({"rank": 1}).canonical("lstm.0.input", (3, 5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "structure.rank: got 0; it is a whole number from 1 on, or a list"),
        ({"rank": []}, "structure.rank: got []"),
        ({"rank": [3, 0]}, "structure.rank: got [3, 0]"),
        ({"rank": 2.5}, "structure.rank: got 2.5"),
        ({"rank": "many"}, "structure.rank: got 'many'"),
        ({"rank": True}, "structure.rank: got True"),
        ({}, "structure.rank: this setting is missing"),
        ({"rank": 3, "cores": 1}, "structure.cores: got 1"),
        ({"rank": 3, "cores": 7}, "structure.cores: got 7"),
        ({"rank": 3, "factors": [3, 4]}, "structure.factors: got [3, 4]"),
        ({"rank": 3, "factors": {"rows": [0, 9], "columns": [3, 3]}}, "factors.rows.0: got 0"),
        ({"rank": 3, "factors": {"rows": [9, 9]}}, "factors.columns: this setting is missing"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    site = {"structure": {"kind": "tensor_train", **settings}}
    with pytest.raises(UserError) as error:
        parse(Recipe, {"sites": {"decoder": site}}, "recipe")
    assert "recipe.sites.decoder." in str(error.value)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", ["float32", {"kind": "linear", "bits": 6}])
def test_a_bundle_gives_the_same_model(
    bits: Any, make_model: MakeModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    train = {"kind": "tensor_train", "rank": 5}
    wide = {"rows": [4, 4, 4], "columns": [3, 3, 3]}  # 60 x 24 is padded
    gates = {"rows": [12, 9], "columns": [5, 5]}  # 96 x 24 is padded
    recipe = Recipe.model_validate(
        {
            "sites": {
                "embedding": {"structure": {**train, "factors": wide}, "bits": bits},
                "lstm.*": {
                    "structure": {**train, "cores": 2, "rank": [4], "factors": gates},
                    "sparsity": 0.5,
                },
                "decoder": {"structure": {**train, "rank": [6, 3]}, "bits": bits},
            }
        }
    )
    dense = make_model()
    model = build(dense, resolve(recipe, dense.settings, dense.words)).eval()
    assert all(
        isinstance(weight.structure, TensorTrainStructure) for weight in model.sites.values()
    )
    bundle.save(tmp_path / "model.lmpb", model, vocabulary)
    loaded = bundle.load(tmp_path / "model.lmpb").language
    ids = torch.arange(60).view(12, 5)
    for site, weight in model.sites.items():
        assert loaded.sites[site].structure == weight.structure
        assert torch.equal(loaded.sites[site].dense(), weight.dense())
    for mine, its in zip(
        model(ids, model.zero_state(5))[0], loaded(ids, loaded.zero_state(5))[0], strict=True
    ):
        assert torch.equal(mine, its)
