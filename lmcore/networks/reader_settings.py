"""The shape of a reader that answers questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lmcore.networks.sentence_settings import Directions, SentenceSettings
from lmcore.sites import both_directions
from lmcore.task import READING
from lmcore.word_settings import Part

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.reader import Reader
    from lmcore.weight import Weight

HIGHWAYS = 2
PHRASE, ENDING = both_directions("phrase", 0), both_directions("ending", 0)
# what the similarity of a token of the paragraph and one of the question is made of
ABOUT_PARAGRAPH, ABOUT_QUESTION, ABOUT_BOTH = "match.paragraph", "match.question", "match.both"
SIMILARITY = ABOUT_PARAGRAPH, ABOUT_QUESTION, ABOUT_BOTH
FIRST, LAST = "first", "last"


class ReaderSettings(SentenceSettings):
    """The shape of BiDAF: words pass two highways, a phrase layer reads the paragraph and the
    question, attention flows both ways, `layers` model what was found, and another the ending."""

    task = READING
    kind: Literal["reader"] = "reader"
    layers: Annotated[int, Field(ge=1, le=10)] = 2

    @property
    def looked_up(self) -> tuple[str, ...]:
        return (*super().looked_up, ABOUT_BOTH)  # it scales, and multiplies nothing

    @property
    def layers_of(self) -> tuple[Directions, ...]:
        return (PHRASE, *self.modelling, ENDING)

    @property
    def modelling(self) -> tuple[Directions, ...]:
        """The modelling layers."""
        return tuple(both_directions("modelling", layer) for layer in range(self.layers))

    @property
    def reads(self) -> dict[str, tuple[Part, ...]]:
        # as in Wen et al., no unit of the phrase layer is removed
        phrase = tuple(Part(part.width) for part in self.output_of(PHRASE))
        found = phrase * 4
        reads = {
            **dict.fromkeys(PHRASE, (Part(self.words.width),)),
            **dict.fromkeys(SIMILARITY, phrase),
        }
        before = found
        for both in self.modelling:
            reads |= dict.fromkeys(both, before)
            before, products = self.output_of(both), self.output_of(both, one_by_one=True)
        return {
            **reads,
            FIRST: found + before,
            **dict.fromkeys(ENDING, found + before * 2 + products),
            LAST: found + self.output_of(ENDING),
        }

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        width = self.words.width
        shapes = self.words.site_shapes(words, len(self.alphabet))
        for at in range(HIGHWAYS):
            shapes |= {f"highway.{at}.change": (width, width), f"highway.{at}.gate": (width, width)}
        scores = (*SIMILARITY, FIRST, LAST)
        return {**shapes, **self.layer_sites, **{one: (1, self.inputs_of(one)) for one in scores}}

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        width, vectors = self.words.width, self.words.bias_shapes()
        for at in range(HIGHWAYS):
            vectors |= {f"highway.{at}.change.bias": (width,), f"highway.{at}.gate.bias": (width,)}
        return {**vectors, **self.layer_vectors}

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Reader:
        from lmcore.networks.reader import Reader  # which is made of these settings

        return Reader(self, weights, biases)
