"""LanguageModel: embedding -> recurrent layers -> decoder, and its named sites."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar, cast

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.functional import dropout

import lmcore.looped_cells  # noqa: F401, makes its cells known
from lmcore.cells import LSTM, AnyCell, Layer, State
from lmcore.loss import cross_entropy
from lmcore.settings import Settings
from lmcore.weight import DenseStructure, Leaf, Weight

Size = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=0)]
Sizes = int | tuple[int, ...]
M = TypeVar("M", bound=nn.Module)


class ModelSettings(Settings):
    """The shape of a language model; its vocabulary comes from the corpus.

    `hidden` is one number or one a layer. `projection`, one a layer, is how wide a layer's shared
    projection is, 0 for none. Where a tied embedding is not as wide as the last layer's output, a
    `decoder.projection` leads there.
    """

    layers: Size
    hidden: Size | tuple[Size, ...]
    embedding: Size
    tied: bool
    # came later: left out at their defaults, so that the keys of earlier models stay
    projection: Annotated[tuple[Width, ...], Field(exclude_if=lambda widths: not any(widths))] = ()
    cell: Annotated[AnyCell, Field(exclude_if=lambda cell: cell == LSTM())] = LSTM()

    @field_validator("hidden", mode="before")
    @classmethod
    def _sizes(cls, given: Any) -> Any:
        """One message for both forms; pydantic would give one for each."""
        sizes = given if isinstance(given, list | tuple) else [given]
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError("it is a whole number from 1 on, or a list of them, one a layer")
        return given

    @field_validator("hidden", "projection")
    @classmethod
    def _one_a_layer(cls, sizes: Sizes, info: ValidationInfo) -> Sizes:
        """One number for equal hidden sizes, and no projections for none at all."""
        layers = info.data.get("layers")
        if not isinstance(sizes, tuple) or layers is None:
            return sizes
        if len(sizes) != layers and (sizes or info.field_name == "hidden"):
            raise ValueError(f"it takes one number a layer, {layers} in all")
        if info.field_name == "hidden":
            return sizes[0] if len(set(sizes)) == 1 else sizes
        return sizes if any(sizes) else ()

    @model_validator(mode="after")
    def _projections_are_narrower(self) -> Self:
        for width, units in zip(self.projection, self.units, strict=False):
            if width >= units:
                raise ValueError(
                    f"a projection of {width} is not narrower than the {units} units of its layer; "
                    f"0 is for none"
                )
        return self

    @property
    def units(self) -> tuple[int, ...]:
        """How many units each layer has."""
        return self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * self.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide each layer's output is."""
        projection = self.projection or (0,) * self.layers
        return tuple(width or units for width, units in zip(projection, self.units, strict=True))

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) for a vocabulary of so many words."""
        shapes = {"embedding": (words, self.embedding)}
        inputs = self.embedding
        for layer, (units, width) in enumerate(zip(self.units, self.widths, strict=True)):
            for name, shape in self.cell.sites(inputs, units, width).items():
                shapes[f"{self.cell.prefix}.{layer}.{name}"] = shape
            inputs = width
        if not self.tied:
            shapes["decoder"] = (words, inputs)
        elif inputs != self.embedding:
            shapes["decoder.projection"] = (self.embedding, inputs)
        return shapes

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,)."""
        layers = {
            f"{self.cell.prefix}.{layer}.{name}": shape
            for layer, units in enumerate(self.units)
            for name, shape in self.cell.vectors(units).items()
        }
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
        """A recurrent matrix (gates x H, H) with dropped weights zero."""
        return dropout(matrix, self.recurrent_rate, self.training)


class LanguageModel(nn.Module):
    """A language model over Weights. A tied embedding and decoder is one Weight."""

    def __init__(
        self,
        settings: ModelSettings,
        weights: dict[str, Weight],
        biases: dict[str, Leaf],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = weights["embedding"]
        prefixes = [f"{settings.cell.prefix}.{layer}." for layer in range(settings.layers)]
        self._layers = nn.ModuleList(
            settings.cell.layer(_below(prefix, weights), _below(prefix, biases))
            for prefix in prefixes
        )
        self.decoder = weights["embedding" if settings.tied else "decoder"]
        self.decoder_projection = weights.get("decoder.projection")
        self.decoder_bias = biases["decoder.bias"]
        self.dropout = Dropout("element", 0.0, 0.0)

    @property
    def words(self) -> int:
        return self.decoder.shape[0]

    @property
    def layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self._layers]

    @property
    def sites(self) -> dict[str, Weight]:
        """Site -> weight, each weight once, in the order of the file."""
        named = {"embedding": self.embedding}
        for index, layer in enumerate(self.layers):
            for name, weight in layer.weights.items():
                named[f"{self.settings.cell.prefix}.{index}.{name}"] = weight
        if not self.settings.tied:
            named["decoder"] = self.decoder
        elif self.decoder_projection is not None:
            named["decoder.projection"] = self.decoder_projection
        return named

    @property
    def biases(self) -> dict[str, Leaf]:
        """Bias or peephole -> leaf, in the order of the file."""
        named = {
            f"{self.settings.cell.prefix}.{index}.{name}": leaf
            for index, layer in enumerate(self.layers)
            for name, leaf in layer.vectors.items()
        }
        return {**named, "decoder.bias": self.decoder_bias}

    def zero_state(self, batch: int) -> list[State]:
        """A zero state per layer."""
        return [layer.zero_state(batch) for layer in self.layers]

    def forward(self, ids: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """ids (time, batch) -> (time, batch, width) after the last layer, and the state."""
        x = self.dropout.rows(self.embedding.rows(ids), ids, self.words)
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, last = layer(self.dropout(x), before, self.dropout.weights)
            after.append(last)
        return self.dropout(x), after

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., width) -> z (n, r), M (words, r), bias: the logits are z M^T + bias."""
        z = hidden.flatten(0, -2)
        if self.decoder_projection is not None:
            z = self.decoder_projection.matmul(z)
        z, matrix = self.decoder.head(z)
        return z, matrix, self.decoder_bias.value()

    def loss(self, ids: Tensor, targets: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """Mean negative log-likelihood in nats; ids and targets (time, batch)."""
        hidden, state = self(ids, state)
        return cross_entropy(*self.head(hidden), targets.flatten()), state


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


def dense_model(
    settings: ModelSettings, matrices: dict[str, Tensor], biases: dict[str, Leaf]
) -> LanguageModel:
    """A dense model of these matrices, site by site, for inference until it is trained."""
    weights = {
        site: DenseStructure().weight({"matrix": Leaf(matrix)}, (matrix.shape[0], matrix.shape[1]))
        for site, matrix in matrices.items()
    }
    return LanguageModel(settings, weights, biases).eval()


def _below(prefix: str, named: dict[str, M]) -> dict[str, M]:
    """The entries whose names start with the prefix, without it."""
    return {n.removeprefix(prefix): value for n, value in named.items() if n.startswith(prefix)}


def parameters(model: LanguageModel) -> dict[str, Any]:
    """Every trainable tensor, by a stable name, each once."""
    return dict(model.named_parameters(remove_duplicate=True))
