"""A tag for every word of a sentence: a bidirectional LSTM over words and their letters (Plank et
al. 2016, "Multilingual part-of-speech tagging with bidirectional LSTMs")."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lmcore import sites
from lmcore.bidirectional import BACKWARD, FORWARD, Bidirectional
from lmcore.cells import LSTM, AnyCell
from lmcore.examples import ExampleNetwork
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.model_settings import Size
from lmcore.network import NetworkSettings
from lmcore.settings import later
from lmcore.spelling_layer import BIAS, EMBEDDED, FILTERS, LetterSettings, Spelling
from lmcore.tagged import NO_TAG, TaggedBatch, TaggedData, TaggedSentences
from lmcore.weight import Weight

OUTPUT, OUTPUT_BIAS = "output", "output.bias"


class TaggerSettings(NetworkSettings):
    """The shape of a tagger. `labels` and `alphabet` come from the training split."""

    kind: Literal["tagger"] = "tagger"
    layers: Annotated[int, Field(ge=1, le=10)] = 1
    hidden: Size
    embedding: Size
    letters: LetterSettings = LetterSettings()
    cell: AnyCell = later(LSTM())
    labels: tuple[str, ...] = later(())
    alphabet: str = later("")

    def completed(self, data: TaggedData) -> Self:
        return self.model_copy(update={"labels": data.labels, "alphabet": data.alphabet})

    @property
    def looked_up(self) -> tuple[str, ...]:
        return (sites.EMBEDDING, EMBEDDED)

    @property
    def prefixes(self) -> list[tuple[str, str]]:
        """What the names of the sites of each layer begin with, of both directions."""
        return [
            (sites.layer_name(FORWARD, layer), sites.layer_name(BACKWARD, layer))
            for layer in range(self.layers)
        ]

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        shapes = {sites.EMBEDDING: (words, self.embedding)}
        shapes |= self.letters.site_shapes(len(self.alphabet))
        inputs = self.embedding + self.letters.filters
        for both in self.prefixes:
            for prefix in both:
                for name, shape in self.cell.sites(inputs, self.hidden, self.hidden).items():
                    shapes[f"{prefix}.{name}"] = shape
            inputs = 2 * self.hidden
        return {**shapes, OUTPUT: (len(self.labels), inputs)}

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        layers = {
            f"{prefix}.{name}": shape
            for both in self.prefixes
            for prefix in both
            for name, shape in self.cell.vectors(self.hidden).items()
        }
        return {**self.letters.bias_shapes, **layers, OUTPUT_BIAS: (len(self.labels),)}

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Tagger:
        return Tagger(self, weights, biases)


class Tagger(ExampleNetwork):
    """A tagger over Weights."""

    settings: TaggerSettings

    def __init__(
        self, settings: TaggerSettings, weights: dict[str, Weight], biases: dict[str, Leaf]
    ) -> None:
        super().__init__(settings, weights, biases)
        self.embedding = weights[sites.EMBEDDING]
        self.spelling = Spelling(
            settings.letters, weights[EMBEDDED], weights[FILTERS], biases[BIAS]
        )
        self.directions = {
            prefix: Layer(settings.cell, sites.below(prefix, weights), sites.below(prefix, biases))
            for both in settings.prefixes
            for prefix in both
        }
        pairs = [[self.directions[prefix] for prefix in both] for both in settings.prefixes]
        self.layers = nn.ModuleList(Bidirectional(ahead, back) for ahead, back in pairs)
        self.output, self.output_bias = weights[OUTPUT], biases[OUTPUT_BIAS]

    @property
    def named_layers(self) -> dict[str, Layer]:
        return dict(self.directions)

    def forward(self, batch: TaggedBatch) -> Tensor:
        """The logits of the tags of all tokens, sentence after sentence: (tokens, labels)."""
        drop = self.dropout
        words = drop.rows(self.embedding.rows(batch.words), batch.words, self.words)
        x = torch.cat([words, self.spelling(batch.letters)], dim=2)
        for layer in self.layers:
            x = layer(drop(x), batch.lengths, drop.weights)
        return self.output.matmul(drop(x)[batch.tags != NO_TAG]) + self.output_bias.value()

    def loss(self, batch: TaggedBatch) -> Tensor:
        return cross_entropy(self(batch), batch.tags[batch.tags != NO_TAG])

    def mistakes(self, batch: TaggedBatch) -> tuple[float, int]:
        tags = batch.tags[batch.tags != NO_TAG]
        return float((self(batch).argmax(1) != tags).sum()), len(tags)

    def word_counts(self, examples: TaggedSentences) -> Tensor:
        return torch.bincount(examples.forms.ids[examples.words], minlength=self.words)
