"""What a model learns from, update after update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcore.loss import distillation, logits_of
from lmcore.sampling import Negatives
from lmcore.training_settings import (
    DistillationSettings,
    FineTuningSettings,
    TrainingSettings,
    check_text,
)

if TYPE_CHECKING:
    from lmcore.cells import State
    from lmcore.model import LanguageModel
    from lmcore.network import Network


class Lessons(ABC):
    """What a training shows a model: so many updates an epoch, one after another, and the loss of
    each. Afterwards `close` is called."""

    updates: int  # of an epoch
    tokens: int  # that an update sees

    @abstractmethod
    def loss(self, update: int, sampled: bool) -> Tensor:
        """The mean loss of the update, in nats, with a gradient. Updates are counted from 0 on over
        all epochs, and come in turn. `sampled`: by some of the words only, where the settings have
        sampled softmax."""

    @abstractmethod
    def carried(self) -> dict[str, Tensor]:
        """What the next update goes on from, by name: each time of the same names and shapes."""

    @abstractmethod
    def restore(self, carried: Mapping[str, Tensor]) -> None:
        """Go on from what `carried` gave."""

    @abstractmethod
    def close(self) -> None:
        """Leave everything but the model as it was before."""


class Windows(Lessons):
    """The windows of a text, whose state is carried from one to the next.

    The text is cut into `batch` parallel streams. A shorter last window is left out.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Tensor,
        settings: TrainingSettings,
        teacher: LanguageModel | None,
    ) -> None:
        """`ids` (tokens,). Raises UserError where the text is shorter than one window a stream."""
        check_text(settings, len(ids), "training")
        self._model, self._window, self._batch = model, settings.window, settings.batch
        device = model.decoder_bias.data.device
        length = len(ids) // settings.batch
        self._streams = ids[: length * settings.batch].view(settings.batch, length).T.to(device)
        self.updates = (length - 1) // settings.window
        self.tokens = settings.update_tokens
        wanted = settings.sampled
        self._negatives = Negatives(wanted, self._streams, model.words) if wanted else None
        self._teacher = _teacher(teacher, settings, model)
        self._state = model.zero_state(settings.batch)

    def loss(self, update: int, sampled: bool) -> Tensor:
        window, model = update % self.updates, self._model
        if window == 0:
            self._state = model.zero_state(self._batch)
            if self._teacher:
                self._teacher.restart()
        first = window * self._window
        text = self._streams[first : first + self._window + 1]
        ids, targets, before = text[:-1], text[1:], self._state
        if self._negatives and sampled:
            loss, after = model.sampled_loss(ids, targets, before, *self._negatives.draw())
        elif self._teacher:
            hidden, after = model(ids, before)
            loss = self._teacher.loss(*model.head(hidden), ids, targets)
        else:
            loss, after = model.loss(ids, targets, before)
        self._state = [tuple(value.detach() for value in layer) for layer in after]
        return loss

    def carried(self) -> dict[str, Tensor]:
        taught = _named("teacher", self._teacher.state) if self._teacher else {}
        return _named("state", self._state) | taught

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        device = self._streams.device
        self._state = _states("state", carried, self._state, device)
        if self._teacher:
            self._teacher.state = _states("teacher", carried, self._teacher.state, device)

    def close(self) -> None:
        if self._teacher:
            self._teacher.close()


class _Teacher:
    """The teacher of a distillation and its state, carried over the same windows. Until it is
    closed, the teacher is in eval mode, on the model's device."""

    def __init__(
        self,
        teacher: LanguageModel,
        settings: DistillationSettings,
        batch: int,
        device: torch.device,
    ) -> None:
        self._before = teacher.training, teacher.decoder_bias.data.device
        self._model, self._settings, self._batch = teacher.eval().to(device), settings, batch
        self.restart()

    def restart(self) -> None:
        """A zero state."""
        self.state = self._model.zero_state(self._batch)

    def loss(self, z: Tensor, matrix: Tensor, bias: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        """The student's loss, of its `head` on ids (time, batch) with targets alike."""
        with torch.no_grad():
            hidden, self.state = self._model(ids, self.state)
            theirs, their_matrix, their_bias = self._model.head(hidden)
            logits = logits_of(theirs, their_matrix, their_bias)  # (time x batch, words)
        temperature, mix = self._settings.temperature, self._settings.mix
        return distillation(z, matrix, bias, targets.flatten(), logits, temperature, mix)

    def close(self) -> None:
        mode, home = self._before
        self._model.to(home).train(mode)


def _teacher(
    teacher: LanguageModel | None, settings: TrainingSettings, model: LanguageModel
) -> _Teacher | None:
    """The teacher that the settings ask for."""
    wanted = distillation_of(settings, teacher)
    if teacher is None or wanted is None:
        return None
    return _Teacher(teacher, wanted, settings.batch, model.decoder_bias.data.device)


def distillation_of(
    settings: TrainingSettings, teacher: Network | None
) -> DistillationSettings | None:
    """What the settings ask of a teacher. Raises ValueError where there is one and they ask for
    none, or the other way round."""
    wanted = settings.distillation if isinstance(settings, FineTuningSettings) else None
    if (teacher is None) != (wanted is None):
        given = "no teacher" if teacher is None else "a teacher"
        raise ValueError(f"finetuning.distillation is {wanted}, and train got {given}")
    return wanted


def _named(name: str, states: list[State]) -> dict[str, Tensor]:
    """The states of the layers, each tensor by a name; `_states` makes them again."""
    return {
        f"{name}.{layer}.{part}": value
        for layer, state in enumerate(states)
        for part, value in enumerate(state)
    }


def _states(
    name: str, tensors: Mapping[str, Tensor], like: list[State], device: torch.device
) -> list[State]:
    return [
        tuple(tensors[f"{name}.{layer}.{part}"].to(device) for part in range(len(state)))
        for layer, state in enumerate(like)
    ]
