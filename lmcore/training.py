"""Train and fine-tune: one loop for both, resumable to the bit."""

from __future__ import annotations

import json
import math
import time
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lmcore.cells import State
from lmcore.errors import UserError
from lmcore.files import content_key, write_atomic
from lmcore.loss import distillation
from lmcore.model import Dropout, LanguageModel, parameters
from lmcore.settings import Family, Settings
from lmcore.weight import Leaf, same_mask

CHECKPOINT_SECONDS = 30.0

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


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
    # came later: left out at its default, so that the keys of earlier recipes stay
    recurrent: Annotated[Rate, Field(exclude_if=lambda rate: rate == 0)] = 0.0


class TrainingSettings(Settings):
    """How a model is trained, or fine-tuned. The loss is a mean per token, in nats."""

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

    @property
    def ends(self) -> tuple[float, ...]:
        """The epochs after which a part of the training ends, in order; each has the schedule."""
        return (self.epochs,)


class DistillationSettings(Settings):
    """See `lmcore.loss.distillation`; a mix of 0 is none."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5


class FineTuningSettings(TrainingSettings):
    """How a compressed model is trained on; with `distillation`, after the dense model too.

    `rungs` are the ends, in epochs, of shorter fine-tunings that this one goes on from: at each
    the rate has fallen as at the end, and rises again.
    """

    # came later: left out where there is none, so that the keys of earlier recipes stay
    distillation: Annotated[
        DistillationSettings | None, Field(exclude_if=lambda given: given is None)
    ] = None
    rungs: Annotated[tuple[Positive, ...], Field(exclude_if=lambda rungs: not rungs)] = ()

    @property
    def ends(self) -> tuple[float, ...]:
        return (*self.rungs, self.epochs)

    def up_to(self, rung: int) -> Self:
        """The shorter fine-tuning that ends at that one of the `ends`."""
        return self.model_copy(update={"epochs": self.ends[rung], "rungs": self.rungs[:rung]})

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.ends)):
            raise ValueError(
                f"rungs: got {list(self.rungs)}; they ascend, below epochs, {self.epochs}"
            )
        if self.rungs and self.average:
            raise ValueError("rungs: an average goes over one training; with rungs it is 0")
        return self


class DenseTrainingSettings(TrainingSettings):
    """Training from a random start, uniform in [-init, init]."""

    init: Positive


class DivergedError(Exception):
    """The loss stopped being a number."""


class Observer(Protocol):
    """Told after every update of how many; may raise to stop."""

    def __call__(self, record: TrainingRecord, updates: int) -> None: ...


class Regularizer(Protocol):
    """What acts on the weights of a training beside its loss: penalties, proximal steps, masks.

    It is a function of the parameters, the leaves' masks and `progress` alone: of an interrupted
    training those are kept and nothing else of it. Leaves are changed by their `data` and `mask`;
    what a mask leaves out is made zero after `after_update`, and codes are assigned anew where a
    mask changed.
    """

    def penalty(self) -> Tensor | None:
        """Called before each update; a differentiable scalar that is added to the loss before
        gradients are clipped, or None."""

    def after_update(self, rate: float, progress: float) -> None:
        """Called, without gradients, after each update with its rate and the fraction that is
        done of all updates up to the first rung, in (0, 1]."""


@dataclass
class TrainingRecord:
    """What a training did."""

    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    valid_perplexities: list[float] = field(default_factory=list)  # after each whole epoch
    averaged: bool = False  # whether the mean of the last weights was taken, being better


def check_text(settings: TrainingSettings, tokens: int, where: str) -> None:
    """Raises UserError where a training text of so many tokens has not one window a stream."""
    if tokens // settings.batch <= settings.window:
        raise UserError(
            f"{where}.batch {settings.batch} x {where}.window {settings.window}: the training "
            f"text of {tokens:,} tokens is too short for them"
        )


def ignore(record: TrainingRecord, updates: int) -> None:
    """Observe nothing."""


def train(
    model: LanguageModel,
    ids: Tensor,
    settings: TrainingSettings,
    seed: int,
    validate: Callable[[LanguageModel], float] | None = None,
    observe: Observer = ignore,
    checkpoint: Path | None = None,
    teacher: LanguageModel | None = None,
    regularizer: Regularizer | None = None,
    begun: Path | None = None,
) -> TrainingRecord:
    """Train `model` in place on the token ids (tokens,).

    The text is cut into `batch` parallel streams, the state is carried across windows. `validate`
    gives the validation perplexity after each whole epoch, and decides at the end whether the
    average of the last weights is taken. With a `checkpoint` file the training goes on where an
    earlier process with the same settings stopped, with the same result to the bit; `begun` is
    that of a training up to an earlier one of the settings' rungs, for where there is none. The
    `teacher` is the model that distillation learns from; afterwards it is as it was before.
    Raises DivergedError, and UserError where the text is shorter than one window.
    """
    with _teaching(teacher, settings, model) as lesson:
        run = _Run(model, ids, settings, seed, validate, checkpoint, lesson, regularizer)
        if not (checkpoint and run.resume(checkpoint)) and begun:
            run.resume(begun)
        while run.record.updates < run.updates:
            run.update()
            observe(run.record, run.updates)
        if checkpoint:
            run.save(checkpoint)
        run.finish()
    return run.record


class _Lesson:
    """The teacher of a distillation, and its state, carried over the same windows."""

    def __init__(self, teacher: LanguageModel, settings: DistillationSettings, batch: int) -> None:
        self.teacher, self.settings, self.batch = teacher, settings, batch
        self.restart()

    def restart(self) -> None:
        """A zero state."""
        self.state = self.teacher.zero_state(self.batch)

    def loss(self, z: Tensor, matrix: Tensor, bias: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        """The student's loss, of its `head` on ids (time, batch) with targets alike."""
        with torch.no_grad():
            hidden, self.state = self.teacher(ids, self.state)
            theirs, their_matrix, their_bias = self.teacher.head(hidden)
            logits = torch.addmm(their_bias, theirs, their_matrix.T)  # (time x batch, words)
        temperature, mix = self.settings.temperature, self.settings.mix
        return distillation(z, matrix, bias, targets.flatten(), logits, temperature, mix)


