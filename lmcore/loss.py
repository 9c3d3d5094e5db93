"""Softmax cross-entropy fused with the product before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cross_entropy(z: Tensor, matrix: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of `targets` under softmax(z M^T + b).

    z (n, r), matrix (words, r), bias (words,), targets (n,) -> scalar. The gradient of the logits
    is computed in place of the logits, in the forward pass: one (n, words) buffer instead of five.
    """
    loss: Tensor = _CrossEntropy.apply(z, matrix, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, matrix: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        logits = torch.addmm(bias, z, matrix.T)  # (n, words)
        log_total, right = _log_total_(logits, targets)
        loss = (log_total - right).mean()
        logits.div_(logits.sum(1, keepdim=True) * len(targets))  # softmax / n
        logits[torch.arange(len(targets), device=z.device), targets] -= 1.0 / len(targets)
        ctx.save_for_backward(z, matrix, logits)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z, matrix, gradient = ctx.saved_tensors
        scale = gradients[0]
        return (
            (gradient @ matrix) * scale,
            (gradient.T @ z) * scale,
            gradient.sum(0) * scale,
            None,
        )


def negative_log_likelihood(z: Tensor, matrix: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Each token's negative log-likelihood, in nats: shapes as `cross_entropy`, result (n,)."""
    logits = torch.addmm(bias, z, matrix.T)
    log_total, right = _log_total_(logits, targets)
    return log_total - right


def _log_total_(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp of each row and the target's logit, both (n,); leaves exp(logits - max) there."""
    right = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    highest = logits.amax(1, keepdim=True)
    logits.sub_(highest).exp_()
    return logits.sum(1).log().add_(highest.squeeze(1)), right
