"""Train and fine-tune: one loop for both, resumable to the bit."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lmcore.cells import State
from lmcore.files import content_key, write_atomic
from lmcore.leaf import Leaf, same_mask
from lmcore.loss import distillation, logits_of
from lmcore.model import Dropout, LanguageModel, parameters
from lmcore.progress import DivergedError, Observer, Regularizer, TrainingRecord, ignore
from lmcore.sampling import Negatives
from lmcore.training_settings import (
    DistillationSettings,
    FineTuningSettings,
    TrainingSettings,
    check_text,
)

CHECKPOINT_SECONDS = 30.0
DECAY_UPDATES = 32  # updates between two decays of a matrix whose gradient is a few rows


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
    lost: float | None = None,
) -> TrainingRecord:
    """Train `model` in place on the token ids (tokens,).

    The text is cut into `batch` parallel streams; the state is carried across windows.

    - `validate` gives the validation perplexity after each whole epoch. At the end it decides
      whether the average of the last weights is taken.
    - `observe` may raise, to stop the training.
    - `checkpoint` is the file where the state of this training is kept: now and then, and at its
      stop and end. Where the file has a state of a training with the same settings, the training
      goes on from there, with the same result to the bit.
    - `begun` is the checkpoint of a shorter training, up to an earlier rung of the same settings.
      The training goes on from `begun` where `checkpoint` has no state of its own.
    - `teacher` is the model that distillation learns from. Afterwards it is as it was before.
    - `regularizer` acts on the weights beside the loss.
    - `lost` is what the model lost by its compression, in nats a token: see
      `lmcore.calibration.Calibration.lost`. A fine-tuning with `full_rate_at` needs it.

    Raises DivergedError where the loss is no number, and UserError where the text is shorter than
    one window a stream.
    """
    rates = _starting_rates(settings, lost)
    with _teaching(teacher, settings, model) as lesson:
        run = _Run(model, ids, settings, seed, validate, checkpoint, lesson, regularizer, rates)
        if not (checkpoint and run.resume(checkpoint)) and begun:
            run.resume(begun)
        while run.record.updates < run.updates:
            run.update()
            try:
                observe(run.record, run.updates)
            except BaseException:
                run.save()
                raise
        run.save()
        run.finish()
    return run.record


def _starting_rates(settings: TrainingSettings, lost: float | None) -> list[float]:
    """The rate that each part of the training begins with."""
    if not isinstance(settings, FineTuningSettings) or settings.full_rate_at is None:
        return [settings.rate] * len(settings.ends)
    if lost is None:
        raise ValueError("finetuning.full_rate_at is set, and train was not told what was lost")
    return [settings.starting_rate(part, lost) for part in range(len(settings.ends))]


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
            logits = logits_of(theirs, their_matrix, their_bias)  # (time x batch, words)
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
        rates: list[float],
    ) -> None:
        self.model, self.settings, self.rates = model, settings, rates
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
        self.parameters = parameters(model)
        self.updater = _UPDATERS[settings.optimizer](
            list(self.parameters.values()), settings.clip, settings.weight_decay
        )
        self.leaves = {n: leaf for n, leaf in model.named_modules() if isinstance(leaf, Leaf)}
        sampled = settings.sampled
        self.negatives = Negatives(sampled, self.streams, model.words) if sampled else None
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
        part, start, end = self._part()
        begun = start / self.windows  # epochs
        epoch, epochs = record.updates / self.windows - begun, settings.ends[part] - begun
        rate = self.rates[part] * settings.schedule.scale(epoch, epochs)
        with torch.no_grad():
            self.updater.step(gradients, rate, record.updates)
            for leaf in self.leaves.values():
                leaf.updated(rate)
            if self.regularizer:
                self._regularize(self.regularizer, rate)
            self.state = [tuple(value.detach() for value in layer) for layer in state]
            record.updates += 1
            record.tokens += settings.window * settings.batch
            average_from = end - round(settings.average * (end - start))
            if record.updates > average_from:
                count = record.updates - average_from
                for name, value in self.parameters.items():
                    self.mean[name].lerp_(value, 1 / count)
            if record.updates == end > average_from and not self.validate:
                self._set(self.mean)
                self._keep_zeros()
        record.seconds += time.perf_counter() - started
        if window + 1 == self.windows and self.validate:
            record.valid_perplexities.append(self.validate(model))
        if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            self.save()

    def _part(self) -> tuple[int, int, int]:
        """The part that the next update belongs to: its index, its first update, its end."""
        part = bisect_right(self.ends, self.record.updates)
        return part, self.ends[part - 1] if part else 0, self.ends[part]

    def _loss(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, list[State]]:
        """The loss of the text itself, ids and targets (time, batch), and the state after it."""
        if self.negatives and self._samples():
            return self.model.sampled_loss(ids, targets, self.state, *self.negatives.draw())
        if self.lesson is None:
            return self.model.loss(ids, targets, self.state)
        hidden, state = self.model(ids, self.state)
        return self.lesson.loss(*self.model.head(hidden), ids, targets), state

    def _samples(self) -> bool:
        """Whether the next update looks at some of the words only."""
        assert self.settings.sampled
        _, start, end = self._part()
        return self.record.updates - start < round((1 - self.settings.sampled.full) * (end - start))

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
        """Zero the masked entries again: momentum and averaging bring them back."""
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

    def _always_saved(self) -> dict[str, Tensor]:
        """What every state of this training has, each tensor of the same shape."""
        tensors = {f"weight.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"mean.{name}": value for name, value in self.mean.items()}
        tensors |= _named("state", self.state)
        if self.lesson:
            tensors |= _named("teacher", self.lesson.state)
        if self.streams.is_cuda:
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.streams.device)
        return tensors | {"random": torch.get_rng_state()}

    def save(self) -> None:
        """Write the state to the checkpoint, if there is one."""
        if self.checkpoint is None:
            return
        tensors = self._always_saved()
        tensors |= {f"updater.{name}": value for name, value in self.updater.state().items()}
        tensors |= {f"mask.{name}": mask for name, mask in self._masks().items()}
        for name, leaf in self.leaves.items():
            tensors |= {f"codes.{name}/{key}": value for key, value in leaf.codes_state().items()}
        copies = {  # for nothing may be shared, as a zero state is
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        part = bisect_left(self.ends, self.record.updates)
        metadata = {"key": self.keys[part], "record": json.dumps(self.record.__dict__)}
        write_atomic(self.checkpoint, save(copies, metadata))
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
            record = TrainingRecord(**json.loads(metadata["record"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return False
        if not all(_alike(tensors.get(n), value) for n, value in self._always_saved().items()):
            return False
        self.record = record
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
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
        return True


def _parts(settings: TrainingSettings) -> list[TrainingSettings]:
    """The settings of the training up to each of its ends."""
    if not isinstance(settings, FineTuningSettings):
        return [settings]
    return [settings.up_to(rung) for rung in range(len(settings.ends))]


def _shapes(model: LanguageModel) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in parameters(model).items()}


def _alike(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and one.dtype == other.dtype


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
    """Plain SGD; the clip is folded into the step, the gradients are read once.

    A sparse gradient changes its rows alone. The weight decay of such a parameter, which is of all
    rows, comes every `DECAY_UPDATES` updates, for as many at once.
    """

    def __init__(self, parameters: list[Tensor], clip: float, weight_decay: float) -> None:
        self.parameters, self.clip, self.weight_decay = parameters, clip, weight_decay

    def step(self, gradients: tuple[Tensor, ...], rate: float, update: int) -> None:
        pairs = list(zip(self.parameters, gradients, strict=True))
        whole = [(value, gradient) for value, gradient in pairs if not gradient.is_sparse]
        by_row = [(value, gradient) for value, gradient in pairs if gradient.is_sparse]
        values = [value for value, _ in whole]
        if self.weight_decay:
            keep = 1 - rate * self.weight_decay
            torch._foreach_mul_(values, keep)
            if by_row and update % DECAY_UPDATES == 0:
                torch._foreach_mul_([value for value, _ in by_row], keep**DECAY_UPDATES)
        scale = _clip_scale(gradients, self.clip)
        torch._foreach_add_(values, [gradient for _, gradient in whole], alpha=-rate * scale)
        for value, gradient in by_row:
            value.add_(gradient, alpha=-rate * scale)

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass


class _Adam:
    """torch's Adam with decoupled weight decay (AdamW), after the clip. Every row moves in every
    update, those of a zero gradient too."""

    def __init__(self, parameters: list[Tensor], clip: float, weight_decay: float) -> None:
        self.parameters, self.clip = parameters, clip
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=weight_decay)

    def step(self, gradients: tuple[Tensor, ...], rate: float, update: int) -> None:
        scale = _clip_scale(gradients, self.clip)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            whole = gradient.to_dense() if gradient.is_sparse else gradient
            parameter.grad = whole * scale
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
    given = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(given))))
    return min(1.0, clip / (norm + 1e-12))
