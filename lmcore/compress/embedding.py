"""The reduced embedding (Grachev 2017): narrower than the hidden size, tied or not."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore.calibration import Calibration
from lmcore.compress.low_rank import DAMPING, roots, truncated_svd
from lmcore.model import LanguageModel, ModelSettings, dense_model


def reduce_embedding(model: LanguageModel, size: int, calibration: Calibration) -> LanguageModel:
    """The dense model with an embedding (words, size) of its own best approximation.

    E ~ A B minimises |D (E - A B) C^(1/2)|, D the roots of the words' counts, C what the next
    matrix makes of the difference; B goes into that matrix. Of a tied embedding, C has also the
    second moments of what the decoder sees, and B becomes (part of) `decoder.projection`.
    """
    settings = model.settings
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    first = f"{settings.cell.prefix}.0.input"
    table, after = matrices["embedding"].double(), matrices[first].double()
    consumer = after.T @ after
    moments = consumer / consumer.diagonal().mean().clamp(min=1e-30)
    if settings.tied:
        seen = calibration.inputs["embedding"].double()
        moments = moments + seen / seen.diagonal().mean().clamp(min=1e-30)
    root, inverse = roots(moments)
    counts = calibration.counts.double()
    rows = (counts / counts.mean() + DAMPING).sqrt().unsqueeze(1)
    left, right = truncated_svd(rows * (table @ root), size)
    narrow, wide = left / rows, right @ inverse  # (words, size), (size, embedding)
    matrices["embedding"] = narrow.float()
    matrices[first] = (after @ wide.T).float()
    if settings.tied:
        before = matrices.get("decoder.projection")
        to_decoder = wide.float() if before is None else wide.float() @ before
        matrices["decoder.projection"] = to_decoder
    shaped = settings.model_copy(update={"embedding": size})
    fold_square(shaped, matrices)
    return dense_model(shaped, matrices, model.biases)


def fold_square(settings: ModelSettings, matrices: dict[str, Tensor]) -> None:
    """A tied embedding E as wide as the last layer's output has no `decoder.projection` T.

    Where there is one, E T takes its place, and the first input matrix W becomes W T^-1', so that
    W E' stays. Of a T that has no inverse the nearest there is.
    """
    if not settings.tied or settings.embedding != settings.widths[-1]:
        return
    square = matrices.pop("decoder.projection", None)
    if square is None:
        return
    first = f"{settings.cell.prefix}.0.input"
    back = torch.linalg.pinv(square.double())
    matrices["embedding"] = (matrices["embedding"].double() @ square.double()).float()
    matrices[first] = (matrices[first].double() @ back.T).float()
