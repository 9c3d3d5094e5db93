"""How a model is trained and fine-tuned, as settings."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lmcore.errors import UserError
from lmcore.files import absolute_file
from lmcore.settings import Family, PathText, Settings, explain, later

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]
LEAST_LOST = 0.1  # nats a token, in the rate of a fine-tuning


class Schedule(Family):
    """How the rate falls."""

    @abstractmethod
    def scale(self, epoch: float, epochs: float) -> float:
        """The factor of the rate after `epoch` of `epochs`."""


class Stepped(Schedule):
    """Full rate for `hold` epochs, then x `factor` each epoch (Zaremba et al. 2014)."""

    kind: Literal["stepped"] = "stepped"
    hold: Annotated[int, Field(ge=0)]
    factor: Annotated[float, Field(gt=0, le=1)]

    def scale(self, epoch: float, epochs: float) -> float:
        return float(self.factor ** max(0, math.floor(epoch) + 1 - self.hold))


class Linear(Schedule):
    """Full rate for the fraction `hold` of the training, then linearly down to `final` of it."""

    kind: Literal["linear"] = "linear"
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def scale(self, epoch: float, epochs: float) -> float:
        fall = max(0.0, epoch / epochs - self.hold) / (1 - self.hold)
        return 1 - fall * (1 - self.final)


class DropoutSettings(Settings):
    """See `lmcore.model.Dropout`."""

    kind: Literal["element", "sequence"]
    rate: Rate
    rows: Rate = 0.0
    recurrent: Rate = later(0.0)


class SampledSoftmaxSettings(Settings):
    """Training steps that look at some of the words only: see `lmcore.loss.sampled_cross_entropy`.

    A window's predictions share `negatives` words in the mean. They are drawn as often as the
    words occur in the training text (`unigram`), or as Zipf's law says for the words' ranks there
    (`log_uniform`). The last steps, a share of `full` of each part of the training, look at all
    words.
    """

    negatives: Annotated[int, Field(ge=1)]
    proposal: Literal["unigram", "log_uniform"] = "unigram"
    full: Rate = 0.1


class TrainingSettings(Settings):
    """How a model is trained, or fine-tuned. The loss is a mean per token, in nats.

    The text is cut into `batch` streams, and an update sees `window` tokens of each. `rate` is the
    rate at the start of the `schedule`; gradients are clipped to a norm of `clip`. `average` is the
    fraction of the updates, at the end, whose weights are averaged. A dense training takes the
    average if it validates better than the last weights; a fine-tuning, which never looks at the
    validation text, takes it at the end of each of its parts. `frozen` are names or patterns of
    sites and vectors that stay as they are.
    """

    epochs: Annotated[float, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)] = 20
    window: Annotated[int, Field(ge=1)] = 35
    optimizer: Literal["sgd", "adam"] = "sgd"
    rate: Positive
    schedule: Annotated[SerializeAsAny[Schedule], BeforeValidator(Schedule.pick)] = Linear()
    clip: Positive = 0.25
    dropout: DropoutSettings
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sampled: SampledSoftmaxSettings | None = later(None)
    frozen: tuple[str, ...] = later(())

    @property
    def update_tokens(self) -> int:
        """How many tokens an update sees."""
        return self.batch * self.window

    @property
    def ends(self) -> tuple[float, ...]:
        """The epochs after which a part of the training ends, in order; each has the schedule."""
        return (self.epochs,)


class DistillationSettings(Settings):
    """See `lmcore.loss.distillation`; a mix of 0 is none."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5


