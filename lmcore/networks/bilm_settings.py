"""The shape of a bidirectional language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import Field

from lmcore import sites
from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import ModelSettings, Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import BACKWARD, FORWARD
from lmcore.task import LANGUAGE
from lmcore.units import Slice, Units

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.bilm import BiLM
    from lmcore.weight import Weight

DIRECTIONS = (FORWARD, BACKWARD)
S = TypeVar("S")


class BiLMSettings(NetworkSettings):
    """The shape of two language models, one of which reads from the end. They share the embedding,
    which is tied to the decoder, and the way there from the last layers. Layers have `hidden`
    units, but for those in `hidden_of`, {forward.0: 150}, and no projection, but for those in
    `projection_of`. The last layers have neither."""

    task = LANGUAGE
    kind: Literal["bilm"] = "bilm"
    layers: Annotated[int, Field(ge=1, le=10)]
    hidden: Size
    embedding: Size
    cell: AnyCell = later(LSTM())
    hidden_of: dict[str, Size] = later({})
    projection_of: dict[str, Size] = later({})

    def of(self, direction: str) -> ModelSettings:
        """The shape of one of the two."""
        names = [sites.layer_name(direction, layer) for layer in range(self.layers)]
        one = ModelSettings(
            layers=self.layers,
            hidden=tuple(self.hidden_of.get(name, self.hidden) for name in names),
            embedding=self.embedding,
            tied=True,
            cell=self.cell,
        )
        widths = {
            sites.layer_name(self.cell.prefix, layer): self.projection_of.get(name, 0)
            for layer, name in enumerate(names)
        }
        return one.projected(widths)

    def check(self) -> None:
        for name in (*self.hidden_of, *self.projection_of):
            if name not in self.projectable:
                raise ValueError(f"it has no layer {name!r} but the last ones")
        for name, width in self.projection_of.items():
            if width >= self.hidden_of.get(name, self.hidden):
                raise ValueError(f"the projection of {name} is not narrower than the layer")

    @property
    def sizes(self) -> dict[str, int]:
        return {"embedding": self.embedding}

    @property
    def looked_up(self) -> tuple[str, ...]:
        return ()  # the decoder multiplies with the embedding

    def named(self, direction: str) -> dict[str, str]:
        """Each site and vector of the model of a direction -> its name here."""
        one = self.of(direction)
        return {
            name: self._named(direction, name)
            for name in (*one.site_shapes(1), *one.bias_shapes(1))
        }

    def _named(self, direction: str, name: str) -> str:
        prefix = f"{self.cell.prefix}."
        return f"{direction}.{name.removeprefix(prefix)}" if name.startswith(prefix) else name

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return self._both([self.of(one).site_shapes(words) for one in DIRECTIONS])

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return self._both([self.of(one).bias_shapes(words) for one in DIRECTIONS])

    def _both(self, each: Sequence[dict[str, S]]) -> dict[str, S]:
        """Those of the layers of each direction, then the shared ones."""
        found = {
            self._named(direction, name): shape
            for direction, shapes in zip(DIRECTIONS, each, strict=True)
            for name, shape in shapes.items()
            if name not in sites.SHARED
        }
        shared = {name: shape for name, shape in each[0].items() if name in sites.SHARED}
        return {**found, **shared}

    def removable(self, embedding: bool) -> list[Units]:
        """But for the last layers, whose outputs are those of one decoder."""
        return [
            replace(
                units,
                name=self._named(direction, units.name),
                slices=self._slices(direction, units.slices),
            )
            for direction in DIRECTIONS
            for units in self.of(direction).removable(embedding=False)[:-1]
        ]

    def _slices(self, direction: str, slices: Iterable[Slice]) -> tuple[Slice, ...]:
        return tuple(replace(one, site=self._named(direction, one.site)) for one in slices)

    @property
    def readers(self) -> dict[str, tuple[Slice, ...]]:
        found: dict[str, tuple[Slice, ...]] = {}
        for direction in DIRECTIONS:
            own = self.of(direction)
            for name, slices in own.readers.items():
                named, read = self._named(direction, name), self._slices(direction, slices)
                if name != own.decoded:
                    found[named] = (*found.get(named, ()), *read)
        return found

    @property
    def projectable(self) -> dict[str, int]:
        return {
            self._named(direction, name): width
            for direction in DIRECTIONS
            for own in [self.of(direction)]
            for name, width in own.projectable.items()
            if name != own.decoded
        }

    @property
    def units(self) -> tuple[int, ...]:
        return tuple(self.hidden_of.get(name, self.hidden) for name in self.projectable)

    def every_site(self, words: int) -> dict[str, tuple[int, int]]:
        wider = {name: units + 1 for name, units in zip(self.projectable, self.units, strict=True)}
        sizes = {"projection_of": wider, "embedding": self.hidden + 1}
        wide = self.model_copy(update=sizes)
        return {**self.site_shapes(words), **wide.site_shapes(words)}

    def projected(self, widths: Mapping[str, int]) -> Self:
        return self.model_copy(update={"projection_of": {**self.projection_of, **widths}})

    def embedded(self, size: int) -> Self:
        return self.model_copy(update={"embedding": size})

    @property
    def tied_to(self) -> int | None:
        return self.hidden

    def resized(self, shapes: Mapping[str, tuple[int, int]]) -> Self:
        every = {
            name: shapes[f"{name}.{sites.INPUT}"][0] // self.cell.gates
            for direction in DIRECTIONS
            for name in (sites.layer_name(direction, layer) for layer in range(self.layers))
        }
        others = {name: units for name, units in every.items() if units != self.hidden}
        return self.model_copy(update={"hidden_of": others})

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> BiLM:
        from lmcore.networks.bilm import BiLM  # which is made of these settings

        return BiLM(self, weights, biases)
