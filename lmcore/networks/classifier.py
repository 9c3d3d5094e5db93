"""A label for a text: a small kin of the biattentive classification network (McCann et al. 2017,
"Learned in translation"), with pooling by largest, mean and attentive mean value."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore.bidirectional import Bidirectional
from lmcore.classified import ClassifiedBatch, ClassifiedTexts
from lmcore.examples import LabellingNetwork
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.networks.classifier_settings import (
    ATTENTION,
    ENCODER,
    OUTPUT,
    OUTPUT_BIAS,
    POOLED,
    POOLED_BIAS,
    ClassifierSettings,
)
from lmcore.weight import Weight
from lmcore.word_layer import Words


class Classifier(LabellingNetwork):
    """A classifier over Weights."""

    settings: ClassifierSettings

    def __init__(
        self, settings: ClassifierSettings, weights: dict[str, Weight], biases: dict[str, Leaf]
    ) -> None:
        super().__init__(settings, weights, biases)
        self.read = Words(settings.words, weights, biases)
        self.encoder = Bidirectional.of(settings.cell, ENCODER, weights, biases)
        self.attention = weights[ATTENTION]
        self.pooled, self.pooled_bias = weights[POOLED], biases[POOLED_BIAS]
        self.output, self.output_bias = weights[OUTPUT], biases[OUTPUT_BIAS]

    @property
    def named_layers(self) -> dict[str, Layer]:
        return {**self.read.named_layers, **self.encoder.named(ENCODER)}

    def forward(self, batch: ClassifiedBatch) -> Tensor:
        """The logits of the labels: (batch, labels)."""
        (text,), drop = batch.texts, self.dropout
        x = self.encoder(drop(self.read(text, drop)), text.lengths, drop.weights)
        padding = text.padding.unsqueeze(2)  # (time, batch, 1)
        shares = self.attention.matmul(x).masked_fill(padding, -torch.inf).softmax(0)
        mean = x.masked_fill(padding, 0.0).sum(0) / text.lengths.unsqueeze(1)
        parts = [x.masked_fill(padding, -torch.inf).amax(0), mean, (shares * x).sum(0)]
        z = drop(torch.cat(parts, 1).unsqueeze(0)).squeeze(0)
        z = torch.relu(self.pooled.matmul(z) + self.pooled_bias.value())
        z = drop(z.unsqueeze(0)).squeeze(0)
        return self.output.matmul(z) + self.output_bias.value()

    def right(self, batch: ClassifiedBatch) -> Tensor:
        return batch.labels

    def word_counts(self, examples: ClassifiedTexts) -> Tensor:
        return examples.counts(self.words)