class FineTuningSettings(TrainingSettings):
    """How a compressed model is trained on; with `distillation`, after the dense model too.

    `rungs` are the ends, in epochs, of shorter fine-tunings that this one goes on from. The rate
    runs through its whole schedule up to each rung, and starts again there.

    `full_rate_at` makes the rate follow from what the compression lost, in nats a token of the
    training text, and from how long a part of the training is: the part begins with the whole
    `rate` where its epochs times these nats come to `full_rate_at` or more, and with a share of it
    in proportion where they come to less. What lost less than `LEAST_LOST` counts as that. A rate
    that mends a model that lost much would drive one that lost little away from where it is, the
    more so the shorter the time in which the rate falls.
    """

    distillation: DistillationSettings | None = later(None)
    rungs: tuple[Positive, ...] = later(())
    full_rate_at: Positive | None = later(None)

    @property
    def ends(self) -> tuple[float, ...]:
        return (*self.rungs, self.epochs)

    def canonical(self) -> FineTuningSettings | None:
        """What this fine-tuning amounts to: None without epochs, no distillation without a mix."""
        if not self.epochs:
            return None
        if self.distillation and not self.distillation.mix:
            return self.model_copy(update={"distillation": None})
        return self

    def starting_rate(self, part: int, lost: float) -> float:
        """The rate at the start of one of the parts, of a model that lost so many nats a token."""
        if self.full_rate_at is None:
            return self.rate
        epochs = self.ends[part] - (self.ends[part - 1] if part else 0.0)
        return self.rate * min(1.0, max(LEAST_LOST, lost) * epochs / self.full_rate_at)

    def up_to(self, rung: int) -> Self:
        """The shorter fine-tuning that ends at that one of the `ends`."""
        return self.model_copy(update={"epochs": self.ends[rung], "rungs": self.rungs[:rung]})

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.ends)):
            raise ValueError(
                f"rungs: got {list(self.rungs)}; they ascend, below epochs, {self.epochs}"
            )
        if self.sampled and self.distillation and self.distillation.mix:
            raise ValueError(
                "sampled: a distillation compares the probabilities of all words; "
                "set sampled or distillation, not both"
            )
        return self


class DenseTrainingSettings(TrainingSettings):
    """Training from a random start, uniform in [-init, init].

    With `start`, the bundle of another network or the name of a published study, the parts that
    both have begin as they are there. With `vectors`, a file of vectors of words, the fixed vectors
    are those.
    """

    init: Positive
    start: PathText | None = later(None)
    vectors: PathText | None = later(None)

    def absolute(self) -> Self:
        """The same settings with paths that do not depend on the folder they are typed in."""
        given = {"start": self.start, "vectors": self.vectors}
        return self.model_copy(
            update={name: absolute_file(path) for name, path in given.items() if path is not None}
        )


class ImportedSettings(Settings):
    """No training here: the weights came from elsewhere, and `sha256` is that of their numbers and
    words (`lmcore.imports.model.ImportedModel.sha256`)."""

    kind: Literal["imported"] = "imported"
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    update_tokens: ClassVar[int] = 20 * 35  # of its trials' fine-tunings, about


def _beginning(given: Any) -> Any:
    """The settings of a training or of an import, with the messages of that one alone."""
    if not isinstance(given, Mapping):
        return given
    kind = ImportedSettings if given.get("kind") == "imported" else DenseTrainingSettings
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        inside = "\n".join(explain(error, ""))
        raise PydanticCustomError("inside", "{inside}", {"inside": inside}) from None


AnyTraining = Annotated[
    SerializeAsAny[DenseTrainingSettings | ImportedSettings], BeforeValidator(_beginning)
]


def check_text(
    settings: TrainingSettings, tokens: int, where: str, text: str = "the training text"
) -> None:
    """Raises UserError where a text of so many tokens has not one window a stream.

    `where` is the settings' name, and `text` the text's, as a person knows them.
    """
    needed = settings.batch * (settings.window + 1)
    if tokens < needed:
        raise UserError(
            f"{where}.batch {settings.batch} x {where}.window {settings.window} need a training "
            f"text of {needed:,} tokens, and {text} is too short, with {tokens:,}. "
            f"Give a longer text, or a smaller {where}.batch"
        )
