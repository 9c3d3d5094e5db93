"""What the shapes of all networks of sentences have."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, Self

from lmcore.cells import LSTM, AnyCell
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.word_settings import WordSettings

Directions = tuple[str, str]  # what the names of a layer's sites begin with, ahead and back


class SentenceSettings(NetworkSettings, ABC):
    """A network that reads words as `words` says, by layers of one `cell`. The `alphabet`, of the
    letters of words, comes from the training split."""

    words: WordSettings
    cell: AnyCell = later(LSTM())
    alphabet: str = later("")

    def completed(self, data: Any) -> Self:
        return self.model_copy(update={"alphabet": data.alphabet})

    def check(self) -> None:
        if len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError("its alphabet has a letter twice")

    @property
    def sizes(self) -> dict[str, int]:
        return self.words.sizes

    @property
    def fixed(self) -> tuple[str, ...]:
        return self.words.fixed

    @property
    def looked_up(self) -> tuple[str, ...]:
        return self.words.looked_up

    def layer_sites(
        self, layers: Mapping[Directions, int], hidden: int
    ) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) of layers of so many `hidden` units a direction, each given with its
        inputs."""
        return {
            f"{prefix}.{name}": shape
            for both, inputs in layers.items()
            for prefix in both
            for name, shape in self.cell.sites(inputs, hidden, hidden).items()
        }

    def layer_vectors(self, layers: Mapping[Directions, int], hidden: int) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,) of the same layers."""
        return {
            f"{prefix}.{name}": shape
            for both in layers
            for prefix in both
            for name, shape in self.cell.vectors(hidden).items()
        }


class LabellingSettings(SentenceSettings, ABC):
    """A network of sentences that gives labels, those of the training split."""

    labels: tuple[str, ...] = later(())

    def completed(self, data: Any) -> Self:
        return super().completed(data).model_copy(update={"labels": data.labels})

    def check(self) -> None:
        super().check()
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError("its labels are none, or one stands there twice")
