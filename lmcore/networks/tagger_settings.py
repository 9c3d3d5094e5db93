"""The shape of a tagger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import both_directions
from lmcore.task import TAGGING
from lmcore.word_settings import WordSettings

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.tagger import Tagger
    from lmcore.tagged import TaggedData
    from lmcore.weight import Weight

OUTPUT, OUTPUT_BIAS = "output", "output.bias"
ENCODER = "encoder"


class TaggerSettings(NetworkSettings):
    """The shape of a tagger. `labels` and `alphabet` come from the training split."""

    task = TAGGING
    kind: Literal["tagger"] = "tagger"
    layers: Annotated[int, Field(ge=1, le=10)] = 1
    hidden: Size
    words: WordSettings
    cell: AnyCell = later(LSTM())
    labels: tuple[str, ...] = later(())
    alphabet: str = later("")

    def completed(self, data: TaggedData) -> Self:
        return self.model_copy(update={"labels": data.labels, "alphabet": data.alphabet})

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
    def prefixes(self) -> list[tuple[str, str]]:
        """What the names of the sites of each layer begin with, of both directions."""
        return [both_directions(ENCODER, layer) for layer in range(self.layers)]

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        shapes = self.words.site_shapes(words, len(self.alphabet))
        inputs = self.words.width
        for both in self.prefixes:
            for prefix in both:
                for name, shape in self.cell.sites(inputs, self.hidden, self.hidden).items():
                    shapes[f"{prefix}.{name}"] = shape
            inputs = 2 * self.hidden
        return {**shapes, OUTPUT: (len(self.labels), inputs)}

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        layers = {
            f"{prefix}.{name}": shape
            for both in self.prefixes
            for prefix in both
            for name, shape in self.cell.vectors(self.hidden).items()
        }
        return {**self.words.bias_shapes(), **layers, OUTPUT_BIAS: (len(self.labels),)}

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Tagger:
        from lmcore.networks.tagger import Tagger  # which is made of these settings

        return Tagger(self, weights, biases)
