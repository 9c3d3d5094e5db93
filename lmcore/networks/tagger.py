"""A tag for every word of a sentence: a bidirectional LSTM over words and their letters (Plank et
al. 2016, "Multilingual part-of-speech tagging with bidirectional LSTMs")."""

from __future__ import annotations

from torch import Tensor, nn

from lmcore.bidirectional import Bidirectional
from lmcore.examples import LabellingNetwork
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.networks.tagger_settings import OUTPUT, OUTPUT_BIAS, TaggerSettings
from lmcore.tagged import NO_TAG, TaggedBatch, TaggedSentences
from lmcore.weight import Weight
from lmcore.word_layer import Words


class Tagger(LabellingNetwork):
    """A tagger over Weights."""

    settings: TaggerSettings

    def __init__(
        self, settings: TaggerSettings, weights: dict[str, Weight], biases: dict[str, Leaf]
    ) -> None:
        super().__init__(settings, weights, biases)
        self.read = Words(settings.words, weights, biases)
        layers = [
            Bidirectional.of(settings.cell, both, weights, biases) for both in settings.layers_of
        ]
        self.layers, self._layers = nn.ModuleList(layers), layers
        self.output, self.output_bias = weights[OUTPUT], biases[OUTPUT_BIAS]

    @property
    def named_layers(self) -> dict[str, Layer]:
        found = self.read.named_layers
        for layer, both in zip(self._layers, self.settings.layers_of, strict=True):
            found = {**found, **layer.named(both)}
        return found

    def forward(self, batch: TaggedBatch) -> Tensor:
        """The logits of the tags of all tokens, the first ones of all sentences first: (tokens,
        labels)."""
        drop = self.dropout
        x = self.read(batch.sentences, drop)
        for layer in self.layers:
            x = layer(drop(x), batch.sentences.lengths, drop.weights)
        return self.output.matmul(drop(x)[batch.tags != NO_TAG]) + self.output_bias.value()

    def right(self, batch: TaggedBatch) -> Tensor:
        return batch.tags[batch.tags != NO_TAG]

    def word_counts(self, examples: TaggedSentences) -> Tensor:
        return examples.sentences.counts(self.words)
