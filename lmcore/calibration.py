"""What a training text tells of a dense model's weights; computed when first asked for."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lmcore import sites
from lmcore.errors import UserError
from lmcore.model import LanguageModel, parameters

STREAMS = 20  # pieces of the text that are read in parallel, spread over it
MOMENT_TOKENS = 1_000  # of each piece, for the second moments
GRADIENT_WINDOWS, WINDOW = 60, 20  # each piece gives so many windows of so many tokens
LOSS_WINDOWS = 12  # of WINDOW tokens of each piece, to know what a compressed model lost


class Calibration:
    """Second moments, gradients and word counts of one dense model on one text (tokens,)."""

    def __init__(self, model: LanguageModel, text: Tensor | None) -> None:
        self.model, self._text = model, text

    def of(self, model: LanguageModel) -> Calibration:
        """The calibration of another dense model on the same text."""
        return self if model is self.model else Calibration(model, self._text)

    def site(self, name: str) -> Site:
        """What is known of a site; a `lmcore.structure.SiteStatistics`."""
        return Site(self, name)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Site -> second moments (in, in) of what its matrix multiplies: the mean of x x^T.

        A site that multiplies one-hot words (an untied embedding) has no entry. A layer without
        a projection has the moments of its h under the projection's name. Raises UserError
        without a text.
        """
        model, ids = self.model, self._streams(MOMENT_TOKENS)
        state, sums = model.zero_state(ids.shape[1]), dict[str, Tensor]()
        settings = model.settings

        def add(site: str, x: Tensor) -> None:
            rows = x.reshape(-1, x.shape[-1]).double()
            sums[site] = sums.get(site, 0.0) + rows.T @ rows / ids.numel()

        with torch.no_grad():
            model.eval()
            for window in torch.split(ids, WINDOW):
                x = model.embedding.rows(window)
                for index, layer in enumerate(model.layers):
                    before = state[index]
                    h, state[index] = layer.cell.run(layer, x, before, lambda matrix: matrix)
                    for name, values in layer.cell.site_inputs(layer, x, before, h).items():
                        add(settings.site(index, name), values)
                    if sites.PROJECTION not in layer.weights:  # what a projection would see
                        add(settings.site(index, sites.PROJECTION), h)
                    x = layer.project(h)
                if model.decoder_projection is not None:
                    add(sites.DECODER_PROJECTION, x)
                    x = model.decoder_projection.matmul(x)
                add(settings.decoder_site, x)
        return {site: value.float() for site, value in sums.items()}

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Parameter -> mean squared gradient of the loss over windows of the text, shape as it."""
        return self.squared_gradients(self.model)

    @torch.enable_grad()
    def squared_gradients(self, model: LanguageModel) -> dict[str, Tensor]:
        """Parameter -> mean squared gradient, of any model with trainable parameters."""
        ids = self._streams(GRADIENT_WINDOWS * WINDOW + 1)
        named = parameters(model)
        sums = {name: torch.zeros_like(value) for name, value in named.items()}
        windows = (len(ids) - 1) // WINDOW
        state = model.eval().zero_state(ids.shape[1])
        for window in range(windows):
            text = ids[window * WINDOW : (window + 1) * WINDOW + 1]
            loss, state = model.loss(text[:-1], text[1:], state)
            state = [tuple(value.detach() for value in layer) for layer in state]
            gradients = torch.autograd.grad(loss, list(named.values()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total.addcmul_(gradient, gradient, value=1 / windows)
        return sums

    @cached_property
    def counts(self) -> Tensor:
        """(words,): how often the text has each word."""
        return torch.bincount(self._required(), minlength=self.model.words)

    def lost(self, model: LanguageModel) -> float:
        """What a compressed model loses over the dense one, in nats a token of the text: the
        difference of their losses in eval mode, over the same tokens."""
        return self._loss(model) - self._own_loss

    @cached_property
    def _own_loss(self) -> float:
        return self._loss(self.model)

    @torch.no_grad()
    def _loss(self, model: LanguageModel) -> float:
        text = self._streams(LOSS_WINDOWS * WINDOW + 1).to(model.decoder_bias.data.device)
        state, losses = model.eval().zero_state(text.shape[1]), list[float]()
        for first in range(0, max(1, len(text) - WINDOW), WINDOW):
            window = text[first : first + WINDOW + 1]
            loss, state = model.loss(window[:-1], window[1:], state)
            losses.append(float(loss))
        return sum(losses) / len(losses)

    def _streams(self, length: int) -> Tensor:
        """(time, streams) ids: the first `length` tokens, or fewer, of each of STREAMS pieces."""
        text = self._required()
        streams = min(STREAMS, len(text) // (2 * WINDOW)) or 1
        parts = text[: len(text) // streams * streams].view(streams, -1)
        return parts[:, :length].T.contiguous()

    def _required(self) -> Tensor:
        if self._text is None:
            raise UserError("this recipe looks at a training text, and there is none")
        return self._text


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
