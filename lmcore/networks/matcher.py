"""How two texts go together: ESIM in small (Chen et al. 2017, "Enhanced LSTM for natural language
inference")."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore.bidirectional import Bidirectional
from lmcore.classified import ClassifiedBatch, ClassifiedTexts
from lmcore.examples import LabellingNetwork
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.networks.matcher_settings import (
    COMPARED,
    COMPARED_BIAS,
    COMPOSER,
    ENCODER,
    OUTPUT,
    OUTPUT_BIAS,
    POOLED,
    POOLED_BIAS,
    MatcherSettings,
)
from lmcore.sentences import SentenceBatch
from lmcore.weight import Weight
from lmcore.word_layer import Words


class Matcher(LabellingNetwork):
    """A matcher over Weights."""

    settings: MatcherSettings

    def __init__(
        self, settings: MatcherSettings, weights: dict[str, Weight], biases: dict[str, Leaf]
    ) -> None:
        super().__init__(settings, weights, biases)
        self.read = Words(settings.words, weights, biases)
        self.encoder, self.composer = (
            Bidirectional.of(settings.cell, both, weights, biases) for both in settings.layers_of
        )
        self.compared, self.compared_bias = weights[COMPARED], biases[COMPARED_BIAS]
        self.pooled, self.pooled_bias = weights[POOLED], biases[POOLED_BIAS]
        self.output, self.output_bias = weights[OUTPUT], biases[OUTPUT_BIAS]

    @property
    def named_layers(self) -> dict[str, Layer]:
        own = {**self.encoder.named(ENCODER), **self.composer.named(COMPOSER)}
        return {**self.read.named_layers, **own}

    def forward(self, batch: ClassifiedBatch) -> Tensor:
        """The logits of the labels: (batch, labels)."""
        one, other = batch.texts
        a, b = (self._encoded(text) for text in batch.texts)  # (time, batch, 2 x hidden)
        scores = torch.einsum("sbd,tbd->bst", a, b)
        to_other = scores.masked_fill(other.padding.T.unsqueeze(1), -torch.inf).softmax(2)
        to_one = scores.masked_fill(one.padding.T.unsqueeze(2), -torch.inf).softmax(1)
        pooled = [
            *self._composed(a, torch.einsum("bst,tbd->sbd", to_other, b), one),
            *self._composed(b, torch.einsum("bst,sbd->tbd", to_one, a), other),
        ]
        z = self.dropout(torch.cat(pooled, 1).unsqueeze(0)).squeeze(0)
        z = torch.tanh(self.pooled.matmul(z) + self.pooled_bias.value())
        z = self.dropout(z.unsqueeze(0)).squeeze(0)
        return self.output.matmul(z) + self.output_bias.value()

    def _encoded(self, text: SentenceBatch) -> Tensor:
        x = self.dropout(self.read(text, self.dropout))
        encoded: Tensor = self.encoder(x, text.lengths, self.dropout.weights)
        return encoded

    def _composed(self, x: Tensor, seen: Tensor, text: SentenceBatch) -> tuple[Tensor, Tensor]:
        """The largest and the mean value, (batch, 2 x hidden) each, of a text x (time, batch, 2 x
        hidden) that has `seen` of the other."""
        both = torch.cat([x, seen, x - seen, x * seen], 2)
        compared = torch.relu(self.compared.matmul(both) + self.compared_bias.value())
        x = self.composer(self.dropout(compared), text.lengths, self.dropout.weights)
        padding = text.padding.unsqueeze(2)
        mean = x.masked_fill(padding, 0.0).sum(0) / text.lengths.unsqueeze(1)
        return x.masked_fill(padding, -torch.inf).amax(0), mean

    def right(self, batch: ClassifiedBatch) -> Tensor:
        return batch.labels

    def word_counts(self, examples: ClassifiedTexts) -> Tensor:
        return examples.counts(self.words)
