"""The reduced embedding (Grachev 2017): narrower than the hidden size, tied or not."""

from __future__ import annotations

import torch

from lmcore.calibration import Calibration
from lmcore.compress.low_rank import DAMPING, roots, truncated_svd
from lmcore.model import LanguageModel, ModelSettings, dense_model


def narrower(size: int, model: ModelSettings) -> int:
    """The embedding size that this asks for: never wider than it is."""
    return min(size, model.embedding)


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
    moments = consumer / consumer.diagonal().mean()
    if settings.tied:
        seen = calibration.inputs["embedding"].double()
        moments = moments + seen / seen.diagonal().mean()
    root, inverse = roots(moments)
    counts = calibration.counts.double()
    rows = (counts / counts.mean() + DAMPING).sqrt().unsqueeze(1)
    left, right = truncated_svd(rows * (table @ root), size)
    narrow, wide = left / rows, right @ inverse  # (words, size), (size, embedding)
    matrices["embedding"] = narrow.float()
    matrices[first] = (after @ wide.T).float()
    shaped = settings.model_copy(update={"embedding": size})
    if settings.tied:
        before = matrices.pop("decoder.projection", None)
        to_decoder = wide.float() if before is None else wide.float() @ before
        if "decoder.projection" in shaped.site_shapes(model.words):
            matrices["decoder.projection"] = to_decoder
        else:  # as wide as the last layer's output: its projection takes the map in
            _absorb(matrices, f"{settings.cell.prefix}.{settings.layers - 1}.", to_decoder)
    return dense_model(shaped, matrices, model.biases)


def _absorb(matrices: dict[str, torch.Tensor], layer: str, square: torch.Tensor) -> None:
    """Let a layer's output m become T m, T (width, width), without a change to the layer."""
    projection = f"{layer}projection"
    matrices[projection] = square @ matrices[projection]
    back = torch.linalg.pinv(square)
    for site in matrices:
        if site.startswith(layer) and site not in (f"{layer}input", projection):
            matrices[site] = matrices[site] @ back
