"""A network: named sites made of weights, whatever they are for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmcore.dropout import Dropout
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.lessons import Lessons
from lmcore.network_settings import NetworkSettings
from lmcore.score import Comparison, Score
from lmcore.sites import EMBEDDING, VECTORS, leaf_name
from lmcore.training_settings import TrainingSettings
from lmcore.weight import Weight

N = TypeVar("N", bound="Network")
ROWS_OF_WORDS = (EMBEDDING, VECTORS)


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
        return next(self._sites[one].shape[0] for one in ROWS_OF_WORDS if one in self._sites)

    @property
    def sites(self) -> dict[str, Weight]:
        """Site -> weight, each weight once, in the order of the file."""
        return dict(self._sites)

    @property
    def biases(self) -> dict[str, Leaf]:
        """Bias or other vector -> leaf, in the order of the file."""
        return dict(self._biases)

    @property
    def leaves(self) -> dict[str, Leaf]:
        """Name -> leaf, of its sites and its biases, in the order of the file."""
        found = {
            leaf_name(site, name): leaf
            for site, weight in self.sites.items()
            for name, leaf in weight.leaves.items()
        }
        return {**found, **self.biases}

    @property
    def broken(self) -> list[str]:
        """The names of the leaves that hold infinities or NaN."""
        return [name for name, leaf in self.leaves.items() if not leaf.data.isfinite().all()]

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


def dense_network(
    settings: NetworkSettings, matrices: Mapping[str, Tensor], biases: dict[str, Leaf]
) -> Network:
    """A dense network of these matrices, site by site, for inference until it is trained."""
    weights = {site: Weight.of(matrix) for site, matrix in matrices.items()}
    return settings.network(weights, biases).eval()


def random_network(
    settings: NetworkSettings, words: int, init: float, generator: torch.Generator
) -> Network:
    """A dense network, every number uniform in [-init, init], as Zaremba et al. (2014) start."""

    def uniform(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape).uniform_(-init, init, generator=generator)

    weights = {s: Weight.of(uniform(shape)) for s, shape in settings.site_shapes(words).items()}
    biases = {name: Leaf(uniform(shape)) for name, shape in settings.bias_shapes(words).items()}
    return settings.network(weights, biases)
