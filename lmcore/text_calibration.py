"""What a language model makes of windows of its training text, for a calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcore.watching import watching

if TYPE_CHECKING:
    from lmcore.model import LanguageModel
    from lmcore.network import Network

STREAMS = 20  # pieces of the text that are read in parallel, spread over it
MOMENT_TOKENS = 1_000  # of each piece, for the second moments
WINDOW = 20  # tokens of each piece that are one sample


def moments(network: Network, readers: Iterable[tuple[LanguageModel, Tensor]]) -> dict[str, Tensor]:
    """See `lmcore.network.Network.moments`. The readers are language models in the network, each
    with its text (tokens,). What several of them multiply is seen as often."""
    sums, counts = dict[str, Tensor](), Counter[str]()
    for model, text in readers:
        ids = _streams(text, MOMENT_TOKENS)
        own, state = dict[str, Tensor](), model.zero_state(ids.shape[1])

        def add(site: str, x: Tensor) -> None:
            rows = x.reshape(-1, x.shape[-1]).double()
            own[site] = own.get(site, 0.0) + rows.T @ rows / ids.numel()  # noqa: B023

        with watching(network, add):
            for window in torch.split(ids, WINDOW):
                hidden, state = model(window, state)
                model.head(hidden)
        for site, value in own.items():
            sums[site] = sums.get(site, 0.0) + value
        counts.update(own.keys())
    return {site: (value / counts[site]).float() for site, value in sums.items()}


def window_losses(model: LanguageModel, text: Tensor, most: int) -> Iterator[tuple[Tensor, float]]:
    """See `lmcore.network.Network.sampled_losses`: of windows of every piece of the text (tokens,),
    the state carried from one to the next. A text without a whole window gives a shorter one, and a
    text of one token none."""
    ids = _streams(text, most * WINDOW + 1).to(model.device)
    state = model.zero_state(ids.shape[1])
    starts = range(0, max(1, len(ids) - WINDOW), WINDOW) if len(ids) > 1 else ()
    for first in starts:
        window = ids[first : first + WINDOW + 1]
        loss, state = model.loss(window[:-1], window[1:], state)
        state = [tuple(value.detach() for value in layer) for layer in state]
        yield loss, 1 / len(starts)


def _streams(text: Tensor, length: int) -> Tensor:
    """(time, streams) ids: the first `length` tokens, or fewer, of each of STREAMS pieces."""
    streams = min(STREAMS, len(text) // (2 * WINDOW)) or 1
    parts = text[: len(text) // streams * streams].view(streams, -1)
    return parts[:, :length].T.contiguous()
