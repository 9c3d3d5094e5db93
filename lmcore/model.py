"""LanguageModel: embedding -> LSTM layers -> decoder, and its named sites."""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import dropout

from lmcore.cells import LSTMLayer, State
from lmcore.loss import cross_entropy
from lmcore.settings import Settings
from lmcore.weight import DenseStructure, Leaf, Weight

Size = Annotated[int, Field(ge=1)]


class ModelSettings(Settings):
    """The shape of a language model; its vocabulary comes from the corpus."""

    layers: Size
    hidden: Size
    embedding: Size
    tied: bool

    @model_validator(mode="after")
    def _tied_sizes_agree(self) -> Self:
        if self.tied and self.embedding != self.hidden:
            raise ValueError(
                f"model.tied=true takes model.embedding equal to model.hidden, "
                f"got {self.embedding} and {self.hidden}"
            )
        return self

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) for a vocabulary of so many words."""
        shapes = {"embedding": (words, self.embedding)}
        for layer in range(self.layers):
            inputs = self.embedding if layer == 0 else self.hidden
            shapes[f"lstm.{layer}.input"] = (4 * self.hidden, inputs)
            shapes[f"lstm.{layer}.recurrent"] = (4 * self.hidden, self.hidden)
        if not self.tied:
            shapes["decoder"] = (words, self.hidden)
        return shapes

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        """Bias -> (size,)."""
        layers = {f"lstm.{layer}.bias": (4 * self.hidden,) for layer in range(self.layers)}
        return {**layers, "decoder.bias": (words,)}

    def weights(self, words: int) -> int:
        """How many numbers the dense model holds; 4 bytes each are its dense size."""
        matrices = sum(rows * columns for rows, columns in self.site_shapes(words).values())
        return matrices + sum(size for (size,) in self.bias_shapes(words).values())


class Dropout(nn.Module):
    """Dropout on the embedding output and on each layer's output.

    `kind` element draws a mask per value (Zaremba et al. 2014); sequence draws one mask per
    window and stream, the same at every time step (Gal & Ghahramani 2016). `rows` drops whole
    embedding rows for a window. `recurrent` drops single weights of U for a window (DropConnect,
    Merity et al. 2018): the recurrence is regularised and the fused kernel stays.
    """

    def __init__(self, kind: str, rate: float, rows: float, recurrent: float = 0.0) -> None:
        super().__init__()
        self.kind, self.rate = kind, rate
        self.row_rate, self.recurrent_rate = rows, recurrent

    def forward(self, x: Tensor) -> Tensor:
        """(time, batch, features), same shape out."""
        if not self.training or self.rate == 0:
            return x
        time, batch, features = x.shape
        mask = x.new_empty(1 if self.kind == "sequence" else time, batch, features)
        return x * mask.bernoulli_(1 - self.rate).div_(1 - self.rate)

    def rows(self, x: Tensor, ids: Tensor, words: int) -> Tensor:
        """Embedding output (time, batch, features) with the rows of dropped words zero."""
        if not self.training or self.row_rate == 0:
            return x
        keep = x.new_empty(words).bernoulli_(1 - self.row_rate).div_(1 - self.row_rate)
        return x * keep[ids].unsqueeze(2)

    def weights(self, matrix: Tensor) -> Tensor:
        """A recurrent matrix (4H, H) with dropped weights zero."""
        return dropout(matrix, self.recurrent_rate, self.training)


class LanguageModel(nn.Module):
    """An LSTM language model over Weights. A tied embedding and decoder is one Weight."""

    def __init__(
        self,
        settings: ModelSettings,
        weights: dict[str, Weight],
        biases: dict[str, Leaf],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = weights["embedding"]
        self.layers = nn.ModuleList(
            LSTMLayer(
                weights[f"lstm.{layer}.input"],
                weights[f"lstm.{layer}.recurrent"],
                biases[f"lstm.{layer}.bias"],
            )
            for layer in range(settings.layers)
        )
        self.decoder = weights["embedding" if settings.tied else "decoder"]
        self.decoder_bias = biases["decoder.bias"]
        self.dropout = Dropout("element", 0.0, 0.0)

    @property
    def words(self) -> int:
        return self.decoder.shape[0]

    @property
    def sites(self) -> dict[str, Weight]:
        """Site -> weight, each weight once, in the order of the file."""
        named = {"embedding": self.embedding}
        for index, layer in enumerate(self._lstm_layers()):
            named[f"lstm.{index}.input"] = layer.input
            named[f"lstm.{index}.recurrent"] = layer.recurrent
        if not self.settings.tied:
            named["decoder"] = self.decoder
        return named

    @property
    def biases(self) -> dict[str, Leaf]:
        """Bias -> leaf, in the order of the file."""
        named = {f"lstm.{i}.bias": layer.bias for i, layer in enumerate(self._lstm_layers())}
        return {**named, "decoder.bias": self.decoder_bias}

    def zero_state(self, batch: int) -> list[State]:
        """A zero state per layer."""
        return [layer.zero_state(batch) for layer in self._lstm_layers()]

    def forward(self, ids: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """ids (time, batch) -> hidden (time, batch, hidden) after the last layer, and the state."""
        x = self.dropout.rows(self.embedding.rows(ids), ids, self.words)
        after = []
        for layer, before in zip(self._lstm_layers(), state, strict=True):
            x, last = layer(self.dropout(x), before, self.dropout.weights)
            after.append(last)
        return self.dropout(x), after

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., hidden) -> z (n, r), M (words, r), bias: the logits are z M^T + bias."""
        z, matrix = self.decoder.head(hidden.flatten(0, -2))
        return z, matrix, self.decoder_bias.value()

    def loss(self, ids: Tensor, targets: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """Mean negative log-likelihood in nats; ids and targets (time, batch)."""
        hidden, state = self(ids, state)
        return cross_entropy(*self.head(hidden), targets.flatten()), state

    def _lstm_layers(self) -> list[LSTMLayer]:
        return [layer for layer in self.layers if isinstance(layer, LSTMLayer)]


def random_model(
    settings: ModelSettings, words: int, init: float, generator: torch.Generator
) -> LanguageModel:
    """A dense model, every number uniform in [-init, init], as Zaremba et al. (2014) start."""

    def uniform(shape: tuple[int, ...]) -> Leaf:
        return Leaf(torch.empty(shape).uniform_(-init, init, generator=generator))

    weights: dict[str, Weight] = {
        site: DenseStructure().weight({"matrix": uniform(shape)}, shape)
        for site, shape in settings.site_shapes(words).items()
    }
    biases = {name: uniform(shape) for name, shape in settings.bias_shapes(words).items()}
    return LanguageModel(settings, weights, biases)


def parameters(model: LanguageModel) -> dict[str, Any]:
    """Every trainable tensor, by a stable name, each once."""
    return dict(model.named_parameters(remove_duplicate=True))
