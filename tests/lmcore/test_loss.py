"""The fused loss against torch's own, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmcore import loss as losses
from lmcore.loss import cross_entropy, distillation, negative_log_likelihood

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
    assert_same_gradients(ours, expected)


@pytest.mark.parametrize("cached", [1, 7 * 1000, 10**9])
def test_a_few_rows_at_a_time_are_all_rows_to_the_bit(
    cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = case(count=70, words=1000)
    z, matrix, bias, targets = (*(x.requires_grad_() for x in inputs[:3]), inputs[3])
    results = []
    for size in (losses.CACHED, cached):
        monkeypatch.setattr(losses, "CACHED", size)
        loss = cross_entropy(z, matrix, bias, targets)
        results.append((loss, *torch.autograd.grad(loss, (z, matrix, bias))))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def assert_same_gradients(ours: list[Tensor], expected: list[Tensor], slack: float = 1e-9) -> None:
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.isfinite().all()
        size = float(theirs.grad.abs().max())
        torch.testing.assert_close(
            mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5 * size + slack
        )


@pytest.mark.parametrize("inputs", CASES.values(), ids=CASES.keys())
def test_negative_log_likelihood_of_each_token(inputs: Case) -> None:
    _, terms = reference(inputs)
    torch.testing.assert_close(
        negative_log_likelihood(*inputs).double(), terms.detach(), rtol=1e-5, atol=1e-5
    )


# --- Distillation --------------------------------------------------------------------------------


def teacher_of(inputs: Case) -> Tensor:
    """Logits (n, words) of another, as far apart as the student's."""
    other = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    return other * inputs[0].std(correction=0) @ inputs[1].T


def plain_distillation(
    logits: Tensor, targets: Tensor, teacher: Tensor, temperature: float, mix: float
) -> Tensor:
    """Hinton et al. (2015), written as it reads."""
    hard = functional.cross_entropy(logits, targets)
    theirs = functional.log_softmax(teacher / temperature, 1)
    ours = functional.log_softmax(logits / temperature, 1)
    divergence = (theirs.exp() * (theirs - ours)).sum(1).mean()
    return (1 - mix) * hard + mix * temperature**2 * divergence


@pytest.mark.parametrize("inputs", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_distillation_value_and_gradients(
    inputs: Case, temperature: float, mix: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CACHED", 4 * 50)  # several chunks, the last one shorter
    teacher = teacher_of(inputs)
    expected = [x.double().requires_grad_() for x in inputs[:3]]
    logits = expected[0] @ expected[1].T + expected[2]
    loss = plain_distillation(logits, inputs[3], teacher.double(), temperature, mix)
    torch.autograd.backward(loss * -2.5)
    ours = z, matrix, bias = [x.clone().requires_grad_() for x in inputs[:3]]
    fused = distillation(z, matrix, bias, inputs[3], teacher, temperature, mix)
    torch.autograd.backward(fused * -2.5)
    torch.testing.assert_close(fused.double(), loss, rtol=1e-5, atol=3e-6)
    assert_same_gradients(ours, expected, slack=1e-6)


def test_distillation_gradcheck() -> None:
    z, matrix, bias, targets = case(count=5, rank=3, words=7)
    teacher = teacher_of((z, matrix, bias, targets)).double()

    def loss(z: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        return distillation(z, matrix, bias, targets, teacher, 2.0, 0.4)

    assert torch.autograd.gradcheck(loss, [x.double().requires_grad_() for x in (z, matrix, bias)])


def test_no_mix_is_cross_entropy_to_the_bit() -> None:
    inputs = case(count=70, words=1000)
    z, matrix, bias, targets = (*(x.requires_grad_() for x in inputs[:3]), inputs[3])
    results = [
        (loss, *torch.autograd.grad(loss, (z, matrix, bias)))
        for loss in (
            distillation(z, matrix, bias, targets, torch.zeros(70, 1000), 2.0, 0.0),
            cross_entropy(z, matrix, bias, targets),
        )
    ]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_all_mix_knows_no_targets() -> None:
    """A student that says what the teacher says has nothing to learn, whatever the targets."""
    z, matrix, bias, targets = case()
    teacher = torch.addmm(bias, z, matrix.T)
    z.requires_grad_()
    loss = distillation(z, matrix, bias, targets, teacher, 2.0, 1.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6
    others = [distillation(z, matrix, bias, (targets + n) % 50, teacher, 2.0, 1.0) for n in (0, 7)]
    assert torch.equal(*others)


# --- What stays ----------------------------------------------------------------------------------


def test_inputs_stay_as_they_are() -> None:
    inputs = case()
    teacher = teacher_of(inputs)
    before = [x.clone() for x in (*inputs, teacher)]
    cross_entropy(*inputs)
    distillation(*inputs, teacher, 2.0, 0.5)
    negative_log_likelihood(*inputs)
    assert all(torch.equal(x, y) for x, y in zip((*inputs, teacher), before, strict=True))


def test_logits_of_ten_thousand_and_of_minus_ten_thousand() -> None:
    z, matrix = torch.ones(2, 1), torch.tensor([[1e4], [-1e4], [0.0]])
    nll = negative_log_likelihood(z, matrix, torch.zeros(3), torch.tensor([0, 1]))
    assert nll.tolist() == [0.0, 2e4]
    assert float(cross_entropy(z, matrix, torch.zeros(3), torch.tensor([0, 1]))) == 1e4