@contextmanager
def _teaching(
    teacher: LanguageModel | None, settings: TrainingSettings, model: LanguageModel
) -> Iterator[_Lesson | None]:
    """The lesson that the settings ask for; meanwhile the teacher is in eval mode, on the model's
    device."""
    wanted = settings.distillation if isinstance(settings, FineTuningSettings) else None
    if (teacher is None) != (wanted is None):
        given = "no teacher" if teacher is None else "a teacher"
        raise ValueError(f"finetuning.distillation is {wanted}, and train got {given}")
    if teacher is None or wanted is None:
        yield None
        return
    mode, home = teacher.training, teacher.decoder_bias.data.device
    try:
        teacher.eval().to(model.decoder_bias.data.device)
        yield _Lesson(teacher, wanted, settings.batch)
    finally:
        teacher.to(home).train(mode)


class _Run:
    """One training, all its state in one place, so that it can be saved and restored."""

    def __init__(
        self,
        model: LanguageModel,
        ids: Tensor,
        settings: TrainingSettings,
        seed: int,
        validate: Callable[[LanguageModel], float] | None,
        checkpoint: Path | None,
        lesson: _Lesson | None,
        regularizer: Regularizer | None,
    ) -> None:
        self.model, self.settings = model, settings
        self.validate, self.checkpoint = validate, checkpoint
        self.lesson, self.regularizer = lesson, regularizer
        taught = [_shapes(lesson.teacher)] if lesson else []
        self.keys = [  # a state within a part is the same whatever parts come after
            content_key(part.plain(), seed, _shapes(model), *taught) for part in _parts(settings)
        ]
        device = model.decoder_bias.data.device
        check_text(settings, len(ids), "training")
        length = len(ids) // settings.batch
        self.streams = ids[: length * settings.batch].view(settings.batch, length).T.to(device)
        self.windows = (length - 1) // settings.window  # a shorter last window is left out
        self.ends = [round(end * self.windows) for end in settings.ends]
        self.updates = self.ends[-1]
        self.average_from = self.updates - round(settings.average * self.updates)
        self.parameters = parameters(model)
        self.updater = _UPDATERS[settings.optimizer](
            list(self.parameters.values()), settings.clip, settings.weight_decay
        )
        self.leaves = {n: leaf for n, leaf in model.named_modules() if isinstance(leaf, Leaf)}
        self.mean = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.state = model.zero_state(settings.batch)
        self.record = TrainingRecord()
        self.saved_at = time.monotonic()
        torch.manual_seed(seed)

    def update(self) -> None:
        started = time.perf_counter()
        settings, record = self.settings, self.record
        model = self.model.train()
        drop = settings.dropout
        model.dropout = Dropout(drop.kind, drop.rate, drop.rows, drop.recurrent).train()
        window = record.updates % self.windows
        if window == 0:
            self.state = model.zero_state(settings.batch)
            if self.lesson:
                self.lesson.restart()
        first = window * settings.window
        text = self.streams[first : first + settings.window + 1]
        loss, state = self._loss(text[:-1], text[1:])
        if not math.isfinite(nats := float(loss.detach())):
            raise DivergedError(f"the loss became {nats} at update {record.updates}")
        if self.regularizer and (penalty := self.regularizer.penalty()) is not None:
            loss = loss + penalty
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        part = bisect_right(self.ends, record.updates)
        start = (self.ends[part - 1] if part else 0) / self.windows
        epoch, epochs = record.updates / self.windows - start, settings.ends[part] - start
        rate = settings.rate * settings.schedule.scale(epoch, epochs)
        with torch.no_grad():
            self.updater.step(gradients, rate)
            for leaf in self.leaves.values():
                leaf.updated()
            if self.regularizer:
                self._regularize(self.regularizer, rate)
            self.state = [tuple(value.detach() for value in layer) for layer in state]
            record.updates += 1
            record.tokens += settings.window * settings.batch
            if record.updates > self.average_from:
                count = record.updates - self.average_from
                for name, value in self.parameters.items():
                    self.mean[name].lerp_(value, 1 / count)
        record.seconds += time.perf_counter() - started
        if window + 1 == self.windows and self.validate:
            record.valid_perplexities.append(self.validate(model))
        if self.checkpoint and time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            self.save(self.checkpoint)

    def _loss(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, list[State]]:
        """The loss of the text itself, ids and targets (time, batch), and the state after it."""
        if self.lesson is None:
            return self.model.loss(ids, targets, self.state)
        hidden, state = self.model(ids, self.state)
        return self.lesson.loss(*self.model.head(hidden), ids, targets), state

    def _regularize(self, regularizer: Regularizer, rate: float) -> None:
        before = {name: mask.clone() for name, mask in self._masks().items()}
        first = next(end for end in self.ends if end)
        regularizer.after_update(rate, min(1.0, (self.record.updates + 1) / first))
        self._keep_zeros()
        for name, leaf in self.leaves.items():
            same = same_mask(leaf.mask, before.get(name))
            if not same and not leaf.codec.exact_in_training:
                leaf.eval().codes()  # else they stay those of the mask before for some updates
                leaf.train()

    def _masks(self) -> dict[str, Tensor]:
        return {name: leaf.mask for name, leaf in self.leaves.items() if leaf.mask is not None}

    @torch.no_grad()
    def _keep_zeros(self) -> None:
        """Where a mask changed, neither momentum nor the average are zero by themselves."""
        for name, mask in self._masks().items():
            self.leaves[name].data.mul_(mask)

    def finish(self) -> None:
        """Take the average of the last weights where it validates better, and clean up."""
        record = self.record
        if self.settings.average and self.validate and record.updates:
            last = {name: value.detach().clone() for name, value in self.parameters.items()}
            before = self.validate(self.model)
            self._set(self.mean)
            if self.regularizer:
                self._keep_zeros()
            record.averaged = self.validate(self.model) < before
            if not record.averaged:
                self._set(last)
        self.model.eval()

    def _set(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(values[name])

    def save(self, path: Path) -> None:
        tensors = {f"weight.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"mean.{name}": value for name, value in self.mean.items()}
        tensors |= {f"updater.{name}": value for name, value in self.updater.state().items()}
        tensors |= _named("state", self.state)
        if self.lesson:
            tensors |= _named("teacher", self.lesson.state)
        tensors |= {f"mask.{name}": mask for name, mask in self._masks().items()}
        for name, leaf in self.leaves.items():
            tensors |= {f"codes.{name}/{key}": value for key, value in leaf.codes_state().items()}
        tensors["random"] = torch.get_rng_state()
        copies = {  # for nothing may be shared, as a zero state is
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        part = bisect_left(self.ends, self.record.updates)
        metadata = {"key": self.keys[part], "record": json.dumps(self.record.__dict__)}
        write_atomic(path, save(copies, metadata))
        self.saved_at = time.monotonic()

    def resume(self, path: Path) -> bool:
        """Go on from a checkpoint; a damaged or foreign one is as good as none: False."""
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                if metadata.get("key") not in self.keys:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return False
        self.record = TrainingRecord(**json.loads(metadata["record"]))
        self._set({name: tensors[f"weight.{name}"] for name in self.parameters})
        device = self.streams.device
        for name, leaf in self.leaves.items():
            if f"mask.{name}" in tensors:
                leaf.mask = tensors[f"mask.{name}"].to(device)
            leaf.restore_codes(_below(f"codes.{name}/", tensors))
        self.mean = {
            name: tensors[f"mean.{name}"].to(value.device)
            for name, value in self.parameters.items()
        }
        self.updater.restore(_below("updater.", tensors))
        self.state = _states("state", tensors, self.state, device)
        if self.lesson:
            self.lesson.state = _states("teacher", tensors, self.lesson.state, device)
        torch.set_rng_state(tensors["random"])
        return True


def _parts(settings: TrainingSettings) -> list[TrainingSettings]:
    """The settings of the training up to each of its ends."""
    if not isinstance(settings, FineTuningSettings):
        return [settings]
    return [settings.up_to(rung) for rung in range(len(settings.ends))]


def _shapes(model: LanguageModel) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in parameters(model).items()}


def _named(name: str, states: list[State]) -> dict[str, Tensor]:
    """The states of the layers, each tensor by a name; `_states` makes them again."""
    return {
        f"{name}.{layer}.{part}": value
        for layer, state in enumerate(states)
        for part, value in enumerate(state)
    }


def _states(
    name: str, tensors: dict[str, Tensor], like: list[State], device: torch.device
) -> list[State]:
    return [
        tuple(tensors[f"{name}.{layer}.{part}"].to(device) for part in range(len(state)))
        for layer, state in enumerate(like)
    ]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, without it."""
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


class _SGD:
    """Plain SGD; the clip is folded into the step, the gradients are read once."""

    def __init__(self, parameters: list[Tensor], clip: float, weight_decay: float) -> None:
        self.parameters, self.clip, self.weight_decay = parameters, clip, weight_decay

    def step(self, gradients: tuple[Tensor, ...], rate: float) -> None:
        if self.weight_decay:
            torch._foreach_mul_(self.parameters, 1 - rate * self.weight_decay)
        scale = _clip_scale(gradients, self.clip)
        torch._foreach_add_(self.parameters, gradients, alpha=-rate * scale)

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass


class _Adam:
    """torch's Adam with decoupled weight decay (AdamW), after the clip."""

    def __init__(self, parameters: list[Tensor], clip: float, weight_decay: float) -> None:
        self.parameters, self.clip = parameters, clip
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=weight_decay)

    def step(self, gradients: tuple[Tensor, ...], rate: float) -> None:
        scale = _clip_scale(gradients, self.clip)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient * scale
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        return {
            f"{index}.{name}": value
            for index, parameter in enumerate(self.parameters)
            for name, value in self.optimizer.state[parameter].items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        for index, parameter in enumerate(self.parameters):
            self.optimizer.state[parameter] = {
                name: state[f"{index}.{name}"].to("cpu" if name == "step" else parameter.device)
                for name in ("step", "exp_avg", "exp_avg_sq")
                if f"{index}.{name}" in state
            }


_UPDATERS: dict[str, type[_SGD] | type[_Adam]] = {"sgd": _SGD, "adam": _Adam}


def _clip_scale(gradients: tuple[Tensor, ...], clip: float) -> float:
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    return min(1.0, clip / (norm + 1e-12))
