"""Intrinsic sparse structures: group Lasso on hidden units, and their removal (Wen et al. 2018).

Group k of a layer is all that its unit k touches: row k of every gate in each of its matrices,
column k of its recurrent matrices, and column k of what comes next. Biases are left out: nothing
reads a unit without columns, whatever its bias. A unit whose whole group is zero is removed; what
is left is a smaller dense layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from lmcore import sites
from lmcore.codec import Ladder
from lmcore.layer_methods import LayerMethod
from lmcore.lazy import torch
from lmcore.model_settings import ModelSettings
from lmcore.progress import Observer, ignore
from lmcore.settings import Settings
from lmcore.structure import DenseStructure
from lmcore.training_settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.calibration import Calibration
    from lmcore.model import LanguageModel

ROWS, COLUMNS = 0, 1
EPSILON = 1e-8  # under the root, as in the paper's code


class UnitsSettings(Settings):
    """How units are removed: the dense model is trained on with a penalty on groups.

    - `strength` is lambda, for a loss that is a mean per token in nats.
    - `method` threshold adds lambda times the sum of the groups' norms to the loss, and after each
      update makes the weights below `threshold` zero, as the paper does. proximal changes no loss:
      after each update it shrinks each group's norm by rate x lambda.
    - `embedding` says whether the embedding's columns, with those of the first input matrix, are
      groups too. With a tied decoder they belong to the last layer's groups anyway.
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
            raise ValueError(
                f"average: got {training.average}; a unit is hardly ever zero in an average of "
                f"weights; set it to 0"
            )
        return training


class FewerUnits(LayerMethod[UnitsSettings]):
    """Hidden units removed by group Lasso.

    `with_fewer_units` trains and removes them. The training is dear, so trials share its result:
    `build` starts from the model that is left, and nothing remains to be applied.
    """

    field: ClassVar[str] = "units"
    kind: ClassVar[str] = "iss"
    order: ClassVar[int] = 0
    setting: ClassVar[Any] = UnitsSettings
    is_open: ClassVar[bool] = True
    is_written_as_null: ClassVar[bool] = True

    def examples(self, model: ModelSettings) -> Ladder:
        dropout = {"kind": "element", "rate": 0.0}
        training = {"epochs": 0.1, "batch": 4, "window": 5, "rate": 1.0, "dropout": dropout}
        return [{self.field: {"strength": 1e-3, "training": training}}]

    def sentence(self, plain: Any) -> str:
        return f"hidden units removed by group Lasso of strength {plain['strength']:.3g}"

    def canonical(
        self, asked: UnitsSettings, model: ModelSettings, words: int
    ) -> UnitsSettings | None:
        return asked if asked.training.epochs else None

    def apply(
        self, value: UnitsSettings, dense: LanguageModel, calibration: Calibration
    ) -> tuple[LanguageModel, Calibration]:
        return dense, calibration


@dataclass(frozen=True)
class Slice:
    """What unit k touches in a site's matrix: its rows (axis 0) or columns (axis 1) k, n + k, ...,
    where n is the number of units."""

    site: str
    axis: int


