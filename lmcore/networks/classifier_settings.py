"""The shape of a classifier of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lmcore.model_settings import Size
from lmcore.networks.sentence_settings import Directions, LabellingSettings
from lmcore.sites import both_directions
from lmcore.task import SENTIMENT
from lmcore.word_settings import Part

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.classifier import Classifier
    from lmcore.weight import Weight

ENCODER = both_directions("encoder", 0)
ATTENTION, POOLED, OUTPUT = "attention", "pooled", "output"
POOLED_BIAS, OUTPUT_BIAS = "pooled.bias", "output.bias"


class ClassifierSettings(LabellingSettings):
    """The shape of a classifier: a bidirectional layer over words, of which the largest, the mean
    and an attentive mean value become `pooled` numbers and these a label."""

    task = SENTIMENT
    kind: Literal["classifier"] = "classifier"
    pooled: Size

    @property
    def layers_of(self) -> tuple[Directions, ...]:
        return (ENCODER,)

    @property
    def reads(self) -> dict[str, tuple[Part, ...]]:
        encoded, largest = self.output_of(ENCODER), self.output_of(ENCODER, one_by_one=True)
        layers = dict.fromkeys(ENCODER, self.words.parts)
        return {**layers, ATTENTION: encoded, POOLED: (*largest, *encoded, *encoded)}

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return {
            **self.words.site_shapes(words, len(self.alphabet)),
            **self.layer_sites,
            ATTENTION: (1, self.inputs_of(ATTENTION)),
            POOLED: (self.pooled, self.inputs_of(POOLED)),
            OUTPUT: (len(self.labels), self.pooled),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return {
            **self.words.bias_shapes(),
            **self.layer_vectors,
            POOLED_BIAS: (self.pooled,),
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Classifier:
        from lmcore.networks.classifier import Classifier  # which is made of these settings

        return Classifier(self, weights, biases)
