"""Error feedback against a plain slow GPTQ, and against plain rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lmcore.codec import Evidence
from lmcore.compress.codebooks import KMeans, MultiBit
from lmcore.compress.error_feedback import BLOCK, DAMPING, error_feedback
from lmcore.compress.quantization import GridCodec, Linear
from lmcore.compress.uniform import Uniform
from lmcore.leaf import Leaf

ROWS, COLUMNS = 12, BLOCK + 13
CODECS = [
    Linear(bits=3, feedback=True),
    Linear(bits=3, scope=7, feedback=True),
    KMeans(bits=2, feedback=True),
    KMeans(bits=2, scope="row", feedback=True),
    MultiBit(bits=2, feedback=True),
    MultiBit(bits=2, scope=20, feedback=True),
    Uniform(step=1.0, feedback=True),
    Uniform(step=1.0, rounding=0.0, scope="row", feedback=True),
]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments_of(columns: int, seed: int = 0) -> Tensor:
    """Of inputs that go along with one another."""
    x = random(4 * columns, 5, seed=seed) @ random(5, columns, seed=seed + 1)
    x = x + 0.5 * random(4 * columns, columns, seed=seed + 2)
    return x.T @ x / len(x)


def plain(codec: GridCodec) -> GridCodec:
    return codec.model_copy(update={"feedback": False})


def output_error(matrix: Tensor, stored: Tensor, moments: Tensor) -> float:
    """|(W - Q) C^(1/2)|^2"""
    difference = (matrix - stored).double()
    return float(((difference @ moments.double()) * difference).sum())


def slow(matrix: Tensor, moments: Tensor, rounded: Any) -> Tensor:
    """Optimal brain surgeon, column by column: the inverse Hessian of those left, anew each time.

    Frantar et al. 2023, eq. 2: w_F <- w_F - (w_q - quant(w_q)) / [H_F^-1]_qq (H_F^-1)_{:, q}.
    """
    values, columns = matrix.double().clone(), matrix.shape[1]
    hessian = moments.double()
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(columns)
    for column in range(columns):
        inverse = torch.linalg.inv(hessian[column:, column:])
        one = values[:, column : column + 1].float()
        error = values[:, column] - rounded(one, slice(column, column + 1))[:, 0]
        share = inverse[0, 1:] / inverse[0, 0]
        values[:, column + 1 :] -= error.unsqueeze(1) * share
    return values


@pytest.mark.parametrize("columns", [1, 5, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_it_is_the_surgeon_column_by_column(columns: int) -> None:
    matrix, moments = random(ROWS, columns), moments_of(columns)

    def rounded(values: Tensor, _: slice) -> Tensor:
        return (values * 2).round() / 2

    fast = error_feedback(matrix, moments, rounded)
    expected = slow(matrix, moments, rounded)
    every = slice(0, columns)
    same = (rounded(fast, every) == rounded(expected.float(), every)).float().mean()
    assert same > 0.99  # a value halfway may fall to either side
    torch.testing.assert_close(fast[:, :5], expected[:, :5].float(), rtol=1e-4, atol=1e-4)


def test_smooth_rounding_is_the_surgeon_s_to_the_last_column() -> None:
    matrix, moments = random(ROWS, COLUMNS), moments_of(COLUMNS)

    def shrunk(values: Tensor, columns: slice) -> Tensor:
        return values * (0.8 + 0.002 * float(columns.start))

    fast, expected = (f(matrix, moments, shrunk) for f in (error_feedback, slow))
    torch.testing.assert_close(fast, expected.float(), rtol=1e-3, atol=1e-4)


def test_the_matrix_stays_as_it_is() -> None:
    matrix = random(ROWS, COLUMNS)
    before = matrix.clone()
    error_feedback(matrix, moments_of(COLUMNS), lambda values, _: values.round())
    assert torch.equal(matrix, before)


@every_codec
def test_inputs_that_are_unrelated_give_plain_rounding(codec: GridCodec) -> None:
    data = random(ROWS, COLUMNS) * 0.1
    for moments in (torch.eye(COLUMNS), torch.diag(random(COLUMNS).square() + 0.01)):
        fed = codec.assign(data, None, None, Evidence(inputs=moments))
        assert torch.equal(fed.symbols, plain(codec).assign(data, None, None).symbols)
    assert torch.equal(codec.assign(data, None, None).symbols, fed.symbols)  # no evidence, none fed


@every_codec
@pytest.mark.parametrize("masked", [False, True])
def test_the_output_is_nearer_than_by_plain_rounding(codec: GridCodec, masked: bool) -> None:
    mask = random(ROWS, COLUMNS, seed=9) > -0.5 if masked else None
    data, moments = random(ROWS, COLUMNS) * 0.1, moments_of(COLUMNS)
    leaves = [
        Leaf(data, one, mask, Evidence(inputs=moments)).eval() for one in (codec, plain(codec))
    ]
    fed, rounded = (
        output_error(data * (1 if mask is None else mask), leaf.value().detach(), moments)
        for leaf in leaves
    )
    assert fed < 0.9 * rounded


@every_codec
def test_masked_entries_stay_zero_also_in_the_file(codec: GridCodec) -> None:
    mask = random(ROWS, COLUMNS, seed=9) > 0
    evidence = Evidence(inputs=moments_of(COLUMNS))
    leaf = Leaf(random(ROWS, COLUMNS) * 0.1, codec, mask, evidence).train()
    for _ in range(2):
        value = leaf.value().detach()
        assert not value[~mask].any()
        read = Leaf.read(leaf.spec, leaf.write()).eval()
        assert torch.equal(read.value(), value)
        with torch.no_grad():
            leaf.data.mul_(1.1)
        leaf.eval()


@every_codec
def test_a_refresh_feeds_back_too(codec: GridCodec) -> None:
    data, evidence = random(ROWS, COLUMNS) * 0.1, Evidence(inputs=moments_of(COLUMNS))
    before = codec.assign(data, None, None, evidence)
    moved = data * 1.1
    fed, rounded = (
        one.decode(one.assign(moved, None, before, evidence)) for one in (codec, plain(codec))
    )
    assert evidence.inputs is not None
    errors = [output_error(moved, stored, evidence.inputs) for stored in (fed, rounded)]
    assert errors[0] < errors[1]


@every_codec
@pytest.mark.parametrize("moments", ["zero", "dead column", "rank one"])
def test_moments_that_have_no_inverse(codec: GridCodec, moments: str) -> None:
    c = moments_of(COLUMNS)
    if moments == "zero":
        c = torch.zeros_like(c)
    elif moments == "dead column":
        c[3], c[:, 3] = 0, 0
    else:
        c = torch.ones_like(c)
    leaf = Leaf(random(ROWS, COLUMNS) * 0.1, codec, evidence=Evidence(inputs=c)).eval()
    assert leaf.value().isfinite().all()
