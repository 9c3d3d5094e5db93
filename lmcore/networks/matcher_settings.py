"""The shape of a network that says how two texts go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import both_directions
from lmcore.task import ENTAILMENT
from lmcore.word_settings import WordSettings

if TYPE_CHECKING:
    from lmcore.classified import ClassifiedData
    from lmcore.leaf import Leaf
    from lmcore.networks.matcher import Matcher
    from lmcore.weight import Weight

ENCODER, COMPOSER = "encoder", "composer"
COMPARED, POOLED, OUTPUT = "compared", "pooled", "output"
COMPARED_BIAS, POOLED_BIAS, OUTPUT_BIAS = "compared.bias", "pooled.bias", "output.bias"


class MatcherSettings(NetworkSettings):
    """The shape of a matcher: both texts are encoded, attend to each other, are composed and
    pooled. `labels` and `alphabet` come from the training split."""

    task = ENTAILMENT
    kind: Literal["matcher"] = "matcher"
    words: WordSettings
    hidden: Size
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
    def layers(self) -> dict[tuple[str, str], int]:
        """What the names of the sites of each layer begin with, by direction -> its inputs."""
        return {
            both_directions(ENCODER, 0): self.words.width,
            both_directions(COMPOSER, 0): self.hidden,
        }

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        hidden, shapes = self.hidden, self.words.site_shapes(words, len(self.alphabet))
        for both, inputs in self.layers.items():
            for prefix in both:
                for name, size in self.cell.sites(inputs, hidden, hidden).items():
                    shapes[f"{prefix}.{name}"] = size
        return {
            **shapes,
            COMPARED: (hidden, 8 * hidden),
            POOLED: (hidden, 8 * hidden),
            OUTPUT: (len(self.labels), hidden),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        layers = {
            f"{prefix}.{name}": size
            for both in self.layers
            for prefix in both
            for name, size in self.cell.vectors(self.hidden).items()
        }
        biases = {COMPARED_BIAS: self.hidden, POOLED_BIAS: self.hidden}
        return {
            **self.words.bias_shapes(),
            **layers,
            **{name: (size,) for name, size in biases.items()},
            OUTPUT_BIAS: (len(self.labels),),
        }

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Matcher:
        from lmcore.networks.matcher import Matcher  # which is made of these settings

        return Matcher(self, weights, biases)
