"""LanguageModel: embedding -> recurrent layers -> decoder, and its named sites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lmcore import sites
from lmcore.cells import State
from lmcore.evaluation import TextComparison, score
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.lessons import Lessons, Windows
from lmcore.loss import cross_entropy, sampled_cross_entropy
from lmcore.model_settings import ModelSettings
from lmcore.network import Network, dense_network, random_network
from lmcore.score import Score
from lmcore.text_calibration import moments, window_losses
from lmcore.training_settings import TrainingSettings
from lmcore.weight import Weight

if TYPE_CHECKING:
    from lmcore.corpus import Corpus


class LanguageModel(Network):
    """A language model over Weights. A tied embedding and decoder is one Weight."""

    settings: ModelSettings

    def __init__(
        self,
        settings: ModelSettings,
        weights: dict[str, Weight],
        biases: dict[str, Leaf],
    ) -> None:
        super().__init__(settings, weights, biases)
        self.embedding = weights[sites.EMBEDDING]
        cell = settings.cell
        self._layers = nn.ModuleList(
            Layer(
                cell,
                sites.of_layer(weights, cell.prefix, layer),
                sites.of_layer(biases, cell.prefix, layer),
            )
            for layer in range(settings.layers)
        )
        self.decoder = weights[settings.decoder_site]
        self.decoder_projection = weights.get(sites.DECODER_PROJECTION)
        self.decoder_bias = biases[sites.DECODER_BIAS]

    @property
    def layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self._layers]

    @property
    def named_layers(self) -> dict[str, Layer]:
        return {self.settings.layer_name(index): one for index, one in enumerate(self.layers)}

    def zero_state(self, batch: int) -> list[State]:
        """A zero state per layer."""
        return [layer.zero_state(batch) for layer in self.layers]

    def forward(self, ids: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """ids (time, batch) -> (time, batch, width) after the last layer, and the state."""
        return self._run(self.embedding.rows(ids), ids, state)

    def _run(self, x: Tensor, ids: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """The rows x (time, batch, in) of the ids (time, batch) through the layers."""
        x = self.dropout.rows(x, ids, self.words)
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, last = layer(self.dropout(x), before, self.dropout.weights)
            after.append(last)
        return self.dropout(x), after

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., width) -> z (n, r), M (words, r), bias: the logits are z M^T + bias."""
        z, matrix = self.decoder.head(self._decoded(hidden))
        return z, matrix, self.decoder_bias.value()

    def _decoded(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (n, in): what the decoder's matrix is multiplied with."""
        z = hidden.flatten(0, -2)
        return z if self.decoder_projection is None else self.decoder_projection.matmul(z)

    def lessons(
        self,
        ids: Tensor,
        settings: TrainingSettings,
        seed: int,
        teacher: LanguageModel | None = None,
    ) -> Lessons:
        """The windows of a text (tokens,), as the settings of a training cut it."""
        return Windows(self, ids, settings, teacher)

    def score(self, data: Corpus, split: str, streams: int = 1) -> Score:
        """The perplexity, as `lmcore.evaluation.score` has it."""
        return score(self, data.split(split), data.vocabulary.eos, streams)

    def comparison(self, data: Corpus) -> TextComparison:
        return TextComparison(self, data.valid, data.vocabulary.eos)

    def moments(self, examples: Tensor) -> dict[str, Tensor]:
        """Of a text (tokens,). A layer without a projection has the moments of its h under the
        projection's name."""
        return moments(self, [(self, examples)])

    def sampled_losses(self, examples: Tensor, most: int) -> Iterator[tuple[Tensor, float]]:
        return window_losses(self, examples, most)

    def word_counts(self, examples: Tensor) -> Tensor:
        return torch.bincount(examples, minlength=self.words)

    def loss(self, ids: Tensor, targets: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """Mean negative log-likelihood in nats; ids and targets (time, batch)."""
        hidden, state = self(ids, state)
        return cross_entropy(*self.head(hidden), targets.flatten()), state

    def sampled_loss(
        self, ids: Tensor, targets: Tensor, state: list[State], drawn: Tensor, log_inclusion: Tensor
    ) -> tuple[Tensor, list[State]]:
        """`loss` from the `drawn` words (k,) alone, as `sampled_cross_entropy` has it.

        The gradients of matrices with a row a word are sparse.
        """
        named = torch.cat([targets.flatten(), drawn])
        if self.settings.tied:
            embedding = decoder = self.embedding.part(torch.cat([ids.flatten(), named]))
        else:
            embedding, decoder = self.embedding.part(ids), self.decoder.part(named)
        hidden, state = self._run(embedding.rows(ids), ids, state)
        z, matrix = decoder.head(self._decoded(hidden))
        loss = sampled_cross_entropy(
            z,
            matrix,
            self.decoder_bias.value().index_select(0, decoder.words),
            decoder.places(targets.flatten()),
            decoder.places(drawn),
            log_inclusion,
        )
        return loss, state


def random_model(
    settings: ModelSettings, words: int, init: float, generator: torch.Generator
) -> LanguageModel:
    """A dense language model as `random_network` makes it."""
    return cast(LanguageModel, random_network(settings, words, init, generator))


def dense_model(
    settings: ModelSettings, matrices: dict[str, Tensor], biases: dict[str, Leaf]
) -> LanguageModel:
    """A dense language model as `dense_network` makes it."""
    return cast(LanguageModel, dense_network(settings, matrices, biases))
