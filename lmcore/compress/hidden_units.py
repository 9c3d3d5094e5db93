"""Intrinsic sparse structures: group Lasso on hidden units, and their removal (Wen et al. 2018).

Group k of a layer is all that its unit k touches: row k of every gate in each of its matrices,
column k of its recurrent matrices, and column k of what comes next. Biases are left out: without
columns a unit says nothing, whatever its bias. A unit whose whole group is zero is removed, and
the layer is then a smaller dense one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lmcore.model import LanguageModel, ModelSettings, dense_model
from lmcore.settings import Settings
from lmcore.training import Observer, TrainingSettings, ignore, train
from lmcore.weight import Dense, Leaf

ROWS, COLUMNS = 0, 1
EPSILON = 1e-8  # under the root, as in the paper's code


class UnitsSettings(Settings):
    """How units are removed: the dense model is trained on with a penalty on groups.

    `strength` is lambda for a loss that is a mean per token. `method` threshold adds lambda times
    the sum of the groups' norms to the loss and zeroes weights below `threshold` after each
    update, as the paper does; proximal shrinks each group's norm by rate x lambda instead.
    `embedding`: whether the embedding's columns, with those of the first input matrix, are
    groups too. With a tied decoder they are those of the last layer's units anyway.
    """

    strength: Annotated[float, Field(gt=0)]
    method: Literal["proximal", "threshold"] = "proximal"
    threshold: Annotated[float, Field(gt=0)] = 1e-4
    embedding: bool = False
    training: TrainingSettings


@dataclass(frozen=True)
class Part:
    """Where the members of a group lie: the rows or columns k, n + k, ... of a site's matrix."""

    site: str
    axis: int


