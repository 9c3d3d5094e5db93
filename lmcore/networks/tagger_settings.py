"""The shape of a tagger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lmcore.model_settings import Size
from lmcore.networks.sentence_settings import Directions, LabellingSettings
from lmcore.sites import both_directions
from lmcore.task import TAGGING

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
    hidden: Size

    @property
    def recurrent(self) -> dict[Directions, int]:
        """The layers, with the inputs of each."""
        inputs = [self.words.width, *[2 * self.hidden] * (self.layers - 1)]
        return {both_directions(ENCODER, layer): size for layer, size in enumerate(inputs)}

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return {
            **self.words.site_shapes(words, len(self.alphabet)),
            **self.layer_sites(self.recurrent, self.hidden),
            OUTPUT: (len(self.labels), 2 * self.hidden),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return {
            **self.words.bias_shapes(),
            **self.layer_vectors(self.recurrent, self.hidden),
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Tagger:
        from lmcore.networks.tagger import Tagger  # which is made of these settings

        return Tagger(self, weights, biases)
