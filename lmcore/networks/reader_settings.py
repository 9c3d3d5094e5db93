"""The shape of a reader that answers questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lmcore.model_settings import Size
from lmcore.networks.sentence_settings import Directions, SentenceSettings
from lmcore.sites import both_directions
from lmcore.task import READING

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.reader import Reader
    from lmcore.weight import Weight

HIGHWAYS = 2
PHRASE, MODELLING, ENDING = "phrase", "modelling", "ending"
# what the similarity of a token of the paragraph and one of the question is made of
ABOUT_PARAGRAPH, ABOUT_QUESTION, ABOUT_BOTH = "match.paragraph", "match.question", "match.both"
FIRST, LAST = "first", "last"


class ReaderSettings(SentenceSettings):
    """The shape of BiDAF: words pass two highways, a phrase layer reads the paragraph and the
    question, attention flows both ways, `layers` model what was found, and another the ending."""

    task = READING
    kind: Literal["reader"] = "reader"
    hidden: Size
    layers: Annotated[int, Field(ge=1, le=10)] = 2

    @property
    def looked_up(self) -> tuple[str, ...]:
        return (*super().looked_up, ABOUT_BOTH)  # it scales, and multiplies nothing

    @property
    def recurrent(self) -> dict[Directions, int]:
        """The layers, with the inputs of each."""
        hidden = self.hidden
        inputs = [8 * hidden, *[2 * hidden] * (self.layers - 1)]
        return {
            both_directions(PHRASE, 0): self.words.width,
            **{both_directions(MODELLING, at): size for at, size in enumerate(inputs)},
            both_directions(ENDING, 0): 14 * hidden,
        }

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        hidden, width = self.hidden, self.words.width
        shapes = self.words.site_shapes(words, len(self.alphabet))
        for at in range(HIGHWAYS):
            shapes |= {f"highway.{at}.change": (width, width), f"highway.{at}.gate": (width, width)}
        similarity = (ABOUT_PARAGRAPH, ABOUT_QUESTION, ABOUT_BOTH)
        return {
            **shapes,
            **self.layer_sites(self.recurrent, hidden),
            **dict.fromkeys(similarity, (1, 2 * hidden)),
            FIRST: (1, 10 * hidden),
            LAST: (1, 10 * hidden),
        }

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        width, vectors = self.words.width, self.words.bias_shapes()
        for at in range(HIGHWAYS):
            vectors |= {f"highway.{at}.change.bias": (width,), f"highway.{at}.gate.bias": (width,)}
        return {**vectors, **self.layer_vectors(self.recurrent, self.hidden)}

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Reader:
        from lmcore.networks.reader import Reader  # which is made of these settings

        return Reader(self, weights, biases)
