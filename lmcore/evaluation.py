"""Perplexity and speed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcore.loss import negative_log_likelihood
from lmcore.model import LanguageModel

WINDOW = 256  # tokens a forward pass, per stream: bounds the memory, changes no result


@dataclass(frozen=True)
class Score:
    """What a model makes of a text."""

    perplexity: float
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@torch.no_grad()
def score(
    model: LanguageModel, ids: Tensor, eos: int, streams: int = 1, burn_in: int = 64
) -> Score:
    """Perplexity of the text `ids` (tokens,): exp of the mean negative log-likelihood in nats.

    Every token is predicted exactly once, the first from `<eos>`. The state starts at zero and is
    carried through the whole text. With several `streams` the text is cut into as many pieces,
    which are read in parallel; each stream first reads the `burn_in` tokens before its piece, and
    these are not scored again.
    """
    model.eval()
    started = time.perf_counter()
    before = torch.cat([ids.new_tensor([eos]), ids[:-1]])
    length = math.ceil(len(ids) / streams)
    starts = list(range(0, len(ids), length))
    warm = burn_in if len(starts) > 1 else 0
    # position p of stream s is token max(0, starts[s] - warm) + p; after the text is padding
    own = torch.tensor(starts)
    places = (own - warm).clamp(min=0) + torch.arange(warm + length).unsqueeze(1)
    scored = (places >= own) & (places < own + length) & (places < len(ids))
    places = places.clamp(max=len(ids) - 1)
    device = model.decoder_bias.data.device
    total = torch.zeros((), dtype=torch.float64)
    state = model.zero_state(len(starts))
    for first in range(0, len(places), WINDOW):
        window = slice(first, first + WINDOW)
        at = places[window]
        hidden, state = model(before[at].to(device), state)
        if not scored[window].any():
            continue
        nll = negative_log_likelihood(*model.head(hidden), ids[at].flatten().to(device))
        total += nll.cpu().double()[scored[window].flatten()].sum()
    mean = float(total) / len(ids)
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return Score(perplexity, len(ids), time.perf_counter() - started)


def unigram_perplexity(train: Tensor, ids: Tensor, words: int) -> float:
    """Of the text `ids` (tokens,), by how frequent each of the `words` words is in `train`
    (tokens,), plus one."""
    counts = torch.bincount(train, minlength=words).double() + 1
    nats = -(counts / counts.sum()).log()[ids].mean()
    return float(nats.exp())
