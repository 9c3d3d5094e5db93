"""The shape of a tagger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lmcore.networks.sentence_settings import Directions, LabellingSettings
from lmcore.sites import both_directions
from lmcore.task import TAGGING
from lmcore.word_settings import Part

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.tagger import Tagger
    from lmcore.weight import Weight

OUTPUT, OUTPUT_BIAS = "output", "output.bias"
ENCODER = "encoder"


class TaggerSettings(LabellingSettings):
    """The shape of a tagger: bidirectional layers over words, and from their output a tag."""

    task = TAGGING
    kind: Literal["tagger"] = "tagger"
    layers: Annotated[int, Field(ge=1, le=10)] = 1

    @property
    def layers_of(self) -> tuple[Directions, ...]:
        return tuple(both_directions(ENCODER, layer) for layer in range(self.layers))

    @property
    def reads(self) -> dict[str, tuple[Part, ...]]:
        found, before = dict[str, tuple[Part, ...]](), self.words.parts
        for both in self.layers_of:
            found |= dict.fromkeys(both, before)
            before = self.output_of(both)
        return {**found, OUTPUT: before}

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return {
            **self.words.site_shapes(words, len(self.alphabet)),
            **self.layer_sites,
            OUTPUT: (len(self.labels), self.inputs_of(OUTPUT)),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return {
            **self.words.bias_shapes(),
            **self.layer_vectors,
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Tagger:
        from lmcore.networks.tagger import Tagger  # which is made of these settings

        return Tagger(self, weights, biases)
