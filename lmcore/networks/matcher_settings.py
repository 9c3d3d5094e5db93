"""The shape of a network that says how two texts go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lmcore.model_settings import Size
from lmcore.networks.sentence_settings import Directions, LabellingSettings
from lmcore.sites import both_directions
from lmcore.task import ENTAILMENT

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.matcher import Matcher
    from lmcore.weight import Weight

ENCODER, COMPOSER = both_directions("encoder", 0), both_directions("composer", 0)
COMPARED, POOLED, OUTPUT = "compared", "pooled", "output"
COMPARED_BIAS, POOLED_BIAS, OUTPUT_BIAS = "compared.bias", "pooled.bias", "output.bias"


class MatcherSettings(LabellingSettings):
    """The shape of a matcher: both texts are encoded, attend to each other, are composed and
    pooled."""

    task = ENTAILMENT
    kind: Literal["matcher"] = "matcher"
    hidden: Size

    @property
    def recurrent(self) -> dict[Directions, int]:
        """The layers, with the inputs of each."""
        return {ENCODER: self.words.width, COMPOSER: self.hidden}

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return {
            **self.words.site_shapes(words, len(self.alphabet)),
            **self.layer_sites(self.recurrent, self.hidden),
            COMPARED: (self.hidden, 8 * self.hidden),
            POOLED: (self.hidden, 8 * self.hidden),
            OUTPUT: (len(self.labels), self.hidden),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return {
            **self.words.bias_shapes(),
            **self.layer_vectors(self.recurrent, self.hidden),
            COMPARED_BIAS: (self.hidden,),
            POOLED_BIAS: (self.hidden,),
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Matcher:
        from lmcore.networks.matcher import Matcher  # which is made of these settings

        return Matcher(self, weights, biases)
