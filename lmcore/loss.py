"""Softmax cross-entropy and distillation, fused with the product before them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

CACHED = 2**17  # logits that the processor's cache holds several times


def cross_entropy(z: Tensor, matrix: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of `targets` under softmax(z M^T + b).

    z (n, r), matrix (words, r), bias (words,), targets (n,) -> scalar. The gradient of the logits
    is computed in place of the logits, in the forward pass: one (n, words) buffer instead of five,
    a few rows at a time, so that these stay in the processor's cache.
    """
    return _fused(z, matrix, bias, partial(_hard_, targets=targets))


def distillation(
    z: Tensor,
    matrix: Tensor,
    bias: Tensor,
    targets: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    mix: float,
) -> Tensor:
    """(1 - mix) cross-entropy + mix T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Hinton et al. (2015), section 2; T^2 keeps the gradients of both terms alike in size. The result
    is a mean per token in nats. Shapes are those of `cross_entropy`; teacher_logits (n, words) get
    no gradient. The gradient takes the place of the logits as in `cross_entropy`, but a few rows at
    a time, so that intermediate values stay in the processor's cache: 90 ms instead of 140 for
    700 x 200 and 10,000 words.
    """
    if mix == 0:
        return cross_entropy(z, matrix, bias, targets)
    mixed = partial(
        _mixed_,
        targets=targets,
        teacher_logits=teacher_logits.detach(),
        temperature=temperature,
        mix=mix,
    )
    return _fused(z, matrix, bias, mixed)


def sampled_cross_entropy(
    z: Tensor,
    matrix: Tensor,
    bias: Tensor,
    targets: Tensor,
    drawn: Tensor,
    log_inclusion: Tensor,
) -> Tensor:
    """`cross_entropy` with softmax's sum estimated from the `drawn` words (k,), each once.

    A word w was drawn with probability q_w, whose logarithms are `log_inclusion` (k,). With logits
    s, the sum of exp(s_w) over all words is estimated, without bias, as

        exp(s_target) + sum over drawn w other than the target of exp(s_w - log q_w)

    (Bengio & Senecal 2008, "Adaptive importance sampling to accelerate training of a neural
    probabilistic language model", section 3, for words that all predictions of a step share, as in
    Jean et al. 2015, "On using very large target vocabulary for neural machine translation",
    section 3). The target is always in the sum, so its own q is 1; a target that was drawn, too,
    counts once. Where all words are drawn with q = 1, that is `cross_entropy`.

    z (n, r), matrix (words, r), bias (words,), targets (n,) -> scalar.
    """
    return _sampled(z, matrix, bias, targets, drawn, log_inclusion)


def negative_log_likelihood(z: Tensor, matrix: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Each token's negative log-likelihood, in nats: shapes as `cross_entropy`, result (n,).

    On a CPU a few rows at a time, as in `distillation`: 15.0 ms instead of 17.5 for 256 x 200 and
    10,000 words, of which the product takes 10.9.
    """
    logits = logits_of(z, matrix, bias)
    right = _right(logits, targets)
    some = torch.split(logits, _cached_rows(logits))
    return torch.cat([_exponentials_(rows)[1] for rows in some]) - right


def logits_of(z: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """z M^T + b: z (n, r), matrix (words, r), bias (words,) -> (n, words).

    torch.addmm first writes the bias into every row, which takes longer than to add it: 23 ms
    instead of 15 for 400 x 200 and 10,000 words.
    """
    return torch.mm(z, matrix.T).add_(bias)


class _Fused(torch.autograd.Function):
    """The loss that `replace_` gives of the logits (n, words), leaving their gradient in them."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, matrix: Tensor, bias: Tensor, replace_: Callable[[Tensor], Tensor]
    ) -> Tensor:
        logits = logits_of(z, matrix, bias)
        loss = replace_(logits)
        ctx.save_for_backward(z, matrix, logits)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z, matrix, gradient = ctx.saved_tensors
        scale = gradients[0]
        return (
            (gradient @ matrix) * scale,
            gradient.T @ (z * scale),
            gradient.sum(0) * scale,
            None,
        )


