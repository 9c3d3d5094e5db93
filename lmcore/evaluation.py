"""Perplexity."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcore.loss import negative_log_likelihood
from lmcore.score import Score

if TYPE_CHECKING:
    from lmcore.model import LanguageModel

WINDOW = 256  # tokens a forward pass, per stream: bounds the memory, changes no result
STREAMS = 16  # places of a text that a comparison reads from
PIECES = 8  # the fewest pieces of a text that tell a standard error
PRECISE, RELATIVE = 0.005, 0.1  # the standard error of a difference that is known well enough


def score(
    model: LanguageModel, ids: Tensor, eos: int, streams: int = 1, burn_in: int = 64
) -> Score:
    """The perplexity of the text `ids` (tokens,): exp of the mean negative log-likelihood in nats.

    The text is read as `losses` reads it.
    """
    started = time.perf_counter()
    total = torch.zeros((), dtype=torch.float64)
    for nats, own in losses(model, ids, eos, streams, burn_in):
        total += nats[own].sum()
    mean = float(total) / len(ids)
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return Score(perplexity, len(ids), time.perf_counter() - started)


@torch.no_grad()
def losses(
    model: LanguageModel, ids: Tensor, eos: int, streams: int = 1, burn_in: int = 64
) -> Iterator[tuple[Tensor, Tensor]]:
    """The negative log-likelihood of each token of the text `ids` (tokens,), window after window.

    Every token is predicted exactly once, the first from `<eos>`. The state starts at zero and is
    carried through the whole text. With several `streams` the text is cut into as many pieces,
    which are read in parallel; each stream first reads the `burn_in` tokens before its piece, and
    these are not scored again.

    Yields the nats and which of them are of tokens of the stream's own piece, both (window,
    streams).
    """
    model.eval()
    before = torch.cat([ids.new_tensor([eos]), ids[:-1]])
    length = math.ceil(len(ids) / streams)
    starts = list(range(0, len(ids), length))
    warm = burn_in if len(starts) > 1 else 0
    # position p of stream s is token max(0, starts[s] - warm) + p; after the text is padding
    own = torch.tensor(starts)
    places = (own - warm).clamp(min=0) + torch.arange(warm + length).unsqueeze(1)
    scored = (places >= own) & (places < own + length) & (places < len(ids))
    places = places.clamp(max=len(ids) - 1)
    device = model.device
    state = model.zero_state(len(starts))
    for first in range(0, len(places), WINDOW):
        window = slice(first, first + WINDOW)
        at = places[window]
        hidden, state = model(before[at].to(device), state)
        if scored[window].any():
            nats = negative_log_likelihood(*model.head(hidden), ids[at].flatten().to(device))
            yield nats.cpu().double().view(at.shape), scored[window]


class TextComparison:
    """What models lose over a base model on a text, in nats a token: a `Comparison`.

    The text is read from `STREAMS` places at once, and only as far as the difference needs: until
    its standard error is at most `PRECISE`, or at most `RELATIVE` times the difference. Both models
    read the same tokens, so the error is that of a mean of paired differences.
    """

    def __init__(self, base: LanguageModel, ids: Tensor, eos: int) -> None:
        self._ids, self._eos = ids, eos
        self._reading = losses(base, ids, eos, STREAMS)
        self._base: list[Tensor] = []  # the base's losses in the windows that were read so far

    def __call__(self, model: LanguageModel, most: float = math.inf) -> tuple[float, int]:
        """What the model loses over the base, and how many tokens were read for that. No further
        window is read after the first `most` tokens. inf where a loss is not finite."""
        lost, counts = torch.zeros(2, 0, dtype=torch.float64)  # of a stream's piece of a window
        mean = 0.0
        for number, (nats, own) in enumerate(losses(model, self._ids, self._eos, STREAMS)):
            if number == len(self._base):
                self._base.append(next(self._reading)[0])
            more = torch.where(own, nats - self._base[number], 0.0)
            lost, counts = torch.cat([lost, more.sum(0)]), torch.cat([counts, own.sum(0)])
            mean = float(lost.sum() / counts.sum())
            if not math.isfinite(mean):
                return math.inf, int(counts.sum())
            error = float((lost - mean * counts).square().sum().sqrt() / counts.sum())
            known = error <= max(PRECISE, RELATIVE * abs(mean)) and (counts > 0).sum() >= PIECES
            if known or counts.sum() >= most:
                break
        return mean, int(counts.sum())
