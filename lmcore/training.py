"""Train and fine-tune: one loop for both, resumable to the bit."""

from __future__ import annotations

import hashlib
import json
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lmcore.dropout import Dropout
from lmcore.files import content_key, write_atomic
from lmcore.frozen import frozen
from lmcore.leaf import Leaf, same_mask
from lmcore.lessons import Lessons
from lmcore.network import Network, parameters
from lmcore.optimizers import UPDATERS
from lmcore.progress import DivergedError, Observer, Regularizer, TrainingRecord, ignore
from lmcore.training_settings import FineTuningSettings, TrainingSettings

CHECKPOINT_SECONDS = 30.0
SUM = "sha256"  # in the metadata of a state: of all else


def train(
    model: Network,
    examples: Any,
    settings: TrainingSettings,
    seed: int,
    validate: Callable[[Network], float] | None = None,
    observe: Observer = ignore,
    checkpoint: Path | None = None,
    teacher: Network | None = None,
    regularizer: Regularizer | None = None,
    begun: Path | None = None,
    lost: float | None = None,
) -> TrainingRecord:
    """Train `model` in place on the examples, from which it makes its own `lessons`.

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

    Raises DivergedError where the loss or a weight is no number, and UserError where there are too
    few examples for one update.
    """
    rates = _starting_rates(settings, lost)
    keys = _keys(settings, seed, model, teacher)
    with (
        frozen(model, settings.frozen),
        closing(model.lessons(examples, settings, seed, teacher)) as lessons,
    ):
        run = _Run(model, lessons, settings, seed, keys, validate, checkpoint, regularizer, rates)
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


class _Run:
    """One training, all its state in one place, so that it can be saved and restored."""

    def __init__(
        self,
        model: Network,
        lessons: Lessons,
        settings: TrainingSettings,
        seed: int,
        keys: list[str],
        validate: Callable[[Network], float] | None,
        checkpoint: Path | None,
        regularizer: Regularizer | None,
        rates: list[float],
    ) -> None:
        self.model, self.lessons, self.settings = model, lessons, settings
        self.keys, self.rates = keys, rates
        self.validate, self.checkpoint, self.regularizer = validate, checkpoint, regularizer
        self.ends = [round(end * lessons.updates) for end in settings.ends]
        self.updates = self.ends[-1]
        self.parameters = {n: one for n, one in parameters(model).items() if one.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.updater = UPDATERS[settings.optimizer](
            list(self.parameters.values()), settings.clip, settings.weight_decay
        )
        self.leaves = {n: leaf for n, leaf in model.named_modules() if isinstance(leaf, Leaf)}
        self.mean = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.record = TrainingRecord()
        self.saved_at = time.monotonic()
        torch.manual_seed(seed)

    def update(self) -> None:
        started = time.perf_counter()
        settings, record = self.settings, self.record
        model = self.model.train()
        drop = settings.dropout
        model.dropout = Dropout(drop.kind, drop.rate, drop.rows, drop.recurrent).train()
        loss = self.lessons.loss(record.updates, self._samples())
        if not math.isfinite(nats := float(loss.detach())):
            raise DivergedError(f"the loss became {nats} at update {record.updates}")
        if self.regularizer and (penalty := self.regularizer.penalty()) is not None:
            loss = loss + penalty
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        part, start, end = self._part()
        begun = start / self.lessons.updates  # epochs
        epoch, epochs = record.updates / self.lessons.updates - begun, settings.ends[part] - begun
        rate = self.rates[part] * settings.schedule.scale(epoch, epochs)
        with torch.no_grad():
            self.updater.step(gradients, rate, record.updates)
            for leaf in self.leaves.values():
                if leaf.data.requires_grad:
                    leaf.updated(rate)
            if self.regularizer:
                self._regularize(self.regularizer, rate)
            record.updates += 1
            record.tokens += self.lessons.tokens
            average_from = end - round(settings.average * (end - start))
            if record.updates > average_from:
                count = record.updates - average_from
                for name, value in self.parameters.items():
                    self.mean[name].lerp_(value, 1 / count)
            if record.updates == end > average_from and not self.validate:
                self._set(self.mean)
                self._keep_zeros()
        record.seconds += time.perf_counter() - started
        if record.updates % self.lessons.updates == 0 and self.validate:
            record.valid_measures.append(self.validate(model))
        if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            self.save()

    def _part(self) -> tuple[int, int, int]:
        """The part that the next update belongs to: its index, its first update, its end."""
        part = bisect_right(self.ends, self.record.updates)
        return part, self.ends[part - 1] if part else 0, self.ends[part]

    def _samples(self) -> bool:
        """Whether the next update may look at some of the words only."""
        if self.settings.sampled is None:
            return False
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
        if broken := self.model.broken:
            raise DivergedError(f"{broken[0]} holds infinities or NaN after the last update")

    def _set(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(values[name])

    def _always_saved(self) -> dict[str, Tensor]:
        """What every state of this training has, each tensor of the same shape."""
        tensors = {f"weight.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"mean.{name}": value for name, value in self.mean.items()}
        tensors |= self.lessons.carried()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
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
        signed = {**metadata, SUM: _sum_of(copies, metadata)}
        write_atomic(self.checkpoint, save(copies, signed))
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
            if metadata.pop(SUM) != _sum_of(tensors, metadata):
                return False
            record = TrainingRecord(**json.loads(metadata["record"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return False
        if not all(_alike(tensors.get(n), value) for n, value in self._always_saved().items()):
            return False
        self.record = record
        self._set({name: tensors[f"weight.{name}"] for name in self.parameters})
        device = self.device
        for name, leaf in self.leaves.items():
            if f"mask.{name}" in tensors:
                leaf.mask = tensors[f"mask.{name}"].to(device)
            leaf.restore_codes(_below(f"codes.{name}/", tensors))
        self.mean = {
            name: tensors[f"mean.{name}"].to(value.device)
            for name, value in self.parameters.items()
        }
        self.updater.restore(_below("updater.", tensors))
        self.lessons.restore(tensors)
        torch.set_rng_state(tensors["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
        return True


def _keys(
    settings: TrainingSettings, seed: int, model: Network, teacher: Network | None
) -> list[str]:
    """What the states of each part of a training are known by: the same whatever parts come
    after."""
    taught = [_shapes(teacher)] if teacher else []
    return [content_key(part.plain(), seed, _shapes(model), *taught) for part in _parts(settings)]


def _parts(settings: TrainingSettings) -> list[TrainingSettings]:
    """The settings of the training up to each of its ends."""
    if not isinstance(settings, FineTuningSettings):
        return [settings]
    return [settings.up_to(rung) for rung in range(len(settings.ends))]


def _shapes(model: Network) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in parameters(model).items()}


def _alike(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and one.dtype == other.dtype


def _sum_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A checksum of a state: of its tensors' names and bytes, and of its metadata."""
    found = hashlib.sha256(json.dumps([sorted(tensors), sorted(metadata.items())]).encode())
    for name in sorted(tensors):
        found.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, without it."""
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
