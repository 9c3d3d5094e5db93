"""The shape of a bidirectional language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field

from lmcore import sites
from lmcore.cells import LSTM, AnyCell
from lmcore.model_settings import ModelSettings, Size
from lmcore.network_settings import NetworkSettings
from lmcore.settings import later
from lmcore.sites import BACKWARD, FORWARD
from lmcore.task import LANGUAGE

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.networks.bilm import BiLM
    from lmcore.weight import Weight

DIRECTIONS = (FORWARD, BACKWARD)
S = TypeVar("S")


class BiLMSettings(NetworkSettings):
    """The shape of two language models, one of which reads from the end. They share the embedding,
    which is tied to the decoder, and the way there from the last layers."""

    task = LANGUAGE
    kind: Literal["bilm"] = "bilm"
    layers: Annotated[int, Field(ge=1, le=10)]
    hidden: Size
    embedding: Size
    cell: AnyCell = later(LSTM())

    @property
    def one(self) -> ModelSettings:
        """The shape of one of the two."""
        return ModelSettings(
            layers=self.layers,
            hidden=self.hidden,
            embedding=self.embedding,
            tied=True,
            cell=self.cell,
        )

    @property
    def sizes(self) -> dict[str, int]:
        return {"embedding": self.embedding}

    @property
    def looked_up(self) -> tuple[str, ...]:
        return ()  # the decoder multiplies with the embedding

    def named(self, direction: str) -> dict[str, str]:
        """Each site and vector of the model of a direction -> its name here."""
        prefix = f"{self.cell.prefix}."
        return {
            name: f"{direction}.{name.removeprefix(prefix)}" if name.startswith(prefix) else name
            for name in (*self.one.site_shapes(1), *self.one.bias_shapes(1))
        }

    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        return self._both(self.one.site_shapes(words))

    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        return self._both(self.one.bias_shapes(words))

    def _both(self, shapes: dict[str, S]) -> dict[str, S]:
        """Those of the layers of each direction, then the shared ones."""
        found = {
            named: shapes[name]
            for direction in DIRECTIONS
            for name, named in self.named(direction).items()
            if name in shapes and name != named
        }
        return {**found, **{name: shape for name, shape in shapes.items() if name in sites.SHARED}}

    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> BiLM:
        from lmcore.networks.bilm import BiLM  # which is made of these settings

        return BiLM(self, weights, biases)
