"""What the shapes of all networks of sentences have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import Any, Self

from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import EMBEDDING, INPUT, PROJECTION
from lmcore.units import COLUMNS, Slice, Units, columns_of, rows_of
from lmcore.word_settings import Part, WordSettings

Directions = tuple[str, str]  # what the names of a layer's sites begin with, ahead and back


class SentenceSettings(NetworkSettings, ABC):
    """A network that reads words as `words` says, by layers of one `cell` with `hidden` units a
    direction. `hidden_of` has the layers that differ, by what their sites' names begin with, and
    `projection_of` how wide the projections of layers are that have one. The `alphabet`, of the
    letters of words, comes from the training split."""

    words: WordSettings
    cell: AnyCell = later(LSTM())
    alphabet: str = later("")
    hidden: Size
    hidden_of: dict[str, Size] = later({})
    projection_of: dict[str, Size] = later({})

    def completed(self, data: Any) -> Self:
        return self.model_copy(update={"alphabet": data.alphabet})

    def check(self) -> None:
        if len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError("its alphabet has a letter twice")
        for prefix in (*self.hidden_of, *self.projection_of):
            if prefix not in self.prefixes:
                raise ValueError(f"it has no layer {prefix!r}")
        for prefix, width in self.projection_of.items():
            if width >= self.units_in(prefix):
                raise ValueError(f"the projection of {prefix} is not narrower than the layer")

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

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the names of each layer's sites begin with."""
        return tuple(chain.from_iterable(self.layers_of))

    def units_in(self, prefix: str) -> int:
        """How many units a direction of a layer has."""
        return self.hidden_of.get(prefix, self.hidden)

    def width_of(self, prefix: str) -> int:
        """How wide the output of a direction of a layer is."""
        return self.projection_of.get(prefix, self.units_in(prefix))

    def output_of(self, both: Directions, one_by_one: bool = False) -> tuple[Part, ...]:
        """The output of a layer, whose units may be removed."""
        return tuple(Part(self.width_of(prefix), prefix, one_by_one) for prefix in both)

    def inputs_of(self, name: str) -> int:
        """How many numbers a layer or matrix reads."""
        return sum(part.width for part in self.reads[name])

    def sites_of(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) of a direction of a layer, by their names within it."""
        inputs = self.inputs_of(prefix)
        return self.cell.sites(inputs, self.units_in(prefix), self.width_of(prefix))

    @property
    def layer_sites(self) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) of the layers."""
        return {
            f"{prefix}.{name}": shape
            for prefix in self.prefixes
            for name, shape in self.sites_of(prefix).items()
        }

    @property
    def layer_vectors(self) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,) of the layers."""
        return {
            f"{prefix}.{name}": shape
            for prefix in self.prefixes
            for name, shape in self.cell.vectors(self.units_in(prefix)).items()
        }

    def every_site(self, words: int) -> dict[str, tuple[int, int]]:
        # a space for all networks may have settings for projections that none here can get
        wider = {prefix: self.units_in(prefix) + 1 for prefix in self.prefixes}
        wide = self.model_copy(update={"projection_of": wider})
        return {**self.site_shapes(words), **wide.site_shapes(words)}

    @property
    def units(self) -> tuple[int, ...]:
        return tuple(self.units_in(prefix) for prefix in self.projectable)

    @property
    def projectable(self) -> dict[str, int]:
        read = [part for parts in self.reads.values() for part in parts]
        projected = {part.units for part in read} - {part.units for part in read if part.one_by_one}
        return {prefix: self.width_of(prefix) for prefix in self.prefixes if prefix in projected}

    @property
    def readers(self) -> dict[str, tuple[Slice, ...]]:
        found: dict[str, list[Slice]] = {}
        for name, parts in self.reads.items():
            starts, at = dict[str, list[int]](), 0
            for part in parts:
                if part.units is not None:
                    starts.setdefault(part.units, []).append(at)
                at += part.width
            site = f"{name}.{INPUT}" if name in self.prefixes else name
            for units, places in starts.items():
                found.setdefault(units, []).append(Slice(site, COLUMNS, tuple(places)))
        return {
            name: tuple(read) if name == EMBEDDING else (*self._own_readers(name), *read)
            for name, read in found.items()
        }

    def _own_readers(self, prefix: str) -> tuple[Slice, ...]:
        """The matrices of a layer that read its own output."""
        names = (name for name in self.sites_of(prefix) if name not in (INPUT, PROJECTION))
        return columns_of(f"{prefix}.{name}" for name in names)

    def removable(self, embedding: bool) -> list[Units]:
        readers, found = self.readers, list[Units]()
        for prefix in self.prefixes:
            if prefix not in readers:
                continue
            units = self.units_in(prefix)
            rows = [
                rows_of(f"{prefix}.{name}", size, units)
                for name, (size, _) in self.sites_of(prefix).items()
                if name != PROJECTION
            ]
            is_projected = prefix in self.projection_of
            projection = columns_of([f"{prefix}.{PROJECTION}"])
            least = self.width_of(prefix) + 1 if is_projected else 1
            read = projection if is_projected else readers[prefix]
            found.append(Units(prefix, units, (*rows, *read), least))
        if embedding and EMBEDDING in readers:
            columns = (*columns_of([EMBEDDING]), *readers[EMBEDDING])
            found.append(Units(EMBEDDING, self.sizes[EMBEDDING], columns))
        return found

    def projected(self, widths: Mapping[str, int]) -> Self:
        return self.model_copy(update={"projection_of": {**self.projection_of, **widths}})

    def embedded(self, size: int) -> Self:
        words = self.words.model_copy(update={"embedding": size})
        return self.model_copy(update={"words": words})

    def resized(self, shapes: Mapping[str, tuple[int, int]]) -> Self:
        units = {
            prefix: shapes[f"{prefix}.{INPUT}"][0] // self.cell.gates for prefix in self.prefixes
        }
        others = {prefix: size for prefix, size in units.items() if size != self.hidden}
        found = self.model_copy(update={"hidden_of": others})
        return found.embedded(shapes[EMBEDDING][1]) if EMBEDDING in shapes else found


class LabellingSettings(SentenceSettings, ABC):
    """A network of sentences that gives labels, those of the training split."""

    labels: tuple[str, ...] = later(())

    def completed(self, data: Any) -> Self:
        return super().completed(data).model_copy(update={"labels": data.labels})

    def check(self) -> None:
        super().check()
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError("its labels are none, or one stands there twice")
