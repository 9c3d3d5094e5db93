"""The shape of a classifier of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import both_directions
from lmcore.task import SENTIMENT
from lmcore.word_settings import WordSettings

if TYPE_CHECKING:
    from lmcore.classified import ClassifiedData
    from lmcore.leaf import Leaf
    from lmcore.networks.classifier import Classifier
    from lmcore.weight import Weight

ENCODER = "encoder"
ATTENTION, POOLED, OUTPUT = "attention", "pooled", "output"
POOLED_BIAS, OUTPUT_BIAS = "pooled.bias", "output.bias"


class ClassifierSettings(NetworkSettings):
    """The shape of a classifier: a bidirectional layer over words, of which the largest, the mean
    and an attentive mean value become `pooled` numbers and these a label. `labels` and `alphabet`
    come from the training split."""

    task = SENTIMENT
    kind: Literal["classifier"] = "classifier"
    words: WordSettings
    hidden: Size
    pooled: Size
    cell: AnyCell = later(LSTM())
    labels: tuple[str, ...] = later(())
    alphabet: str = later("")

    def completed(self, data: ClassifiedData) -> Self:
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
    def prefixes(self) -> tuple[str, str]:
        """What the names of the encoder's sites begin with, by direction."""
        return both_directions(ENCODER, 0)

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        encoder = self.cell.sites(self.words.width, self.hidden, self.hidden)
        return {
            **self.words.site_shapes(words, len(self.alphabet)),
            **{f"{one}.{name}": size for one in self.prefixes for name, size in encoder.items()},
            ATTENTION: (1, 2 * self.hidden),
            POOLED: (self.pooled, 6 * self.hidden),
            OUTPUT: (len(self.labels), self.pooled),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        encoder = self.cell.vectors(self.hidden)
        return {
            **self.words.bias_shapes(),
            **{f"{one}.{name}": size for one in self.prefixes for name, size in encoder.items()},
            POOLED_BIAS: (self.pooled,),
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Classifier:
        from lmcore.networks.classifier import Classifier  # which is made of these settings

        return Classifier(self, weights, biases)
