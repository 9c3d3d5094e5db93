"""The reduced embedding (Grachev 2017): narrower than the hidden size, tied or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import Field

from lmcore import sites
from lmcore.codec import Ladder
from lmcore.compress.low_rank import DAMPING, roots, truncated_svd
from lmcore.errors import UserError
from lmcore.layer_methods import LayerMethod
from lmcore.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.calibration import Calibration
    from lmcore.model_settings import ModelSettings
    from lmcore.network import N
    from lmcore.network_settings import NetworkSettings


class ReducedEmbedding(LayerMethod[int]):
    """How wide the embedding is."""

    field: ClassVar[str] = "embedding"
    kind: ClassVar[str] = "embedding"
    order: ClassVar[int] = 20
    setting: ClassVar[Any] = Annotated[int, Field(ge=1)]
    acts_on: ClassVar[tuple[str, ...]] = (sites.EMBEDDING,)
    is_written_as_null: ClassVar[bool] = True

    def examples(self, model: ModelSettings) -> Ladder:
        return [{self.field: size} for size in sorted({1, model.embedding // 2, model.embedding})]

    def sentence(self, plain: Any) -> str:
        return f"an embedding of {plain} columns"

    def canonical(self, asked: int, model: NetworkSettings, words: int) -> int | None:
        check_embedding(model, self.field)
        return asked if asked < model.sizes[sites.EMBEDDING] else None

    def shape(self, value: int, model: NetworkSettings) -> NetworkSettings:
        return model.embedded(value)

    def apply(self, value: int, dense: N, calibration: Calibration) -> tuple[N, Calibration]:
        """An embedding is left as it is if the pruned model's is no wider."""
        if value >= dense.settings.sizes[sites.EMBEDDING]:
            return dense, calibration
        reduced = reduce_embedding(dense, value, calibration)
        return reduced, calibration.of(reduced)


def check_embedding(model: NetworkSettings, field: str) -> None:
    """Raises UserError where the embedding's columns cannot be other ones."""
    if sites.EMBEDDING not in model.sizes:
        why = f"this network of the kind {model.kind} has no embedding"
    elif sites.EMBEDDING not in model.readers:
        why = (
            "something here takes the embedding number by number, a highway or a mixture of layers"
        )
    else:
        return
    raise UserError(f"recipe.layers.{field}: {why}, so leave this setting out")


def reduce_embedding(network: N, size: int, calibration: Calibration) -> N:
    """The dense network with the embedding A (words, size) of the best E ~ A B.

    E (words, embedding) is the embedding that is there. A and B minimise |D (E - A B) C^(1/2)|.
    D is diagonal: the square roots of the words' counts. C (embedding, embedding) weighs a
    difference by what it makes after the matrices W that read the rows: C is the sum of W^T W.
    B is multiplied into each W. Of a tied embedding, the second moments of what the decoder sees
    are added to C, both scaled to a mean diagonal of 1, and B is multiplied into
    `decoder.projection`, or becomes it.
    """
    from lmcore.network import dense_network

    settings: NetworkSettings = network.settings
    before, readers = settings.sizes[sites.EMBEDDING], settings.readers[sites.EMBEDDING]
    matrices = {site: weight.dense().detach() for site, weight in network.sites.items()}
    table = matrices[sites.EMBEDDING].double()
    blocks = {one: one.blocks(matrices[one.site].double(), before) for one in readers}
    squares = [block.T @ block for found in blocks.values() for block in found]
    consumer = torch.stack(squares).sum(0)
    moments = consumer / consumer.diagonal().mean().clamp(min=1e-30)
    if settings.tied_to is not None:
        seen = calibration.inputs[sites.EMBEDDING].double()
        moments = moments + seen / seen.diagonal().mean().clamp(min=1e-30)
    root, inverse = roots(moments)
    counts = calibration.counts.double()
    rows = (counts / counts.mean() + DAMPING).sqrt().unsqueeze(1)
    left, right = truncated_svd(rows * (table @ root), size)
    narrow, wide = left / rows, right @ inverse  # (words, size), (size, embedding)
    matrices[sites.EMBEDDING] = narrow.float()
    for one, found in blocks.items():
        after = [(block @ wide.T).float() for block in found]
        matrices[one.site] = one.replaced(matrices[one.site], before, after)
    if settings.tied_to is not None:
        way = matrices.get(sites.DECODER_PROJECTION)
        to_decoder = wide.float() if way is None else wide.float() @ way
        matrices[sites.DECODER_PROJECTION] = to_decoder
    shaped = settings.embedded(size)
    fold_square(shaped, matrices)
    return cast("N", dense_network(shaped, matrices, network.biases))


def fold_square(settings: NetworkSettings, matrices: dict[str, Tensor]) -> None:
    """Removes the `decoder.projection` T of a network that cannot have one, in place.

    A tied embedding E as wide as what its decoder reads has no T. Where `matrices` has a T all
    the same, E T replaces E, and W T^-1' replaces each matrix W that reads E's rows, so that W E'
    stays as it was. Where T has no inverse, its pseudoinverse is taken.
    """
    if settings.sizes.get(sites.EMBEDDING) != settings.tied_to:
        return
    square = matrices.pop(sites.DECODER_PROJECTION, None)
    if square is None:
        return
    back = torch.linalg.pinv(square.double())
    matrices[sites.EMBEDDING] = (matrices[sites.EMBEDDING].double() @ square.double()).float()
    for one in settings.readers[sites.EMBEDDING]:
        matrices[one.site] = (matrices[one.site].double() @ back.T).float()
