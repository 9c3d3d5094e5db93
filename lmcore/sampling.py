"""Which words a step of sampled softmax looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore.training_settings import SampledSoftmaxSettings


class Negatives:
    """Draws the words that every prediction of a window is compared with.

    Each word is drawn or not, independently of the others, with a probability of its own (Poisson
    sampling). So a draw has no word twice, and `negatives` words in the mean. With as many
    negatives as there are words, each draw has all of them.
    """

    def __init__(self, settings: SampledSoftmaxSettings, text: Tensor, words: int) -> None:
        """`text`, ids of any shape, is what the model reads, of a vocabulary of `words`."""
        counts = torch.bincount(text.flatten(), minlength=words).double()
        if settings.proposal == "unigram":
            proposal = counts + 1  # a word that the text lacks must be pushed down, too
        else:
            ranks = torch.empty_like(counts)
            ranks[counts.argsort(descending=True, stable=True)] = torch.arange(words).to(ranks)
            proposal = ((ranks + 2) / (ranks + 1)).log()
        self.inclusion = _inclusion(proposal, settings.negatives).float()  # (words,)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Ascending ids (k,), each once, and the logarithms of their probabilities (k,)."""
        drawn = (torch.rand_like(self.inclusion) < self.inclusion).nonzero().squeeze(1)
        return drawn, self.inclusion[drawn].log()


def _inclusion(proposal: Tensor, count: int) -> Tensor:
    """min(1, c proposal) (words,), whose sum is `count`, or all ones where that many are too few.

    `proposal` is positive, in float64. The largest m are at 1; m is the least for which no other
    comes out above 1.
    """
    words = len(proposal)
    if count >= words:
        return torch.ones_like(proposal)
    falling = proposal.sort(descending=True).values
    tail = falling.flip(0).cumsum(0).flip(0)  # sums from each on
    factor = (count - torch.arange(count).to(tail)) / tail[:count]  # c where m are at 1
    least = int((factor * falling[:count] <= 1).nonzero()[0])
    return (proposal * factor[least]).clamp(max=1)