class _Sampled(torch.autograd.Function):
    """`sampled_cross_entropy`, with the gradient of the logits computed in their place."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        matrix: Tensor,
        bias: Tensor,
        targets: Tensor,
        drawn: Tensor,
        log_inclusion: Tensor,
    ) -> Tensor:
        count = len(targets)
        rows, right_rows = matrix.index_select(0, drawn), matrix.index_select(0, targets)
        right = (z * right_rows).sum(1) + bias.index_select(0, targets)  # (n,)
        logits = torch.addmm(bias.index_select(0, drawn) - log_inclusion, z, rows.T)  # (n, k)
        place = torch.full((len(matrix),), -1, device=z.device)
        place[drawn] = torch.arange(len(drawn), device=z.device)
        place = place[targets]  # of each target among the drawn words, or -1
        hits = (place >= 0).nonzero().squeeze(1)
        logits[hits, place[hits]] = -torch.inf
        highest = torch.maximum(logits.amax(1), right) if len(drawn) else right
        logits.sub_(highest.unsqueeze(1)).exp_()
        shifted = right - highest
        own = shifted.exp()
        total = logits.sum(1).add_(own)
        logits.div_(total.unsqueeze(1) * count)
        own = (own / total - 1) / count  # gradient of the target's logit
        ctx.save_for_backward(z, matrix, rows, right_rows, targets, drawn, logits, own)
        return (total.log() - shifted).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        z, matrix, rows, right_rows, targets, drawn, gradient, own = ctx.saved_tensors
        scale = gradients[0]
        column = own.unsqueeze(1)
        by_z = torch.addmm(right_rows * column, gradient, rows)
        by_matrix = torch.zeros_like(matrix)
        by_matrix.index_copy_(0, drawn, gradient.T @ z)
        by_matrix.index_add_(0, targets, z * column)
        by_bias = by_matrix.new_zeros(len(matrix))
        by_bias.index_copy_(0, drawn, gradient.sum(0))
        by_bias.index_add_(0, targets, own)
        return by_z * scale, by_matrix * scale, by_bias * scale, None, None, None


_sampled: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = _Sampled.apply

_fused: Callable[[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor] = _Fused.apply


def _hard_(logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient: (softmax - one-hot) / n."""
    right = _right(logits, targets)
    logs = []
    for part in torch.split(logits, _cached_rows(logits)):
        total, log_total = _exponentials_(part)
        part.div_(total.unsqueeze(1) * len(targets))  # softmax / n
        logs.append(log_total)
    _subtract_at_(logits, targets, 1.0 / len(targets))
    return (torch.cat(logs) - right).mean()


def _mixed_(
    logits: Tensor, targets: Tensor, teacher_logits: Tensor, temperature: float, mix: float
) -> Tensor:
    """Gradient: ((1 - mix) (softmax - one-hot) + mix T (softmax(. / T) - teacher's)) / n."""
    count, right = len(logits), _right(logits, targets)
    rows = _cached_rows(logits)
    terms = []
    for ours, theirs in zip(
        torch.split(logits, rows), torch.split(teacher_logits, rows), strict=True
    ):
        student, teacher = ours * (1 / temperature), theirs * (1 / temperature)  # (rows, words)
        gap = teacher - student
        teacher_total, teacher_log = _exponentials_(teacher)
        student_total, student_log = _exponentials_(student)
        total, log_total = _exponentials_(ours)
        divergence = gap.mul_(teacher).sum(1) / teacher_total - teacher_log + student_log
        terms.append((1 - mix) * log_total + mix * temperature**2 * divergence)
        ours.mul_(((1 - mix) / count / total).unsqueeze(1))
        ours.addcmul_(student, (mix * temperature / count / student_total).unsqueeze(1))
        ours.addcmul_(teacher, (-mix * temperature / count / teacher_total).unsqueeze(1))
    _subtract_at_(logits, targets, (1 - mix) / count)
    return (torch.cat(terms) - (1 - mix) * right).mean()


def _exponentials_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Leaves exp(logits - max) there; their sum and log sum exp(logits) of each row, both (n,)."""
    highest = logits.amax(1, keepdim=True)
    logits.sub_(highest).exp_()
    total = logits.sum(1)
    return total, total.log().add_(highest.squeeze(1))


def _cached_rows(logits: Tensor) -> int:
    """How many rows of the logits (n, words) stay in the processor's cache; elsewhere all."""
    count, words = logits.shape
    return max(1, CACHED // words) if logits.device.type == "cpu" else count


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit of each row, (n,)."""
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


def _subtract_at_(logits: Tensor, targets: Tensor, amount: float) -> None:
    logits[torch.arange(len(targets), device=logits.device), targets] -= amount
