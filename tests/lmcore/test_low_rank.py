"""Low-rank starts against plain references, and what a rank amounts to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from torch import Tensor

from lmcore import bundle
from lmcore.building import build, settle
from lmcore.calibration import Calibration
from lmcore.compress import low_rank
from lmcore.compress.low_rank import DAMPING, SVD, ActivationSVD, Energy, LowRankStructure, SemiNMF
from lmcore.corpus import Corpus, Vocabulary
from lmcore.errors import UserError
from lmcore.model import LanguageModel
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.structure import DenseStructure, SiteStatistics, Structure

OUT, IN, RANK = 30, 18, 5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Known:
    """Statistics that are what they are told to be."""

    def __init__(
        self,
        inputs: Tensor | None = None,
        importance: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        self._inputs, self._importance, self._counts = inputs, importance, counts

    def inputs(self) -> Tensor | None:
        return self._inputs

    def importance(self) -> Tensor:
        assert self._importance is not None
        return self._importance

    def counts(self) -> Tensor | None:
        return self._counts


MATRIX = random(OUT, IN).float()
X = random(60, IN, seed=1) @ torch.diag(torch.logspace(0, 2, IN, dtype=torch.float64))
MOMENTS = (X.T @ X / 60).float()
IMPORTANCE = random(OUT, IN, seed=2).square().float()
COUNTS = (random(OUT, seed=3).abs() * 20).long()
STATISTICS = Known(MOMENTS, IMPORTANCE, COUNTS)


def product(structure: LowRankStructure, statistics: SiteStatistics, rank: int = RANK) -> Tensor:
    left, right = structure.factors(MATRIX, statistics, rank)
    assert left.dtype == right.dtype == torch.float32
    assert (left.shape, right.shape) == ((OUT, rank), (rank, IN))
    return torch.mm(left, right).double()


def plain_svd(rank: int = RANK) -> Tensor:
    left, values, right = torch.linalg.svd(MATRIX.double(), full_matrices=False)
    return torch.mm(left[:, :rank] * values[:rank], right[:rank])


# --- SVD and activation-aware SVD -----------------------------------------------------------------


def test_svd_is_the_nearest_and_even() -> None:
    torch.testing.assert_close(product(SVD(rank=RANK), STATISTICS), plain_svd(), rtol=0, atol=1e-5)
    left, right = SVD(rank=RANK).factors(MATRIX, STATISTICS, RANK)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def weighted_error(kind: str, approximation: Tensor) -> float:
    """|D (W - AB) C^(1/2)|^2 by its definition, C damped as the method does."""
    rows = {"none": torch.ones(OUT), "fisher": IMPORTANCE.sum(1), "counts": COUNTS.float()}[kind]
    rows = rows.double() / rows.double().mean() + (0 if kind == "none" else DAMPING)
    c = MOMENTS.double()
    c = c + DAMPING * c.diagonal().mean() * torch.eye(IN)
    difference = MATRIX.double() - approximation
    return float((rows.unsqueeze(1) * (difference @ c) * difference).sum())


@pytest.mark.parametrize("rows", ["none", "fisher", "counts"])
def test_activation_svd_has_the_least_output_error(rows: Any) -> None:
    """Against plain SVD, the factors of other rows, and whatever lies near it."""
    structure = ActivationSVD(rank=RANK, rows=rows)
    left, right = (f.double() for f in structure.factors(MATRIX, STATISTICS, RANK))
    least = weighted_error(rows, left @ right)
    assert least < 0.9 * weighted_error(rows, plain_svd())
    choices: list[Any] = ["none", "fisher", "counts"]
    for other in choices:
        if other == rows:
            continue
        others = product(ActivationSVD(rank=RANK, rows=other), STATISTICS)
        assert least < weighted_error(rows, others)
    for seed in range(50):
        for step in (0.5, 0.03, 0.001):
            a = left + step * left.std() * random(OUT, RANK, seed=2 * seed)
            b = right + step * right.std() * random(RANK, IN, seed=2 * seed + 1)
            assert least <= weighted_error(rows, a @ b) * (1 + 1e-6)
    whitened = structure.spectrum(MATRIX, STATISTICS)  # Eckart-Young: what is left of them
    assert least == pytest.approx(float(whitened[RANK:].square().sum()), rel=1e-4)


def test_statistics_that_tell_nothing_give_plain_svd() -> None:
    for statistics in (Known(torch.eye(IN) * 3), Known(None)):
        found = product(ActivationSVD(rank=RANK), statistics)
        torch.testing.assert_close(found, plain_svd(), rtol=0, atol=1e-5)
    evenly = Known(None, torch.full((OUT, IN), 7.0), torch.full((OUT,), 4))
    weights: list[Any] = ["fisher", "counts"]
    for rows in weights:
        found = product(ActivationSVD(rank=RANK, rows=rows), evenly)
        torch.testing.assert_close(found, plain_svd(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", ["none", "fisher", "counts"])
def test_statistics_with_nothing_in_them_stay_finite(rows: Any) -> None:
    c = torch.zeros(IN, IN)
    for moments in (c, c.index_put((torch.tensor(2), torch.tensor(2)), torch.tensor(1.0))):
        known = Known(moments, torch.zeros(OUT, IN), torch.zeros(OUT).long())
        structure = ActivationSVD(rank=RANK, rows=rows)
        assert product(structure, known).isfinite().all()
        assert structure.spectrum(MATRIX, known).isfinite().all()


# --- Semi-NMF ------------------------------------------------------------------------------------


def reference_nmf(w: np.ndarray, rank: int, rounds: int) -> list[float]:
    """The squared error after each round of the formulas in Winata et al., from the same start."""

    def plus(x: np.ndarray) -> np.ndarray:
        return np.asarray((np.abs(x) + x) / 2)

    def minus(x: np.ndarray) -> np.ndarray:
        return np.asarray((np.abs(x) - x) / 2)

    _, values, right = np.linalg.svd(w, full_matrices=False)
    b = np.abs(np.diag(np.sqrt(values[:rank])) @ right[:rank])
    errors = []
    for _ in range(rounds):
        a = w @ b.T @ np.linalg.pinv(b @ b.T)
        errors.append(float(((w - a @ b) ** 2).sum()))
        bt = b.T
        over = plus(w.T @ a) + bt @ minus(a.T @ a)
        under = minus(w.T @ a) + bt @ plus(a.T @ a) + 1e-9
        b = (bt * np.sqrt(over / under)).T
    a = w @ b.T @ np.linalg.pinv(b @ b.T)
    return [*errors, float(((w - a @ b) ** 2).sum())]


def nmf_error(matrix: Tensor, rank: int) -> float:
    left, right = SemiNMF(rank=rank).factors(matrix, STATISTICS, rank)
    assert (right >= 0).all()
    return float((matrix - left @ right).double().square().sum())


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_semi_nmf_is_that_of_the_formulas(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reference_nmf(MATRIX.double().numpy(), rank, low_rank.NMF_ROUNDS)
    for rounds in (0, 1, 10, low_rank.NMF_ROUNDS):
        monkeypatch.setattr(low_rank, "NMF_ROUNDS", rounds)
        assert nmf_error(MATRIX, rank) == pytest.approx(expected[rounds], rel=1e-4)
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(expected))
    assert expected[-1] < expected[0]
    best = float((MATRIX.double() - plain_svd(rank)).square().sum())
    assert best <= expected[-1]


def test_semi_nmf_finds_factors_that_are_there() -> None:
    matrix = (random(OUT, 3) @ random(3, IN, seed=1).abs()).float()
    assert nmf_error(matrix, 3) < 0.01 * float(matrix.square().sum())


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_both_factors_of_semi_nmf_are_at_one_scale(rank: int) -> None:
    left, right = SemiNMF(rank=rank).factors(MATRIX * 100, STATISTICS, rank)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("matrix", [torch.zeros(6, 4), torch.eye(6, 4), -torch.ones(6, 4)])
def test_semi_nmf_of_special_matrices_is_finite(matrix: Tensor) -> None:
    for rank in (1, 2, 4):
        left, right = SemiNMF(rank=rank).factors(matrix, STATISTICS, rank)
        assert left.isfinite().all()
        assert right.isfinite().all()
        assert (right >= 0).all()
    if float(matrix.std()) == 0:
        assert nmf_error(matrix, 2) < 1e-4


# --- Ranks ---------------------------------------------------------------------------------------

KINDS: list[Callable[..., LowRankStructure]] = [SVD, ActivationSVD, SemiNMF]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.37, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(96, 24), (24, 96), (60, 24), (24, 24), (7, 3)])
def test_a_fraction_is_of_the_dense_size(
    kind: Any, fraction: float, shape: tuple[int, int]
) -> None:
    """The largest rank whose factors are no larger, but one at least."""
    rows, columns = shape
    found = kind(rank=fraction).canonical("lstm.0.input", shape)
    sizes = {rank: rank * (rows + columns) for rank in range(1, min(shape) + 1)}
    fitting = [rank for rank, size in sizes.items() if size <= fraction * rows * columns] or [1]
    if sizes[fitting[-1]] >= rows * columns:
        assert found == DenseStructure()
    else:
        assert found == kind(rank=fitting[-1])


@every_kind
@pytest.mark.parametrize("energy", [0.01, 0.3, 0.7, 0.95, 0.999999])
def test_energy_is_the_least_rank_that_keeps_it(kind: Any, energy: float) -> None:
    structure = kind(rank=Energy(energy=energy))
    assert structure.canonical("lstm.0.input", (OUT, IN)) == structure
    settled = structure.settled(MATRIX, STATISTICS)
    squares = structure.spectrum(MATRIX, STATISTICS).double().square()
    kept = [float(squares[:rank].sum() / squares.sum()) for rank in range(IN + 1)]
    assert isinstance(settled.rank, int)
    assert kept[settled.rank] >= energy * (1 - 1e-9)
    assert kept[settled.rank - 1] < energy
    assert settled == kind(rank=settled.rank)


@every_kind
def test_all_the_energy_is_the_matrix_itself(kind: Any) -> None:
    structure = kind(rank=Energy(energy=1.0))
    assert structure.canonical("lstm.0.input", (OUT, IN)) == DenseStructure()
    zeros = torch.zeros(OUT, IN)
    assert kind(rank=Energy(energy=0.5)).settled(zeros, STATISTICS) == kind(rank=1)


def test_the_energy_of_activation_svd_is_that_of_the_output() -> None:
    one = random(OUT, 1) @ random(1, IN, seed=1)
    matrix = (MATRIX.double() + 30 * one).float()
    direction = random(1, IN, seed=1)
    c = torch.eye(IN, dtype=torch.float64) - direction.T @ direction / direction.square().sum()
    known = Known((c + 1e-6 * torch.eye(IN)).float())  # inputs never go along with it
    energy = Energy(energy=0.8)
    assert SVD(rank=energy).settled(matrix, known) == SVD(rank=1)
    settled = ActivationSVD(rank=energy).settled(matrix, known)
    assert isinstance(settled, ActivationSVD)
    assert isinstance(settled.rank, int)
    assert settled.rank > 1


@every_kind
def test_a_rank_fits_up_to_the_smaller_side(kind: Any) -> None:
    """Where units were removed it may not any more, and the site is dense."""
    assert [kind(rank=rank).fits((OUT, IN)) for rank in (1, IN, IN + 1, OUT)] == [1, 1, 0, 0]
    assert kind(rank=0.5).fits((OUT, IN))
    assert kind(rank=Energy(energy=0.5)).fits((OUT, IN))
    assert kind(rank=4).settled(MATRIX, STATISTICS) == kind(rank=4)


@pytest.mark.parametrize(
    ("rank", "parts"),
    [
        (0, ["got 0; a rank is a whole number from 1 on, a share of the dense size above 0"]),
        (-0.5, ["got -0.5; a rank is"]),
        (1.5, ["got 1.5; a rank is"]),
        (True, ["got True; a rank is"]),
        ({"energy": 0.0}, ["energy", "greater than 0"]),
        ({"energy": 1.01}, ["energy", "less than or equal to 1"]),
        ({"energie": 0.5}, ["energie"]),
        ("half", ["got 'half'; a rank is"]),
    ],
    ids=str,
)
def test_a_rank_that_is_none_is_refused(rank: Any, parts: list[str]) -> None:
    sites = {"*": {"structure": {"kind": "svd", "rank": rank}}}
    with pytest.raises(UserError) as error:
        parse(Recipe, {"sites": sites}, "recipe")
    for part in ("recipe.sites.*.structure.rank", *parts):
        assert part in str(error.value)
    assert str(error.value).count("got") <= 1, "one message for all forms"


def resolved(dense: LanguageModel, **given: Any) -> Recipe:
    return resolve(parse(Recipe, given, "recipe"), dense.settings, dense.words)


@pytest.mark.parametrize(
    ("rank", "kind"), [(3, int), (0.4, int), ({"energy": 0.6}, Energy), ({"energy": 1.0}, None)]
)
def test_ranks_in_recipes(
    rank: Any, kind: type | None, make_model: MakeModel, corpus: Corpus
) -> None:
    dense = make_model()
    calibration = Calibration(dense, corpus.train)
    for name in ("svd", "activation_svd", "semi_nmf"):
        recipe = resolved(dense, sites={"*": {"structure": {"kind": name, "rank": rank}}})
        assert resolve(recipe, dense.settings, dense.words) == recipe
        assert parse(Recipe, recipe.plain()) == recipe
        settled = settle(recipe, dense, calibration)
        model = build(dense, recipe, calibration)
        for site, settings in recipe.sites.items():
            structure = settings.structure
            if kind is None:
                assert structure == DenseStructure()
                continue
            assert isinstance(structure, LowRankStructure)
            assert isinstance(structure.rank, kind)
            assert model.sites[site].structure == settled.sites[site].structure
            assert isinstance(getattr(model.sites[site].structure, "rank", 0), int)


# --- In a model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "parts"),
    [
        (
            {"lstm.0.*": {"structure": {"kind": "activation_svd", "rank": 3, "rows": "counts"}}},
            ["recipe.sites.lstm.0.input.structure.rows", "counts", "none or fisher"],
        ),
        (
            {"decoder": {"structure": {"kind": "svd", "rank": 25}}},
            ["recipe.sites.decoder.structure.rank", "25", "60 x 24", "24"],
        ),
    ],
)
def test_what_a_site_cannot_have_is_said(
    sites: dict[str, Any], parts: list[str], make_model: MakeModel
) -> None:
    with pytest.raises(UserError) as error:
        resolved(make_model(), sites=sites)
    for part in parts:
        assert part in str(error.value)


FEEDBACK = {"kind": "linear", "bits": 4, "feedback": True}
TRAIN = {"kind": "tensor_train", "rank": 2, "cores": 2}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"biases": FEEDBACK}, ["recipe.biases.feedback", "bias"]),
        ({"sites": {"embedding": {"bits": FEEDBACK}}}, ["recipe.sites.embedding.bits.feedback"]),
        (
            {"sites": {"lstm.1.input": {"bits": FEEDBACK, "structure": TRAIN}}},
            ["recipe.sites.lstm.1.input.bits.feedback", "tensor_train"],
        ),
    ],
)
def test_error_feedback_where_nothing_is_multiplied_is_said(
    given: dict[str, Any], parts: list[str], make_model: MakeModel, corpus: Corpus
) -> None:
    dense = make_model()
    with pytest.raises(UserError) as error:
        build(dense, resolved(dense, **given), Calibration(dense, corpus.train))
    for part in parts:
        assert part in str(error.value)


def test_where_a_text_is_needed_its_lack_is_said(make_model: MakeModel) -> None:
    dense = make_model()
    for site in (
        {"structure": {"kind": "activation_svd", "rank": 3}},
        {"bits": {"kind": "kmeans", "bits": 2, "weighted": True}},
        {"bits": FEEDBACK},
    ):
        with pytest.raises(UserError, match="text"):
            build(dense, resolved(dense, sites={"lstm.*": site}))


@pytest.mark.parametrize("tied", [False, True])
def test_error_feedback_reaches_both_factors(
    tied: bool, make_model: MakeModel, corpus: Corpus
) -> None:
    """Of a tied embedding too: its decoder multiplies."""
    dense = make_model(tied)
    sites = [site for site in dense.sites if tied or site != "embedding"]
    settings = {"structure": {"kind": "svd", "rank": 4}, "bits": FEEDBACK}
    recipe = resolved(dense, sites=dict.fromkeys(sites, settings))
    calibration = Calibration(dense, corpus.train)
    model = build(dense, recipe, calibration).eval()
    for site in sites:
        left, right = (model.sites[site].leaves[name] for name in ("left", "right"))
        moments = calibration.inputs[site]
        assert torch.equal(right.evidence.inputs, moments)  # type: ignore[arg-type]
        x = torch.linalg.cholesky(moments.double() + 1e-9 * torch.eye(24)).float().T
        z = x @ right.data.detach().T  # what the left factor multiplies
        assert left.evidence.inputs is not None
        torch.testing.assert_close(left.evidence.inputs, z.T @ z, rtol=1e-3, atol=1e-4)


def test_each_structure_s_leaf_inputs_belong_to_its_leaves() -> None:
    for kind in ("dense", "svd", "activation_svd", "semi_nmf"):
        given = {"kind": kind} if kind == "dense" else {"kind": kind, "rank": RANK}
        structure = Structure.pick(given)
        assert isinstance(structure, Structure)
        leaves = structure.factor(MATRIX, STATISTICS)
        inputs = structure.leaf_inputs(leaves, MOMENTS)
        assert {name: (leaf.shape[1],) * 2 for name, leaf in leaves.items()} == {
            name: tuple(value.shape) for name, value in inputs.items()
        }


CODECS: list[dict[str, Any]] = [
    {"kind": "float32"},
    {"kind": "kmeans", "bits": 8},
    {"kind": "kmeans", "bits": 1},
    {"kind": "linear", "bits": 1, "scope": 5},
    {"kind": "uniform", "step": 0.02},
]


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_an_energy_never_exceeds_the_packed_size(
    codec: dict[str, Any],
    sparsity: float,
    make_model: MakeModel,
    vocabulary: Vocabulary,
    tmp_path: Path,
) -> None:
    """Nor near the rank whose factors are as large as the matrix: they have more streams."""
    dense = make_model(hidden=24)
    calibration = Calibration(dense, None)
    for energy in (0.3, 0.5, 0.6, 0.65, 0.75, 0.9, 0.95):
        site = {"structure": {"kind": "svd", "rank": {"energy": energy}}}
        recipe = resolved(dense, sites={"*": {**site, "bits": codec, "sparsity": sparsity}})
        bound = bundle.packed_size(recipe, dense.settings, vocabulary)
        settled = settle(recipe, dense, calibration)
        assert bundle.packed_size(settled, dense.settings, vocabulary) <= bound, energy
    model = build(dense, recipe).eval()
    assert bundle.save(tmp_path / "a.lmb", model, vocabulary) <= bound
