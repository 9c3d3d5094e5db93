"""Methods that reshape a model's layers before its sites are compressed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from lmcore.codec import Ladder
from lmcore.model_settings import ModelSettings

if TYPE_CHECKING:
    from lmcore.calibration import Calibration
    from lmcore.network import N
    from lmcore.network_settings import NetworkSettings

V = TypeVar("V")  # the method's setting


class LayerMethod(ABC, Generic[V]):
    """A method that makes another dense model of the dense model: one of fewer units or narrower
    layers, or the same one in other axes.

    A subclass in a file of `lmcore/compress` is known by existing. In a recipe its setting stands
    below `layers`, under the method's `field`; None means that the layers stay as they are.
    """

    field: ClassVar[str]  # the name of its setting
    kind: ClassVar[str]  # the name of the method in reports
    order: ClassVar[int]  # methods of a lower order act first
    setting: ClassVar[Any]  # the type of the setting, for pydantic
    acts_on: ClassVar[tuple[str, ...] | None] = None  # the sites it reshapes, None for all
    is_open: ClassVar[bool] = False  # whether a training decides what sizes are left
    keeps_size: ClassVar[bool] = False  # whether it is taken although no size changes
    # Whether recipes have the setting as null, too. A new method's is left out where it is None:
    # else the keys of all earlier recipes with layers would change.
    is_written_as_null: ClassVar[bool] = False
    known: ClassVar[dict[str, LayerMethod[Any]]] = {}  # by field

    def __init_subclass__(cls) -> None:
        taken = LayerMethod.known.setdefault(cls.field, cls())
        if type(taken) is not cls:
            name = type(taken).__name__
            raise TypeError(f"{cls.__name__} and {name} both have the setting {cls.field!r}")

    def examples(self, model: ModelSettings) -> Ladder:
        """Settings for a language model, each as {field: setting}, the contract is tested with."""
        raise NotImplementedError(
            f"{type(self).__name__} has no examples for the tests of the contract"
        )

    def sentence(self, plain: Any) -> str:
        """What the method does with such a setting, for reports, from it as plain data."""
        return f"{self.field}: {plain}"

    @abstractmethod
    def canonical(self, asked: V, model: NetworkSettings, words: int) -> V | None:
        """What the setting amounts to for this model, None where it changes nothing.

        Raises UserError where the model cannot have it. A setting is taken only where the whole
        model gets smaller by it, or where the method `keeps_size`; the caller looks after that.
        """

    def shape(self, value: V, model: NetworkSettings) -> NetworkSettings:
        """The model's settings with a canonical setting, but for sizes that are open."""
        return model

    @abstractmethod
    def apply(self, value: V, dense: N, calibration: Calibration) -> tuple[N, Calibration]:
        """The reshaped dense model, and what the text tells of it.

        `dense` may have fewer units than the model that the setting is canonical for.
        """


def layer_methods() -> list[LayerMethod[Any]]:
    """Every method, in the order in which they act."""
    return sorted(LayerMethod.known.values(), key=lambda method: (method.order, method.field))
