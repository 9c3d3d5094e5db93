"""The shape of a language model: its layers, their sizes, and the sites that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

import lmcore.looped_cells  # noqa: F401, makes its cells known
from lmcore import sites, task
from lmcore.cells import LSTM, AnyCell
from lmcore.language_units import readers_of, units_of
from lmcore.network_settings import LANGUAGE, NetworkSettings
from lmcore.settings import later

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.model import LanguageModel
    from lmcore.units import Slice, Units
    from lmcore.weight import Weight

Size = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=0)]
Sizes = int | tuple[int, ...]


class ModelSettings(NetworkSettings):
    """The shape of a language model; its vocabulary comes from the corpus.

    `hidden` is one number or one a layer. `projection`, one a layer, is how wide a layer's shared
    projection is, 0 for none. Where a tied embedding is not as wide as the last layer's output, a
    `decoder.projection` leads there.
    """

    task = task.LANGUAGE
    kind: Literal["language"] = later(LANGUAGE)
    layers: Annotated[int, Field(ge=1, le=100)]
    hidden: Size | tuple[Size, ...]
    embedding: Size
    tied: bool
    projection: tuple[Width, ...] = later(())
    cell: AnyCell = later(LSTM())

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

    @property
    def sizes(self) -> dict[str, int]:
        return {"embedding": self.embedding}

    @property
    def looked_up(self) -> tuple[str, ...]:
        return () if self.tied else (sites.EMBEDDING,)

    @property
    def decoder_site(self) -> str:
        """The site whose rows the decoder multiplies with: that of the embedding, where tied."""
        return sites.EMBEDDING if self.tied else sites.DECODER

    def layer_name(self, layer: int) -> str:
        """The layer with this index, counted from 0: "lstm.0"."""
        return sites.layer_name(self.cell.prefix, layer)

    def site(self, layer: int, name: str) -> str:
        """A site or vector of the layer with this index, counted from 0: "lstm.0.input"."""
        return sites.in_layer(self.cell.prefix, layer, name)

    def sites_of(self, layer: int) -> dict[str, str]:
        """The sites of one layer by their names within it, in the order of the file."""
        names = self.cell.sites(1, self.units[layer], self.widths[layer])
        return {name: self.site(layer, name) for name in names}

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) for a vocabulary of so many words."""
        shapes = {sites.EMBEDDING: (words, self.embedding)}
        inputs = self.embedding
        for layer, (units, width) in enumerate(zip(self.units, self.widths, strict=True)):
            for name, shape in self.cell.sites(inputs, units, width).items():
                shapes[self.site(layer, name)] = shape
            inputs = width
        if not self.tied:
            shapes[sites.DECODER] = (words, inputs)
        elif inputs != self.embedding:
            shapes[sites.DECODER_PROJECTION] = (self.embedding, inputs)
        return shapes

    def every_site(self, words: int) -> dict[str, tuple[int, int]]:
        # a width that differs from the units makes a projection, and with it that projection's site
        widths = tuple(units + 1 for units in self.units)
        wider = self.model_copy(update={"projection": widths, "embedding": widths[-1] + 1})
        return {**self.site_shapes(words), **wider.site_shapes(words)}

    def removable(self, embedding: bool) -> list[Units]:
        return units_of(self, embedding)

    @property
    def readers(self) -> dict[str, tuple[Slice, ...]]:
        return readers_of(self)

    @property
    def projectable(self) -> dict[str, int]:
        return {self.layer_name(layer): width for layer, width in enumerate(self.widths)}

    def projected(self, widths: Mapping[str, int]) -> Self:
        before = self.projection or (0,) * self.layers
        names = map(self.layer_name, range(self.layers))
        after = tuple(widths.get(name) or old for name, old in zip(names, before, strict=True))
        return self.model_copy(update={"projection": after if any(after) else ()})

    def embedded(self, size: int) -> Self:
        return self.model_copy(update={"embedding": size})

    @property
    def tied_to(self) -> int | None:
        return self.widths[-1] if self.tied else None

    @property
    def decoded(self) -> str | None:
        return self.layer_name(self.layers - 1) if self.tied else None

    def resized(self, shapes: Mapping[str, tuple[int, int]]) -> Self:
        layers = range(self.layers)
        units = [shapes[self.site(at, sites.INPUT)][0] // self.cell.gates for at in layers]
        widths = [shapes.get(self.site(at, sites.PROJECTION), (0,))[0] for at in layers]
        embedding = shapes[sites.EMBEDDING][1]
        sizes = {"hidden": tuple(units), "projection": tuple(widths), "embedding": embedding}
        return self.model_validate({**self.model_dump(), **sizes})

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> LanguageModel:
        from lmcore.model import LanguageModel  # which is made of these settings

        return LanguageModel(self, weights, biases)

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,)."""
        layers = {
            self.site(layer, name): shape
            for layer, units in enumerate(self.units)
            for name, shape in self.cell.vectors(units).items()
        }
        return {**layers, sites.DECODER_BIAS: (words,)}
