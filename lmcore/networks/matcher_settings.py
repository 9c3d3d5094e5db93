"""The shape of a network that says how two texts go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lmcore.networks.sentence_settings import Directions, LabellingSettings
from lmcore.sites import both_directions
from lmcore.task import ENTAILMENT
from lmcore.word_settings import Part

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

    @property
    def layers_of(self) -> tuple[Directions, ...]:
        return ENCODER, COMPOSER

    @property
    def reads(self) -> dict[str, tuple[Part, ...]]:
        # the scores of the texts' attention read the encoder, without a matrix
        encoded = tuple(Part(part.width) for part in self.output_of(ENCODER))
        return {
            **dict.fromkeys(ENCODER, self.words.parts),
            COMPARED: encoded * 4,
            **dict.fromkeys(COMPOSER, (Part(self.hidden),)),
            POOLED: self.output_of(COMPOSER, one_by_one=True) * 4,  # largest and mean, of both
        }

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return {
            **self.words.site_shapes(words, len(self.alphabet)),
            **self.layer_sites,
            COMPARED: (self.hidden, self.inputs_of(COMPARED)),
            POOLED: (self.hidden, self.inputs_of(POOLED)),
            OUTPUT: (len(self.labels), self.hidden),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return {
            **self.words.bias_shapes(),
            **self.layer_vectors,
            COMPARED_BIAS: (self.hidden,),
            POOLED_BIAS: (self.hidden,),
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Matcher:
        from lmcore.networks.matcher import Matcher  # which is made of these settings

        return Matcher(self, weights, biases)
