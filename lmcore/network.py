"""A network: named sites made of weights, whatever they are for; and its shape, as settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from lmcore.dropout import Dropout
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.lessons import Lessons
from lmcore.score import Comparison, Score
from lmcore.settings import Family
from lmcore.sites import EMBEDDING
from lmcore.training_settings import TrainingSettings
from lmcore.weight import Weight

LANGUAGE = "language"  # the kind that files and databases had before there were others
N = TypeVar("N", bound="Network")


class NetworkSettings(Family):
    """The shape of a network, all but its vocabulary: its sites and biases follow from it."""

    @property
    def units(self) -> tuple[int, ...]:
        """How many units each layer has that recipes can address by its index."""
        return ()

    @property
    @abstractmethod
    def looked_up(self) -> tuple[str, ...]:
        """The sites whose rows are looked up, and nothing else is done with them."""

    @abstractmethod
    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) for a vocabulary of so many words, in the order of the file."""

    @abstractmethod
    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        """Bias or other vector -> (size,), in the order of the file."""

    @abstractmethod
    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Network:
        """The network of these weights and biases."""

    def weights(self, words: int) -> int:
        """How many numbers the dense network holds; 4 bytes each are its dense size."""
        matrices = sum(rows * columns for rows, columns in self.site_shapes(words).values())
        return matrices + sum(size for (size,) in self.bias_shapes(words).values())


def _pick(given: Any) -> Any:
    if isinstance(given, Mapping) and "kind" not in given:
        given = {"kind": LANGUAGE, **given}
    return NetworkSettings.pick(given)


AnyNetwork = Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(_pick)]


class Network(nn.Module, ABC):
    """A network over Weights, that can be trained and compressed."""

    dropout: Dropout

    def __init__(
        self, settings: Any, weights: Mapping[str, Weight], biases: Mapping[str, Leaf]
    ) -> None:
        """Without dropout; `settings` are those whose sites and biases these are."""
        super().__init__()
        self.settings = settings
        self._sites = {site: weights[site] for site in settings.site_shapes(1)}
        self._biases = {name: biases[name] for name in settings.bias_shapes(1)}
        self.dropout = Dropout("element", 0.0, 0.0)

    @property
    def words(self) -> int:
        """How many words its vocabulary has."""
        return self._sites[EMBEDDING].shape[0]

    @property
    def sites(self) -> dict[str, Weight]:
        """Site -> weight, each weight once, in the order of the file."""
        return dict(self._sites)

    @property
    def biases(self) -> dict[str, Leaf]:
        """Bias or other vector -> leaf, in the order of the file."""
        return dict(self._biases)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(iter(self.biases.values())).data.device

    @property
    @abstractmethod
    def named_layers(self) -> dict[str, Layer]:
        """What the names of a layer's sites begin with -> layer: "lstm.0"."""

    @abstractmethod
    def lessons(
        self, examples: Any, settings: TrainingSettings, seed: int, teacher: Any = None
    ) -> Lessons:
        """What a training of these settings shows it of the examples. Raises UserError where they
        are too few for one update."""

    @abstractmethod
    def score(self, data: Any, split: str, streams: int = 1) -> Score:
        """What it makes of a split of the data. Where the split is read in turn, the state carried
        along, it is cut into so many `streams` that are read in parallel."""

    @abstractmethod
    def comparison(self, data: Any) -> Comparison:
        """What other networks of the task lose over this one on the validation data."""

    @abstractmethod
    def moments(self, examples: Any) -> dict[str, Tensor]:
        """Site -> second moments (in, in) of what its matrix multiplies, over some of the examples:
        the mean of x x^T. A site that multiplies one-hot words has no entry."""

    @abstractmethod
    def sampled_losses(self, examples: Any, most: int) -> Iterator[tuple[Tensor, float]]:
        """The losses in nats of samples spread over the examples, the same ones for every network,
        each with its share of all: 1 over their number, which is at most `most`."""

    @abstractmethod
    def word_counts(self, examples: Any) -> Tensor:
        """(words,): how often the examples have each word."""


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """Every trainable tensor, by a stable name, each once."""
    return dict(network.named_parameters(remove_duplicate=True))
