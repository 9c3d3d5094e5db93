"""Distillation of networks that are no language model: after what the dense network says."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from test_fewer_units import Case, case, every_kind

from lmcore.examples import divergence
from lmcore.network import Network
from lmcore.training import train
from lmcore.training_settings import DistillationSettings, DropoutSettings, FineTuningSettings

__all__ = ["case"]  # a fixture


def tuning(kind: str, mix: float, temperature: float = 2.0, **more: Any) -> FineTuningSettings:
    return FineTuningSettings(
        epochs=3,
        batch=4 if kind == "bilm" else 10,
        window=5,
        optimizer="adam",
        rate=0.01,
        dropout=DropoutSettings(kind="element", rate=0.0),
        distillation=DistillationSettings(mix=mix, temperature=temperature),
        **more,
    )


def disturbed(network: Network) -> Network:
    other, generator = deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    return other


def loss_of(case: Case, student: Network, settings: FineTuningSettings) -> float:
    """The loss of the first update, with `case.network` as its teacher."""
    teacher = case.network.train()
    lessons = student.eval().lessons(case.examples, settings, 0, teacher)
    loss = float(lessons.loss(0, sampled=False).detach())
    lessons.close()
    assert teacher.training
    teacher.eval()
    return loss


@every_kind
def test_a_loss_is_mixed_of_right_answers_and_the_teachers(kind: str, case: Case) -> None:
    student = disturbed(case.network)
    right, half, soft = (loss_of(case, student, tuning(kind, mix)) for mix in (0.0, 0.5, 1.0))
    assert soft > 0
    assert half == pytest.approx((right + soft) / 2, rel=1e-4)
    assert loss_of(case, deepcopy(case.network), tuning(kind, 1.0)) == pytest.approx(0.0, abs=1e-6)


@every_kind
def test_a_student_comes_to_say_what_its_teacher_says(kind: str, case: Case) -> None:
    student, settings = disturbed(case.network), tuning(kind, 1.0)
    before = loss_of(case, student, settings)
    told = {name: value.clone() for name, value in case.network.state_dict().items()}
    train(student, case.examples, settings, 0, teacher=case.network)
    assert loss_of(case, student, settings) < before / 2
    for name, value in case.network.state_dict().items():
        assert torch.equal(value, told[name])


def test_a_divergence_is_that_of_its_formula() -> None:
    none = -torch.inf
    student = torch.tensor([[0.1, 0.5, none], [0.2, -0.3, 0.4]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, none], [0.0, 0.0, 0.0]])
    p, q = teacher.softmax(1), student.softmax(1)
    expected = sum(
        float(p[row, at] * (p[row, at] / q[row, at]).log())
        for row in range(2)
        for at in range(3)
        if p[row, at] > 0
    )
    found = divergence(student, teacher)
    assert float(found) == pytest.approx(expected / 2)
    (gradient,) = torch.autograd.grad(found, student)
    assert gradient.isfinite().all()
