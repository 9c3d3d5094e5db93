"""The fused loss against torch's own, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmcore.loss import cross_entropy, negative_log_likelihood

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def case(count: int = 30, rank: int = 8, words: int = 50, scale: float = 1.0) -> Case:
    """z (count, rank), matrix (words, rank), bias (words,), targets (count,)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, rank, generator=generator) * scale
    matrix, bias = (torch.randn(shape, generator=generator) for shape in ((words, rank), (words,)))
    return z, matrix, bias, torch.randint(words, (count,), generator=generator)


def reference(inputs: Case) -> tuple[list[Tensor], Tensor]:
    """The first three as leaves in float64, and each token's negative log-likelihood."""
    leaves = [x.double().requires_grad_() for x in inputs[:3]]
    z, matrix, bias = leaves
    return leaves, functional.cross_entropy(z @ matrix.T + bias, inputs[3], reduction="none")


CASES = {
    "usual": case(),
    "one token": case(count=1),
    "one word": case(words=1),
    "rank one": case(rank=1),
    "wide": case(count=70, words=1000),
    "extreme logits": case(scale=3e3),
}


@pytest.mark.parametrize("inputs", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("scale", [1.0, -2.5, 1e-3])
def test_value_and_gradients(inputs: Case, scale: float) -> None:
    expected, terms = reference(inputs)
    torch.autograd.backward(terms.mean() * scale)
    ours = z, matrix, bias = [x.clone().requires_grad_() for x in inputs[:3]]
    loss = cross_entropy(z, matrix, bias, inputs[3])
    torch.autograd.backward(loss * scale)
    torch.testing.assert_close(loss.double(), terms.mean(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.isfinite().all()
        size = float(theirs.grad.abs().max())
        torch.testing.assert_close(
            mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5 * size + 1e-9
        )


@pytest.mark.parametrize("inputs", CASES.values(), ids=CASES.keys())
def test_negative_log_likelihood_of_each_token(inputs: Case) -> None:
    _, terms = reference(inputs)
    torch.testing.assert_close(
        negative_log_likelihood(*inputs).double(), terms.detach(), rtol=1e-5, atol=1e-5
    )


def test_inputs_stay_as_they_are() -> None:
    inputs = case()
    before = [x.clone() for x in inputs]
    cross_entropy(*inputs)
    negative_log_likelihood(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_logits_of_ten_thousand_and_of_minus_ten_thousand() -> None:
    z, matrix = torch.ones(2, 1), torch.tensor([[1e4], [-1e4], [0.0]])
    nll = negative_log_likelihood(z, matrix, torch.zeros(3), torch.tensor([0, 1]))
    assert nll.tolist() == [0.0, 2e4]
    assert float(cross_entropy(z, matrix, torch.zeros(3), torch.tensor([0, 1]))) == 1e4
