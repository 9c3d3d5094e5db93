"""The shape of a network, as settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, SerializeAsAny

from lmcore.settings import Family
from lmcore.task import Task

if TYPE_CHECKING:
    from lmcore.leaf import Leaf
    from lmcore.network import Network
    from lmcore.units import Slice, Units
    from lmcore.weight import Weight

LANGUAGE = "language"  # the kind that files and databases had before there were others


class NetworkSettings(Family):
    """The shape of a network, all but its vocabulary: its sites and biases follow from it."""

    task: ClassVar[Task]

    def completed(self, data: Any) -> Self:
        """The settings with all that follows from the data: labels, letters."""
        return self

    def check(self) -> None:
        """Raises ValueError where no data can have completed the settings so."""

    @property
    def units(self) -> tuple[int, ...]:
        """How many units each layer has that recipes can address by its index."""
        return ()

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes that a range may be a share of, by name."""
        return {}

    def removable(self, embedding: bool) -> list[Units]:
        """The hidden units that may be removed, layer by layer, and where `embedding` its columns;
        of matrices that are stored densely."""
        return []

    @property
    def readers(self) -> dict[str, tuple[Slice, ...]]:
        """What reads the output of each layer that may be projected, its own matrices first, and
        what reads the rows of the embedding, where these may become fewer numbers; but for a tied
        decoder, whose matrix the embedding is."""
        return {}

    @property
    def projectable(self) -> dict[str, int]:
        """The layers that may be projected, and how wide the output of each is."""
        return {}

    def projected(self, widths: Mapping[str, int]) -> Self:
        """The settings with projections of these widths, of some of the layers."""
        return self

    def embedded(self, size: int) -> Self:
        """The settings with an embedding of so many columns."""
        return self

    @property
    def tied_to(self) -> int | None:
        """How wide what a decoder reads is whose matrix is the embedding; None without one."""
        return None

    @property
    def decoded(self) -> str | None:
        """The layer, of those that may be projected, that such a decoder reads."""
        return None

    def resized(self, shapes: Mapping[str, tuple[int, int]]) -> Self:
        """The settings of the same network after units were removed: its matrices have these shapes
        now."""
        return self

    @property
    def fixed(self) -> tuple[str, ...]:
        """The sites that no training changes."""
        return ()

    @property
    @abstractmethod
    def looked_up(self) -> tuple[str, ...]:
        """The sites whose rows are looked up, and nothing else is done with them."""

    @abstractmethod
    def site_shapes(self, words: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) for a vocabulary of so many words, in the order of the file."""

    def every_site(self, words: int) -> dict[str, tuple[int, int]]:
        """Every site that a recipe may address, those that reshaped layers make included."""
        return self.site_shapes(words)

    @abstractmethod
    def bias_shapes(self, words: int) -> dict[str, tuple[int]]:
        """Bias or other vector -> (size,), in the order of the file."""

    @abstractmethod
    def network(self, weights: dict[str, Weight], biases: dict[str, Leaf]) -> Network:
        """The network of these weights and biases."""

    def weights(self, words: int) -> int:
        """How many numbers the dense network holds; 4 bytes each are its dense size."""
        matrices = sum(rows * columns for rows, columns in self.site_shapes(words).values())
        return matrices + sum(size for (size,) in self.bias_shapes(words).values())


def _pick(given: Any) -> Any:
    if isinstance(given, Mapping) and "kind" not in given:
        given = {"kind": LANGUAGE, **given}
    return NetworkSettings.pick(given)


AnyNetwork = Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(_pick)]
