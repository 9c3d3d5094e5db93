"""Intrinsic sparse structures: group Lasso on hidden units, and their removal (Wen et al. 2018).

Group k of a layer is all that its unit k touches: row k of every gate in each of its matrices,
column k of its recurrent matrices, and the columns of what reads it. Biases are left out: nothing
reads a unit without columns, whatever its bias. A unit whose whole group is zero is removed; what
is left is a smaller dense layer. The settings of a network say which groups there are: `removable`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, field_validator

from lmcore import sites
from lmcore.codec import Ladder
from lmcore.errors import UserError
from lmcore.layer_methods import LayerMethod
from lmcore.lazy import torch
from lmcore.model_settings import ModelSettings
from lmcore.progress import Observer, ignore
from lmcore.settings import Settings
from lmcore.structure import DenseStructure
from lmcore.training_settings import TrainingSettings
from lmcore.units import Units

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.calibration import Calibration
    from lmcore.network import N, Network
    from lmcore.network_settings import NetworkSettings

EPSILON = 1e-8  # under the root, as in the paper's code


class UnitsSettings(Settings):
    """How units are removed: the dense model is trained on with a penalty on groups.

    - `strength` is lambda, for a loss that is a mean per token in nats.
    - `method` threshold adds lambda times the sum of the groups' norms to the loss, and after each
      update makes the weights below `threshold` zero, as the paper does. proximal changes no loss:
      after each update it shrinks each group's norm by rate x lambda.
    - `embedding` says whether the embedding's columns, with those of what reads them, are groups
      too. With a tied decoder they belong to the last layer's groups anyway.
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
        self, asked: UnitsSettings, model: NetworkSettings, words: int
    ) -> UnitsSettings | None:
        if not model.removable(asked.embedding):
            raise UserError(
                f"recipe.layers.units: in a network of the kind {model.kind} no layer loses units"
            )
        if not isinstance(model, ModelSettings) and not _has_embedding(model):
            asked = asked.model_copy(update={"embedding": False})
        return asked if asked.training.epochs else None

    def apply(
        self, value: UnitsSettings, dense: N, calibration: Calibration
    ) -> tuple[N, Calibration]:
        return dense, calibration


def _has_embedding(model: NetworkSettings) -> bool:
    """Whether columns of the embedding can be removed."""
    return any(units.name == sites.EMBEDDING for units in model.removable(embedding=True))


class GroupLasso:
    """The penalty while training; a `progress.Regularizer`. A group that is zero stays zero."""

    def __init__(self, network: Network, settings: UnitsSettings) -> None:
        self.settings = settings
        self.units: list[Units] = network.settings.removable(settings.embedding)
        self.matrices: dict[str, Tensor] = {}
        for site, weight in network.sites.items():
            if site in network.settings.fixed:
                continue
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
    dense: N,
    examples: Any,
    settings: UnitsSettings,
    seed: int,
    observe: Observer = ignore,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> N:
    """The dense network, trained on with the penalty, without the units that became zero.

    `dense` itself stays as it is. The copy is trained on `device`. The other arguments are those
    of `training.train`. Raises DivergedError.
    """
    from lmcore.leaf import Leaf
    from lmcore.network import dense_network
    from lmcore.training import train

    matrices = {site: weight.dense().detach() for site, weight in dense.sites.items()}
    biases = {name: Leaf(leaf.value().detach()) for name, leaf in dense.biases.items()}
    network = dense_network(dense.settings, matrices, biases).to(device)
    lasso = GroupLasso(network, settings)
    train(
        network,
        examples,
        settings.training,
        seed,
        observe=observe,
        checkpoint=checkpoint,
        regularizer=lasso,
    )
    return cast("N", remove_units(network.cpu(), settings.embedding))


def remove_units(network: N, embedding: bool) -> N:
    """The dense network without the units whose whole group is zero; its output is the same.

    At least so many units of each group stay as the group says. A tied embedding with a
    `decoder.projection` must not become as wide as what that projection reads: one unit more stays
    there.
    """
    from lmcore.leaf import Leaf
    from lmcore.network import dense_network

    settings: NetworkSettings = network.settings
    matrices = {site: weight.dense().detach() for site, weight in network.sites.items()}
    vectors = {name: leaf.value().detach() for name, leaf in network.biases.items()}
    groups = settings.removable(embedding)
    alive = {units.name: units.squares(matrices) > 0 for units in groups}
    for units in groups:
        _keep(alive[units.name], units.least)
    if isinstance(settings, ModelSettings) and sites.DECODER_PROJECTION in matrices:
        _keep_unequal(settings, alive)
    kept = {
        (site, axis): torch.ones(size, dtype=torch.bool)
        for site, matrix in matrices.items()
        for axis, size in enumerate(matrix.shape)
    }
    for units in groups:
        dead = (~alive[units.name]).nonzero().squeeze(1)
        for piece in units.slices:
            kept[piece.site, piece.axis][piece.places(dead)] = False
        for name, vector in vectors.items():
            if name.startswith(f"{units.name}."):
                vectors[name] = vector[alive[units.name].repeat(len(vector) // units.count)]
    for (site, axis), flags in kept.items():
        if not flags.all():
            matrices[site] = matrices[site].index_select(axis, flags.nonzero().squeeze(1))
    shapes = {site: (one.shape[0], one.shape[1]) for site, one in matrices.items()}
    shaped = settings.resized(shapes)
    biases = {name: Leaf(value) for name, value in vectors.items()}
    return cast("N", dense_network(shaped, matrices, biases))


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
