"""Words -> what networks of sentences know of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmcore import sites
from lmcore.bidirectional import reversed_within
from lmcore.cells import LSTM
from lmcore.dropout import Dropout
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.sentences import SentenceBatch
from lmcore.sites import BACKWARD, FORWARD, VECTORS
from lmcore.spelling_layer import Spelling
from lmcore.weight import Weight
from lmcore.word_settings import MIXTURE, SCALE, ContextSettings, WordSettings


class Context(nn.Module):
    """The mixture of the layers of a bidirectional language model (Peters et al. 2018, eq. 1):
    gamma sum_k softmax(s)_k h_k. Its token layer is the embedding twice. gamma is 1 + what is
    stored, so that it begins near 1, as all s near 0."""

    def __init__(
        self, settings: ContextSettings, weights: Mapping[str, Weight], biases: Mapping[str, Leaf]
    ) -> None:
        super().__init__()
        layers = {
            prefix: Layer(LSTM(), sites.below(prefix, weights), sites.below(prefix, biases))
            for direction in (FORWARD, BACKWARD)
            for prefix in settings.prefixes(direction)
        }
        self.ahead, self.back = (
            {prefix: layers[prefix] for prefix in settings.prefixes(direction)}
            for direction in (FORWARD, BACKWARD)
        )
        self.layers, self.named_layers = nn.ModuleList(layers.values()), layers
        self.weights, self.scale = biases[MIXTURE], biases[SCALE]

    def forward(self, x: Tensor, end: Tensor, lengths: Tensor, dropout: Dropout) -> Tensor:
        """x (time, batch, in) of sentences of so many tokens (batch,), which the `end` (in,) of a
        sentence goes before, from either side -> (time, batch, 2 x in)."""
        turned = reversed_within(x, lengths)
        ahead = self._read(self.ahead, x, end, dropout)
        back = [
            reversed_within(one, lengths) for one in self._read(self.back, turned, end, dropout)
        ]
        layers = [torch.cat(pair, 2) for pair in zip([x, *ahead], [x, *back], strict=True)]
        shares = self.weights.value().softmax(0)
        mixed = torch.stack(layers, -1) @ shares
        return (1 + self.scale.value()) * mixed

    def _read(
        self, layers: dict[str, Layer], x: Tensor, end: Tensor, dropout: Dropout
    ) -> list[Tensor]:
        """The output of each layer, (time, batch, hidden)."""
        x, found = torch.cat([end.expand(1, *x.shape[1:]), x]), []
        for layer in layers.values():
            x, _ = layer(x, layer.zero_state(x.shape[1]), dropout.weights)
            found.append(x[1:])
        return found


class Words(nn.Module):
    """What is known of each word, side by side."""

    def __init__(
        self, settings: WordSettings, weights: Mapping[str, Weight], biases: Mapping[str, Leaf]
    ) -> None:
        """`weights` and `biases` are those of the network."""
        super().__init__()
        self.embedding = weights[sites.EMBEDDING] if settings.embedding else None
        self.vectors = weights[VECTORS] if settings.vectors else None
        self.spelling = Spelling(settings.letters, weights, biases) if settings.letters else None
        self.context = Context(settings.context, weights, biases) if settings.context else None

    @property
    def named_layers(self) -> dict[str, Layer]:
        """Those of the context."""
        return self.context.named_layers if self.context else {}

    def forward(self, batch: SentenceBatch, dropout: Dropout) -> Tensor:
        """(time, batch) -> (time, batch, width)."""
        parts = [] if self.embedding is None else [self._embedded(self.embedding, batch, dropout)]
        if self.vectors is not None:
            parts.append(self.vectors.rows(batch.words))
        if self.spelling is not None:
            parts.append(self.spelling(batch.letters))
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def _embedded(self, embedding: Weight, batch: SentenceBatch, dropout: Dropout) -> Tensor:
        """(time, batch, in), or twice as many where the context mixes them."""
        x = dropout.rows(embedding.rows(batch.words), batch.words, embedding.shape[0])
        if self.context is None:
            return x
        end = embedding.rows(batch.words.new_tensor([batch.eos]))[0]
        mixed: Tensor = self.context(x, end, batch.lengths, dropout)
        return mixed
