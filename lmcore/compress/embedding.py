"""The reduced embedding (Grachev 2017): narrower than the hidden size, tied or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from lmcore import sites
from lmcore.codec import Ladder
from lmcore.compress.low_rank import DAMPING, roots, truncated_svd
from lmcore.layer_methods import LayerMethod
from lmcore.lazy import torch
from lmcore.model_settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.calibration import Calibration
    from lmcore.model import LanguageModel


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

    def canonical(self, asked: int, model: ModelSettings, words: int) -> int | None:
        return asked if asked < model.embedding else None

    def shape(self, value: int, model: ModelSettings) -> ModelSettings:
        return model.model_copy(update={"embedding": value})

    def apply(
        self, value: int, dense: LanguageModel, calibration: Calibration
    ) -> tuple[LanguageModel, Calibration]:
        """An embedding is left as it is if the pruned model's is no wider."""
        if value >= dense.settings.embedding:
            return dense, calibration
        reduced = reduce_embedding(dense, value, calibration)
        return reduced, calibration.of(reduced)


def reduce_embedding(model: LanguageModel, size: int, calibration: Calibration) -> LanguageModel:
    """The dense model with the embedding A (words, size) of the best E ~ A B.

    E (words, embedding) is the embedding that is there. A and B minimise |D (E - A B) C^(1/2)|.
    D is diagonal: the square roots of the words' counts. C (embedding, embedding) weighs a
    difference by what it makes after the first input matrix W: C = W^T W. B is multiplied into W.
    Of a tied embedding, the second moments of what the decoder sees are added to C, both scaled
    to a mean diagonal of 1, and B is multiplied into `decoder.projection`, or becomes it.
    """
    from lmcore.model import dense_model

    settings = model.settings
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    first = settings.site(0, sites.INPUT)
    table, after = matrices[sites.EMBEDDING].double(), matrices[first].double()
    consumer = after.T @ after
    moments = consumer / consumer.diagonal().mean().clamp(min=1e-30)
    if settings.tied:
        seen = calibration.inputs[sites.EMBEDDING].double()
        moments = moments + seen / seen.diagonal().mean().clamp(min=1e-30)
    root, inverse = roots(moments)
    counts = calibration.counts.double()
    rows = (counts / counts.mean() + DAMPING).sqrt().unsqueeze(1)
    left, right = truncated_svd(rows * (table @ root), size)
    narrow, wide = left / rows, right @ inverse  # (words, size), (size, embedding)
    matrices[sites.EMBEDDING] = narrow.float()
    matrices[first] = (after @ wide.T).float()
    if settings.tied:
        before = matrices.get(sites.DECODER_PROJECTION)
        to_decoder = wide.float() if before is None else wide.float() @ before
        matrices[sites.DECODER_PROJECTION] = to_decoder
    shaped = settings.model_copy(update={"embedding": size})
    fold_square(shaped, matrices)
    return dense_model(shaped, matrices, model.biases)


def fold_square(settings: ModelSettings, matrices: dict[str, Tensor]) -> None:
    """Removes the `decoder.projection` T of a model that cannot have one, in place.

    A tied embedding E as wide as the last layer's output has no T. Where `matrices` has a T all
    the same, E T replaces E, and W T^-1' replaces the first input matrix W, so that W E' stays as
    it was. Where T has no inverse, its pseudoinverse is taken.
    """
    if not settings.tied or settings.embedding != settings.widths[-1]:
        return
    square = matrices.pop(sites.DECODER_PROJECTION, None)
    if square is None:
        return
    first = settings.site(0, sites.INPUT)
    back = torch.linalg.pinv(square.double())
    matrices[sites.EMBEDDING] = (matrices[sites.EMBEDDING].double() @ square.double()).float()
    matrices[first] = (matrices[first].double() @ back.T).float()
