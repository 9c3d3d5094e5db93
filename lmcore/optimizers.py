"""What turns gradients into updates: plain SGD and Adam, both after a clip of the norm."""

from __future__ import annotations

import torch
from torch import Tensor

DECAY_UPDATES = 32  # updates between two decays of a matrix whose gradient is a few rows


class SGD:
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


class Adam:
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


UPDATERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam}  # by `optimizer`


def _clip_scale(gradients: tuple[Tensor, ...], clip: float) -> float:
    given = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(given))))
    return min(1.0, clip / (norm + 1e-12))
