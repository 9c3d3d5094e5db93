"""Answers to questions on a paragraph: BiDAF (Seo et al. 2017, "Bidirectional attention flow for
machine comprehension")."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from lmcore.answers import exact, f1
from lmcore.bidirectional import Bidirectional
from lmcore.examples import SCORED, ExampleNetwork, by_length
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.networks.reader_settings import (
    ABOUT_BOTH,
    ABOUT_PARAGRAPH,
    ABOUT_QUESTION,
    FIRST,
    HIGHWAYS,
    LAST,
    ReaderSettings,
)
from lmcore.questions import NO_PLACE, QuestionBatch, Questions
from lmcore.score import Score, error_of
from lmcore.sentences import SentenceBatch
from lmcore.weight import Weight
from lmcore.word_layer import Words

LONGEST = 30  # tokens of an answer


class Highway(nn.Module):
    """t relu(W x + b) + (1 - t) x, t = sigma(V x + c) (Srivastava et al. 2015, eq. 3)."""

    def __init__(self, name: str, weights: dict[str, Weight], biases: dict[str, Leaf]) -> None:
        super().__init__()
        self.change, self.change_bias = weights[f"{name}.change"], biases[f"{name}.change.bias"]
        self.gate, self.gate_bias = weights[f"{name}.gate"], biases[f"{name}.gate.bias"]

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        changed = torch.relu(self.change.matmul(x) + self.change_bias.value())
        gate = torch.sigmoid(self.gate.matmul(x) + self.gate_bias.value())
        return x + gate * (changed - x)


class Reader(ExampleNetwork):
    """A reader over Weights."""

    settings: ReaderSettings

    def __init__(
        self, settings: ReaderSettings, weights: dict[str, Weight], biases: dict[str, Leaf]
    ) -> None:
        super().__init__(settings, weights, biases)
        self.read = Words(settings.words, weights, biases)
        self.highways = nn.ModuleList(
            Highway(f"highway.{at}", weights, biases) for at in range(HIGHWAYS)
        )
        layers = {
            both: Bidirectional.of(settings.cell, both, weights, biases)
            for both in settings.layers_of
        }
        self.layers, self._named = nn.ModuleList(layers.values()), layers
        self.phrase, *self._modelling, self.ending = layers.values()
        self.about_paragraph = weights[ABOUT_PARAGRAPH]
        self.about_question, self.about_both = weights[ABOUT_QUESTION], weights[ABOUT_BOTH]
        self.first, self.last = weights[FIRST], weights[LAST]

    @property
    def named_layers(self) -> dict[str, Layer]:
        found = self.read.named_layers
        for both, layer in self._named.items():
            found = {**found, **layer.named(both)}
        return found

    def forward(self, batch: QuestionBatch) -> tuple[Tensor, Tensor]:
        """The log-probabilities of an answer's first token, and of its last one: (time, batch)."""
        drop, padding = self.dropout, batch.of_each(batch.paragraphs.padding, 1)
        lengths = batch.of_each(batch.paragraphs.lengths, 0)
        h, u = batch.of_each(self._read(batch.paragraphs), 1), self._read(batch.questions)
        found = self._attended(h, u, padding, batch.questions.padding)  # (time, batch, 8 x hidden)
        m = found
        for layer in self._modelling:
            m = layer(drop(m), lengths, drop.weights)
        first = self._scored(self.first, torch.cat([found, m], 2), padding)
        begun = (first.exp().unsqueeze(2) * m).sum(0, keepdim=True).expand_as(m)
        x = torch.cat([found, m, begun, m * begun], 2)
        ending = self.ending(drop(x), lengths, drop.weights)
        return first, self._scored(self.last, torch.cat([found, ending], 2), padding)

    def _read(self, text: SentenceBatch) -> Tensor:
        """(time, batch, 2 x hidden)."""
        x = self.read(text, self.dropout)
        for highway in self.highways:
            x = highway(x)
        read: Tensor = self.phrase(self.dropout(x), text.lengths, self.dropout.weights)
        return read

    def _attended(self, h: Tensor, u: Tensor, no_token: Tensor, no_word: Tensor) -> Tensor:
        """[h, u~, h u~, h h~], where u~ is what each token of the paragraph h sees of the question
        u, and h~ what of the paragraph the question is about."""
        weight = self.about_both.dense().squeeze(0)  # (2 x hidden,)
        scores = torch.einsum("tbd,sbd->bts", h * weight, u)
        scores = scores + self.about_paragraph.matmul(h).squeeze(2).T.unsqueeze(2)
        scores = scores + self.about_question.matmul(u).squeeze(2).T.unsqueeze(1)
        scores = scores.masked_fill(no_word.T.unsqueeze(1), -torch.inf)  # (batch, time, words)
        seen = torch.einsum("bts,sbd->tbd", scores.softmax(2), u)
        best = scores.amax(2).masked_fill(no_token.T, -torch.inf).softmax(1)  # (batch, time)
        about = torch.einsum("bt,tbd->bd", best, h).expand_as(h)
        return torch.cat([h, seen, h * seen, h * about], 2)

    def _scored(self, weight: Weight, x: Tensor, padding: Tensor) -> Tensor:
        logits = weight.matmul(self.dropout(x)).squeeze(2)  # (time, batch)
        return logits.masked_fill(padding, -torch.inf).log_softmax(0)

    def scores(self, batch: QuestionBatch) -> tuple[Tensor, ...]:
        first, last = self(batch)
        return first.T, last.T

    def loss_of(self, scores: tuple[Tensor, ...], batch: QuestionBatch) -> Tensor:
        """Minus the logarithm of the probability of the answer's first token, and of its last one.
        Where an answer has several places, their probabilities are summed."""
        nats = [
            -_at(one, places).logsumexp(1).mean()
            for one, places in zip(scores, (batch.first, batch.last), strict=True)
        ]
        return nats[0] + nats[1]

    def answers(self, batch: QuestionBatch) -> tuple[Tensor, Tensor]:
        """(batch, 2) and (batch,): the first and the last token of the most probable answer of at
        most `LONGEST` tokens, and the sum of their logarithmic probabilities."""
        first, last = self.scores(batch)  # (batch, time)
        longer = torch.nn.functional.pad(last, (0, LONGEST - 1), value=-torch.inf)
        both = first.unsqueeze(2) + longer.unfold(1, LONGEST, 1)  # (batch, first, tokens more)
        nats, best = both.flatten(1).max(1)
        begin = best // LONGEST
        return torch.stack([begin, begin + best % LONGEST], 1), nats

    @torch.no_grad()
    def score(self, data: Any, split: str, streams: int = 1) -> Score:
        """What F1 lacks to 100%, with F1 and exact match as SQuAD defines them. It is infinite
        where an answer's probability is no number."""
        self.eval()
        started, examples = time.perf_counter(), data.split(split)
        overlap = same = 0.0
        for places in torch.split(by_length(examples), SCORED):
            spans, nats = self.answers(examples.batch(places, once=True))
            overlap -= 0.0 if nats.isfinite().all() else math.inf
            for place, (first, last) in zip(places.tolist(), spans.tolist(), strict=True):
                answer, right = examples.answer(place, first, last), examples.answers[place]
                overlap, same = overlap + f1(answer, right), same + exact(answer, right)
        count = len(examples.answers)
        more = {"F1": 100 * max(0.0, overlap) / count, "exact match": 100 * same / count}
        seconds = time.perf_counter() - started
        return Score(error_of(count - overlap, count), data.tokens(split), seconds, more, count)

    def word_counts(self, examples: Questions) -> Tensor:
        return examples.paragraphs.counts(self.words) + examples.questions.counts(self.words)


def _at(log_probabilities: Tensor, places: Tensor) -> Tensor:
    """(batch, places) of (batch, time); -inf where there is no place."""
    none = places == NO_PLACE
    found = log_probabilities.gather(1, places.masked_fill(none, 0))
    return found.masked_fill(none, -torch.inf)