@dataclass(frozen=True)
class Units:
    """Units that can be removed, `count` of them: a layer's, or the embedding's columns."""

    name: str  # "lstm.0", "embedding"
    count: int
    parts: tuple[Part, ...]

    def squares(self, matrices: dict[str, Tensor]) -> Tensor:
        """(count,): the sum of squares of each group."""
        total: Tensor | None = None
        for part in self.parts:
            matrix = matrices[part.site].square().sum(1 - part.axis)
            squares = matrix.view(-1, self.count).sum(0)
            total = squares if total is None else total + squares
        assert total is not None
        return total

    def scale_(self, matrices: dict[str, Tensor], factors: Tensor) -> None:
        """Multiply each group by its factor (count,), in place."""
        for part in self.parts:
            matrix = matrices[part.site]
            every = factors.repeat(matrix.shape[part.axis] // self.count)
            matrix.mul_(every.unsqueeze(1 - part.axis))


def units_of(model: ModelSettings, embedding: bool) -> list[Units]:
    """The groups of a model with matrices that are stored densely."""
    prefix, sites = model.cell.prefix, model.site_shapes(words=1)
    found = []
    columns = [Part("embedding", COLUMNS), Part(f"{prefix}.0.input", COLUMNS)]
    for layer, count in enumerate(model.units):
        own = [site for site in sites if site.startswith(f"{prefix}.{layer}.")]
        projection = f"{prefix}.{layer}.projection"
        parts = [Part(site, ROWS) for site in own if site != projection]
        if projection in own:
            parts.append(Part(projection, COLUMNS))
        else:
            parts += [Part(site, COLUMNS) for site in own if not site.endswith(".input")]
            if layer + 1 < model.layers:
                parts.append(Part(f"{prefix}.{layer + 1}.input", COLUMNS))
            elif "decoder" in sites:
                parts.append(Part("decoder", COLUMNS))
            elif "decoder.projection" in sites:
                parts.append(Part("decoder.projection", COLUMNS))
            else:  # tied, as wide as the embedding: one set of units
                parts += columns
        found.append(Units(f"{prefix}.{layer}", count, tuple(parts)))
    with_last = model.tied and "decoder.projection" not in sites and not any(model.projection)
    if embedding and not with_last:
        rows = [Part("decoder.projection", ROWS)] if "decoder.projection" in sites else []
        found.append(Units("embedding", model.embedding, (*columns, *rows)))
    return found


class GroupLasso:
    """The penalty while training; a `training.Regularizer`. A group that is zero stays zero."""

    def __init__(self, model: LanguageModel, settings: UnitsSettings) -> None:
        self.settings = settings
        self.units = units_of(model.settings, settings.embedding)
        self.matrices: dict[str, Tensor] = {}
        for site, weight in model.sites.items():
            assert isinstance(weight, Dense), "units are removed from dense models"
            self.matrices[site] = weight.leaves["matrix"].data
        self._dead: list[Tensor] = []

    def penalty(self) -> Tensor | None:
        """lambda sum_k sqrt(sum w^2 + epsilon), differentiable; None for proximal steps."""
        with torch.set_grad_enabled(self.settings.method == "threshold"):
            squares = [units.squares(self.matrices) for units in self.units]
        self._dead = [one.detach() == 0 for one in squares]
        if self.settings.method == "proximal":
            return None
        return (
            self.settings.strength
            * torch.stack([(one + EPSILON).sqrt().sum() for one in squares]).sum()
        )

    def after_update(self, rate: float, progress: float) -> None:
        """The proximal step, or the threshold."""
        with torch.no_grad():
            if self.settings.method == "threshold":
                for matrix in self.matrices.values():
                    matrix.masked_fill_(matrix.abs() < self.settings.threshold, 0.0)
                factors = [torch.ones_like(dead, dtype=torch.float32) for dead in self._dead]
            else:
                shrink = rate * self.settings.strength
                norms = [units.squares(self.matrices).sqrt() for units in self.units]
                factors = [(1 - shrink / norm.clamp(min=1e-30)).clamp(min=0) for norm in norms]
            for units, factor, dead in zip(self.units, factors, self._dead, strict=True):
                units.scale_(self.matrices, factor.masked_fill(dead, 0.0))


def with_fewer_units(
    dense: LanguageModel,
    text: Tensor,
    settings: UnitsSettings,
    seed: int,
    observe: Observer = ignore,
    checkpoint: Path | None = None,
) -> LanguageModel:
    """What is left of the dense model, which stays as it is, after training with the penalty.

    Arguments are those of `training.train`. Raises DivergedError.
    """
    matrices = {site: weight.dense().detach() for site, weight in dense.sites.items()}
    biases = {name: Leaf(leaf.value().detach()) for name, leaf in dense.biases.items()}
    model = dense_model(dense.settings, matrices, biases)
    lasso = GroupLasso(model, settings)
    train(
        model,
        text,
        settings.training,
        seed,
        observe=observe,
        checkpoint=checkpoint,
        regularizer=lasso,
    )
    return remove_units(model, settings.embedding)


def remove_units(model: LanguageModel, embedding: bool) -> LanguageModel:
    """The dense model without the units whose whole group is zero; its output is the same.

    Of a layer with no unit left, the last one stays.
    """
    settings = model.settings
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    vectors = {name: leaf.value().detach() for name, leaf in model.biases.items()}
    squares = {units.name: units.squares(matrices) for units in units_of(settings, embedding)}
    hidden, size = list(settings.units), settings.embedding
    for units in units_of(settings, embedding):
        alive = squares[units.name] > 0
        if not alive.any():
            alive[-1] = True
        kept = alive.nonzero().squeeze(1)
        for part in units.parts:
            matrices[part.site] = _take(matrices[part.site], part.axis, kept, units.count)
        if units.name == "embedding" or Part("embedding", COLUMNS) in units.parts:
            size = len(kept)
        if units.name != "embedding":
            hidden[int(units.name.split(".")[1])] = len(kept)
            for name in vectors:
                if name.startswith(f"{units.name}."):
                    vectors[name] = _take(vectors[name], 0, kept, units.count)
    shaped = ModelSettings.model_validate(
        {**settings.model_dump(), "hidden": tuple(hidden), "embedding": size}
    )
    biases = {name: Leaf(value) for name, value in vectors.items()}
    return dense_model(shaped, matrices, biases)


def _take(tensor: Tensor, axis: int, kept: Tensor, count: int) -> Tensor:
    """The rows or columns k, count + k, ... of the kept units."""
    blocks = tensor.shape[axis] // count
    index = (torch.arange(blocks).unsqueeze(1) * count + kept).flatten()
    return tensor.index_select(axis, index)
