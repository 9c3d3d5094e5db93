"""What training examples tell of a dense model's weights; computed when first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmcore import sites
from lmcore.errors import UserError
from lmcore.network import Network, parameters

GRADIENT_SAMPLES = 60  # whose gradients are looked at
LOSS_SAMPLES = 12  # by which it is known what a compressed model lost


class Calibration:
    """Second moments, gradients and word counts of one dense model on some examples; those of a
    language model are a text (tokens,)."""

    def __init__(self, model: Network, examples: Any) -> None:
        """`examples` None: there are none, and nothing may be asked for."""
        self.model, self._examples = model, examples

    def of(self, model: Network) -> Calibration:
        """The calibration of another dense model on the same examples."""
        return self if model is self.model else Calibration(model, self._examples)

    def site(self, name: str) -> Site:
        """What is known of a site; a `lmcore.structure.SiteStatistics`."""
        return Site(self, name)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Site -> second moments (in, in) of what its matrix multiplies: the mean of x x^T.

        A site that multiplies one-hot words (an untied embedding) has no entry. A layer without
        a projection has the moments of its h under the projection's name. Raises UserError
        without examples.
        """
        with torch.no_grad():
            return self.model.eval().moments(self._required())

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Parameter -> mean squared gradient of the loss over samples, shape as it."""
        return self.squared_gradients(self.model)

    @torch.enable_grad()
    def squared_gradients(self, model: Network) -> dict[str, Tensor]:
        """Parameter -> mean squared gradient, of any model with trainable parameters."""
        named = parameters(model)
        sums = {name: torch.zeros_like(value) for name, value in named.items()}
        for loss, share in model.eval().sampled_losses(self._required(), GRADIENT_SAMPLES):
            gradients = torch.autograd.grad(loss, list(named.values()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total.addcmul_(gradient, gradient, value=share)
        return sums

    @cached_property
    def counts(self) -> Tensor:
        """(words,): how often the examples have each word."""
        return self.model.word_counts(self._required())

    def lost(self, model: Network) -> float:
        """What a compressed model loses over the dense one, in nats: the difference of their losses
        in eval mode, over the same samples."""
        return self._loss(model) - self._own_loss

    @cached_property
    def _own_loss(self) -> float:
        return self._loss(self.model)

    @torch.no_grad()
    def _loss(self, model: Network) -> float:
        samples = model.eval().sampled_losses(self._required(), LOSS_SAMPLES)
        losses = [float(loss) for loss, _ in samples]
        return sum(losses) / max(1, len(losses))

    def _required(self) -> Any:
        if self._examples is None:
            raise UserError("this recipe looks at a training text, and there is none")
        return self._examples


class Site:
    """A site's part of a calibration."""

    def __init__(self, calibration: Calibration, name: str) -> None:
        self._calibration, self._name = calibration, name

    def inputs(self) -> Tensor | None:
        return self._calibration.inputs.get(self._name)

    def importance(self) -> Tensor:
        (leaf,) = self._calibration.model.sites[self._name].leaves.values()
        names = {id(value): name for name, value in parameters(self._calibration.model).items()}
        return self._calibration.gradients[names[id(leaf.data)]]

    def counts(self) -> Tensor | None:
        return self._calibration.counts if self._name in sites.WORD_SITES else None