@dataclass(frozen=True)
class Units:
    """Units that can be removed, `count` of them: a layer's, or the embedding's columns."""

    name: str  # "lstm.0", "embedding"
    count: int
    slices: tuple[Slice, ...]

    def squares(self, matrices: dict[str, Tensor]) -> Tensor:
        """(count,): the sum of squares of each group."""
        total: Tensor | None = None
        for piece in self.slices:
            matrix = matrices[piece.site].square().sum(1 - piece.axis)
            squares = matrix.view(-1, self.count).sum(0)
            total = squares if total is None else total + squares
        assert total is not None
        for site in self._crossed:
            total = total - self._crossings(matrices[site]).square().sum(0)
        return total

    def scale_(self, matrices: dict[str, Tensor], factors: Tensor) -> None:
        """Multiply each group by its factor (count,), in place."""
        crossings = {site: self._crossings(matrices[site]) * factors for site in self._crossed}
        for piece in self.slices:
            matrix = matrices[piece.site]
            every = factors.repeat(matrix.shape[piece.axis] // self.count)
            matrix.mul_(every.unsqueeze(1 - piece.axis))
        for site, scaled in crossings.items():
            self._crossings(matrices[site]).copy_(scaled)

    @property
    def _crossed(self) -> list[str]:
        """The sites of which a group has rows and columns."""
        columns = {piece.site for piece in self.slices if piece.axis == COLUMNS}
        return [piece.site for piece in self.slices if piece.axis == ROWS and piece.site in columns]

    def _crossings(self, matrix: Tensor) -> Tensor:
        """(blocks, count): where each unit's rows and its column meet, as a view."""
        return matrix.view(-1, self.count, self.count).diagonal(dim1=1, dim2=2)


def units_of(model: ModelSettings, embedding: bool) -> list[Units]:
    """The groups of a model with matrices that are stored densely."""
    every, found, last = model.site_shapes(words=1), [], model.layers - 1
    columns = [
        Slice(sites.EMBEDDING, COLUMNS),
        Slice(model.site(0, sites.INPUT), COLUMNS),
    ]
    for layer, count in enumerate(model.units):
        slices = [Slice(site, ROWS) for site in _unit_rows(model, layer)]
        projection = model.site(layer, sites.PROJECTION)
        if projection in every:
            slices.append(Slice(projection, COLUMNS))
        else:
            slices += [Slice(site, COLUMNS) for site in _output_columns(model, layer)]
            if layer != last:
                slices.append(Slice(model.site(layer + 1, sites.INPUT), COLUMNS))
            elif not model.tied:
                slices.append(Slice(sites.DECODER, COLUMNS))
            elif sites.DECODER_PROJECTION in every:
                slices.append(Slice(sites.DECODER_PROJECTION, COLUMNS))
            else:  # tied, as wide as the embedding: one set of units
                slices += columns
        found.append(Units(model.layer_name(layer), count, tuple(slices)))
    if not embedding or columns[0] in found[-1].slices:
        return found
    if sites.DECODER_PROJECTION in every:
        columns.append(Slice(sites.DECODER_PROJECTION, ROWS))
    elif model.tied:  # the last projection writes what the decoder and its own layer read
        columns.append(Slice(model.site(last, sites.PROJECTION), ROWS))
        columns += [Slice(site, COLUMNS) for site in _output_columns(model, last)]
    return [*found, Units(sites.EMBEDDING, model.embedding, tuple(columns))]


def _unit_rows(model: ModelSettings, layer: int) -> list[str]:
    """The sites whose rows are of a layer's units."""
    return [site for name, site in model.sites_of(layer).items() if name != sites.PROJECTION]


def _output_columns(model: ModelSettings, layer: int) -> list[str]:
    """The sites of a layer that read the layer's own output."""
    before = (sites.INPUT, sites.PROJECTION)
    return [site for name, site in model.sites_of(layer).items() if name not in before]


class GroupLasso:
    """The penalty while training; a `progress.Regularizer`. A group that is zero stays zero."""

    def __init__(self, model: LanguageModel, settings: UnitsSettings) -> None:
        self.settings = settings
        self.units = units_of(model.settings, settings.embedding)
        self.matrices: dict[str, Tensor] = {}
        for site, weight in model.sites.items():
            assert isinstance(weight.structure, DenseStructure), (
                "units are removed from dense models"
            )
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
    """The dense model, trained on with the penalty, without the units that became zero.

    `dense` itself stays as it is; `text` is word ids (tokens,). The copy is trained on `device`.
    The other arguments are those of `training.train`. Raises DivergedError.
    """
    from lmcore.leaf import Leaf
    from lmcore.model import dense_model
    from lmcore.training import train

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

    At least one unit of each layer stays. Of a layer with a projection at least one unit more than
    the projection is wide stays. A tied embedding with a `decoder.projection` must not become as
    wide as what that projection reads: one unit more stays there.
    """
    from lmcore.leaf import Leaf
    from lmcore.model import dense_model

    settings = model.settings
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    vectors = {name: leaf.value().detach() for name, leaf in model.biases.items()}
    groups = units_of(settings, embedding)
    alive = {units.name: units.squares(matrices) > 0 for units in groups}
    layers = [settings.layer_name(layer) for layer in range(settings.layers)]
    widths = dict(zip(layers, settings.projection or (0,) * settings.layers, strict=True))
    for name, flags in alive.items():
        _keep(flags, widths.get(name, 0) + 1)
    if sites.DECODER_PROJECTION in matrices:
        _keep_unequal(settings, alive)
    for units in groups:
        kept = alive[units.name].nonzero().squeeze(1)
        for piece in units.slices:
            matrices[piece.site] = _take(matrices[piece.site], piece.axis, kept, units.count)
        for name in vectors:
            if name.startswith(f"{units.name}."):
                vectors[name] = _take(vectors[name], 0, kept, units.count)
    projections = [settings.site(layer, sites.PROJECTION) for layer in range(settings.layers)]
    after = {
        "hidden": tuple(int(alive[name].sum()) for name in layers),
        "projection": tuple(len(matrices.get(site, ())) for site in projections),
        "embedding": matrices[sites.EMBEDDING].shape[1],
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
    columns = alive.get(sites.EMBEDDING, torch.ones(settings.embedding, dtype=torch.bool))
    output = alive[settings.layer_name(settings.layers - 1)]
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
