"""Intrinsic sparse structures: group Lasso on hidden units, and their removal (Wen et al. 2018).

Group k of a layer is all that its unit k touches: row k of every gate in each of its matrices,
column k of its recurrent matrices, and column k of what comes next. Biases are left out: without
columns a unit says nothing, whatever its bias. A unit whose whole group is zero is removed, and
the layer is then a smaller dense one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
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

    @field_validator("training")
    @classmethod
    def _no_average(cls, training: TrainingSettings) -> TrainingSettings:
        if training.average:
            raise ValueError("average: an average of weights has no units that are zero; it is 0")
        return training


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
        for site in self._crossed:
            total = total - self._crossings(matrices[site]).square().sum(0)
        return total

    def scale_(self, matrices: dict[str, Tensor], factors: Tensor) -> None:
        """Multiply each group by its factor (count,), in place."""
        crossings = {site: self._crossings(matrices[site]) * factors for site in self._crossed}
        for part in self.parts:
            matrix = matrices[part.site]
            every = factors.repeat(matrix.shape[part.axis] // self.count)
            matrix.mul_(every.unsqueeze(1 - part.axis))
        for site, scaled in crossings.items():
            self._crossings(matrices[site]).copy_(scaled)

    @property
    def _crossed(self) -> list[str]:
        """The sites of which a group has rows and columns."""
        columns = {part.site for part in self.parts if part.axis == COLUMNS}
        return [part.site for part in self.parts if part.axis == ROWS and part.site in columns]

    def _crossings(self, matrix: Tensor) -> Tensor:
        """(blocks, count): where each unit's rows and its column meet, as a view."""
        return matrix.view(-1, self.count, self.count).diagonal(dim1=1, dim2=2)


def units_of(model: ModelSettings, embedding: bool) -> list[Units]:
    """The groups of a model with matrices that are stored densely."""
    prefix, sites = model.cell.prefix, model.site_shapes(words=1)
    found, last = [], f"{prefix}.{model.layers - 1}."
    columns = [Part("embedding", COLUMNS), Part(f"{prefix}.0.input", COLUMNS)]
    for layer, count in enumerate(model.units):
        own = f"{prefix}.{layer}."
        parts = [Part(site, ROWS) for site in _matrices_of(own, sites)]
        if f"{own}projection" in sites:
            parts.append(Part(f"{own}projection", COLUMNS))
        else:
            parts += _output_columns(own, sites)
            if own != last:
                parts.append(Part(f"{prefix}.{layer + 1}.input", COLUMNS))
            elif not model.tied:
                parts.append(Part("decoder", COLUMNS))
            elif "decoder.projection" in sites:
                parts.append(Part("decoder.projection", COLUMNS))
            else:  # tied, as wide as the embedding: one set of units
                parts += columns
        found.append(Units(f"{prefix}.{layer}", count, tuple(parts)))
    if not embedding or Part("embedding", COLUMNS) in found[-1].parts:
        return found
    if "decoder.projection" in sites:
        columns.append(Part("decoder.projection", ROWS))
    elif model.tied:  # the last projection writes what the decoder and its own layer read
        columns += [Part(f"{last}projection", ROWS), *_output_columns(last, sites)]
    return [*found, Units("embedding", model.embedding, tuple(columns))]


def _matrices_of(layer: str, sites: Iterable[str]) -> list[str]:
    """The sites whose rows are of a layer's units."""
    return [site for site in sites if site.startswith(layer) and site != f"{layer}projection"]


def _output_columns(layer: str, sites: Iterable[str]) -> list[Part]:
    """What reads a layer's output in the layer itself."""
    return [Part(site, COLUMNS) for site in _matrices_of(layer, sites) if site != f"{layer}input"]


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
    device: str = "cpu",
) -> LanguageModel:
    """What is left of the dense model, which stays as it is, after training with the penalty.

    It is trained on `device`; the other arguments are those of `training.train`. Raises
    DivergedError.
    """
    matrices = {site: weight.dense().detach() for site, weight in dense.sites.items()}
    biases = {name: Leaf(leaf.value().detach()) for name, leaf in dense.biases.items()}
    model = dense_model(dense.settings, matrices, biases).to(device)
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
    return remove_units(model.cpu(), settings.embedding)


def remove_units(model: LanguageModel, embedding: bool) -> LanguageModel:
    """The dense model without the units whose whole group is zero; its output is the same.

    Of a layer with no unit left, the last one stays; of one with a projection, one more than that
    is wide. Where a tied embedding would become as wide as what its `decoder.projection` reads, so
    that there could be none, one unit more stays too.
    """
    settings, prefix = model.settings, model.settings.cell.prefix
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    vectors = {name: leaf.value().detach() for name, leaf in model.biases.items()}
    groups = units_of(settings, embedding)
    alive = {units.name: units.squares(matrices) > 0 for units in groups}
    widths = settings.projection or (0,) * settings.layers
    for name, flags in alive.items():
        _keep(flags, 1 if name == "embedding" else widths[int(name.removeprefix(f"{prefix}."))] + 1)
    if "decoder.projection" in matrices:
        _keep_unequal(settings, alive)
    for units in groups:
        kept = alive[units.name].nonzero().squeeze(1)
        for part in units.parts:
            matrices[part.site] = _take(matrices[part.site], part.axis, kept, units.count)
        for name in vectors:
            if name.startswith(f"{units.name}."):
                vectors[name] = _take(vectors[name], 0, kept, units.count)
    layers = [f"{prefix}.{layer}" for layer in range(settings.layers)]
    after = {
        "hidden": tuple(int(alive[name].sum()) for name in layers),
        "projection": tuple(len(matrices.get(f"{name}.projection", ())) for name in layers),
        "embedding": matrices["embedding"].shape[1],
    }
    biases = {name: Leaf(value) for name, value in vectors.items()}
    shaped = ModelSettings.model_validate({**settings.model_dump(), **after})
    return dense_model(shaped, matrices, biases)


def _keep(alive: Tensor, least: int) -> None:
    """Let the last dead units live until there are so many."""
    dead = (~alive).nonzero().squeeze(1)
    alive[dead[len(dead) - max(0, least - int(alive.sum())) :]] = True


def _keep_unequal(settings: ModelSettings, alive: dict[str, Tensor]) -> None:
    """Where embedding and last output would become equally wide, let one more unit live."""
    columns = alive.get("embedding", torch.ones(settings.embedding, dtype=torch.bool))
    output = alive[f"{settings.cell.prefix}.{settings.layers - 1}"]
    if settings.projection and settings.projection[-1]:
        output = torch.ones(settings.projection[-1], dtype=torch.bool)
    if columns.sum() == output.sum():
        fewer = output if columns.all() else columns
        _keep(fewer, int(fewer.sum()) + 1)


def _take(tensor: Tensor, axis: int, kept: Tensor, count: int) -> Tensor:
    """The rows or columns k, count + k, ... of the kept units."""
    blocks = tensor.shape[axis] // count
    index = (torch.arange(blocks).unsqueeze(1) * count + kept).flatten()
    return tensor.index_select(axis, index)
