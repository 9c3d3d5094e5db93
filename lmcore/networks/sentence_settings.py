"""What the shapes of all networks of sentences have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import EMBEDDING, INPUT
from lmcore.units import COLUMNS, Slice, Units, rows_of
from lmcore.word_settings import Part, WordSettings

Directions = tuple[str, str]  # what the names of a layer's sites begin with, ahead and back


class SentenceSettings(NetworkSettings, ABC):
    """A network that reads words as `words` says, by layers of one `cell` with `hidden` units a
    direction. `hidden_of` has the layers that differ, by what their sites' names begin with. The
    `alphabet`, of the letters of words, comes from the training split."""

    words: WordSettings
    cell: AnyCell = later(LSTM())
    alphabet: str = later("")
    hidden: Size
    hidden_of: dict[str, Size] = later({})

    def completed(self, data: Any) -> Self:
        return self.model_copy(update={"alphabet": data.alphabet})

    def check(self) -> None:
        if len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError("its alphabet has a letter twice")
        for prefix in self.hidden_of:
            if not any(prefix in both for both in self.layers_of):
                raise ValueError(f"hidden_of: it has no layer {prefix}")

    @property
    def sizes(self) -> dict[str, int]:
        return self.words.sizes

    @property
    def fixed(self) -> tuple[str, ...]:
        return self.words.fixed

    @property
    def looked_up(self) -> tuple[str, ...]:
        return self.words.looked_up

    @property
    @abstractmethod
    def layers_of(self) -> tuple[Directions, ...]:
        """The bidirectional layers, in their order."""

    @property
    @abstractmethod
    def reads(self) -> dict[str, tuple[Part, ...]]:
        """What each layer, by what its sites' names begin with, and each other matrix that reads
        hidden units is multiplied with, part by part."""

    def units_in(self, prefix: str) -> int:
        """How many units a direction of a layer has."""
        return self.hidden_of.get(prefix, self.hidden)

    def output_of(self, both: Directions) -> tuple[Part, ...]:
        """The output of a layer, whose units may be removed."""
        return tuple(Part(self.units_in(prefix), prefix) for prefix in both)

    def inputs_of(self, name: str) -> int:
        """How many numbers a layer or matrix reads."""
        return sum(part.width for part in self.reads[name])

    @property
    def layer_sites(self) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) of the layers."""
        return {
            f"{prefix}.{name}": shape
            for both in self.layers_of
            for prefix in both
            for units in [self.units_in(prefix)]
            for name, shape in self.cell.sites(self.inputs_of(prefix), units, units).items()
        }

    @property
    def layer_vectors(self) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,) of the layers."""
        return {
            f"{prefix}.{name}": shape
            for both in self.layers_of
            for prefix in both
            for name, shape in self.cell.vectors(self.units_in(prefix)).items()
        }

    def removable(self, embedding: bool) -> list[Units]:
        readers: dict[str, list[Slice]] = {}  # of each layer's units, or of the embedding's columns
        layers = {prefix for both in self.layers_of for prefix in both}
        for name, parts in self.reads.items():
            starts, at = dict[str, list[int]](), 0
            for part in parts:
                if part.units is not None:
                    starts.setdefault(part.units, []).append(at)
                at += part.width
            site = f"{name}.{INPUT}" if name in layers else name
            for units, places in starts.items():
                readers.setdefault(units, []).append(Slice(site, COLUMNS, tuple(places)))
        found = [
            Units(prefix, self.units_in(prefix), (*self._own(prefix), *readers[prefix]))
            for both in self.layers_of
            for prefix in both
            if prefix in readers
        ]
        if embedding and EMBEDDING in readers:
            own = Slice(EMBEDDING, COLUMNS)
            found.append(Units(EMBEDDING, self.sizes[EMBEDDING], (own, *readers[EMBEDDING])))
        return found

    def _own(self, prefix: str) -> Iterator[Slice]:
        """What a layer's units touch in its own matrices."""
        units = self.units_in(prefix)
        for name, (rows, _) in self.cell.sites(1, units, units).items():
            yield rows_of(f"{prefix}.{name}", rows, units)
            if name != INPUT:
                yield Slice(f"{prefix}.{name}", COLUMNS)

    def resized(self, shapes: Mapping[str, tuple[int, int]]) -> Self:
        every = {
            prefix: shapes[f"{prefix}.{INPUT}"][0] // self.cell.gates
            for both in self.layers_of
            for prefix in both
        }
        words = self.words
        if EMBEDDING in shapes:
            words = words.model_copy(update={"embedding": shapes[EMBEDDING][1]})
        others = {prefix: units for prefix, units in every.items() if units != self.hidden}
        return self.model_copy(update={"hidden_of": others, "words": words})


class LabellingSettings(SentenceSettings, ABC):
    """A network of sentences that gives labels, those of the training split."""

    labels: tuple[str, ...] = later(())

    def completed(self, data: Any) -> Self:
        return super().completed(data).model_copy(update={"labels": data.labels})

    def check(self) -> None:
        super().check()
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError("its labels are none, or one stands there twice")
