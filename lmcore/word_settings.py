"""What networks of sentences know of a word, as settings."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from lmcore import letters, sites
from lmcore.cells import LSTM
from lmcore.letters import LetterSettings
from lmcore.model_settings import Size
from lmcore.settings import Settings
from lmcore.sites import BACKWARD, FORWARD, VECTORS

MIXTURE, SCALE = "mixture", "mixture.scale"
DIRECTIONS = (FORWARD, BACKWARD)


class ContextSettings(Settings):
    """The layers of a bidirectional language model that reads each sentence."""

    layers: Annotated[int, Field(ge=1, le=10)] = 2
    hidden: Size

    def prefixes(self, direction: str) -> list[str]:
        """What the names of the sites of each layer begin with."""
        return [sites.layer_name(direction, layer) for layer in range(self.layers)]

    def site_shapes(self) -> dict[str, tuple[int, int]]:
        return {
            f"{prefix}.{name}": shape
            for direction in DIRECTIONS
            for prefix in self.prefixes(direction)
            for name, shape in LSTM().sites(self.hidden, self.hidden, self.hidden).items()
        }

    def bias_shapes(self) -> dict[str, tuple[int]]:
        layers = {
            f"{prefix}.{name}": shape
            for direction in DIRECTIONS
            for prefix in self.prefixes(direction)
            for name, shape in LSTM().vectors(self.hidden).items()
        }
        return {**layers, MIXTURE: (self.layers + 1,), SCALE: (1,)}


class Part(NamedTuple):
    """Numbers side by side: so many, and whose units they are, where these may be removed.

    `one_by_one`: each unit was compared or multiplied on its own, so that no projection can stand
    between.
    """

    width: int
    units: str | None = None
    one_by_one: bool = False


class WordSettings(Settings):
    """What is known of a word, side by side: a row of the trained `embedding`, of fixed `vectors`,
    what its `letters` say. With a `context`, in place of the embedding a mixture of the layers of a
    bidirectional language model, whose embedding it is."""

    embedding: Size | None = None
    vectors: Size | None = None
    letters: LetterSettings | None = None
    context: ContextSettings | None = None

    @model_validator(mode="after")
    def _context_fits(self) -> Self:
        if self.embedding is None and self.vectors is None:
            raise ValueError("embedding or vectors: at least one of them is a number")
        if self.context and self.context.hidden != self.embedding:
            raise ValueError(
                f"context.hidden: got {self.context.hidden}; layers are mixed with the embedding, "
                f"which has {self.embedding or 0}"
            )
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes that a range may be a share of, by name."""
        return {"embedding": self.embedding} if self.embedding else {}

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a word is, side by side."""
        embedding = self.embedding or 0
        first = Part(2 * embedding) if self.context else Part(embedding, sites.EMBEDDING)
        filters = self.letters.filters if self.letters else 0
        every = (first, Part(self.vectors or 0), Part(filters))
        return tuple(part for part in every if part.width)

    @property
    def width(self) -> int:
        """How many numbers a word is."""
        return sum(part.width for part in self.parts)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The sites that no training changes."""
        return (VECTORS,) if self.vectors else ()

    @property
    def looked_up(self) -> tuple[str, ...]:
        """The sites whose rows are looked up, and nothing else is done with them."""
        embedding = (sites.EMBEDDING,) if self.embedding else ()
        return (*embedding, *self.fixed, *((letters.EMBEDDED,) if self.letters else ()))

    def site_shapes(self, words: int, alphabet: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in), for a vocabulary and an alphabet of so many."""
        return {
            **({sites.EMBEDDING: (words, self.embedding)} if self.embedding else {}),
            **({VECTORS: (words, self.vectors)} if self.vectors else {}),
            **(self.letters.site_shapes(alphabet) if self.letters else {}),
            **(self.context.site_shapes() if self.context else {}),
        }

    def bias_shapes(self) -> dict[str, tuple[int]]:
        return {
            **(self.letters.bias_shapes if self.letters else {}),
            **(self.context.bias_shapes() if self.context else {}),
        }
