"""The shared projection (Grachev 2017, eq. 8-10): each layer's h is projected once, m = P h.

m feeds the recurrence, the next layer and the decoder, which get that much narrower.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore.calibration import Calibration
from lmcore.compress.low_rank import roots
from lmcore.model import LanguageModel, ModelSettings, dense_model


def projected_widths(
    widths: int | tuple[int, ...], model: ModelSettings, words: int
) -> tuple[int, ...]:
    """The projection of each layer, 0 where it would not make the model smaller."""
    asked = (widths,) * model.layers if isinstance(widths, int) else widths
    return tuple(
        width if width and _saves(model, words, layer, width) else 0
        for layer, width in enumerate(asked)
    )


def _saves(model: ModelSettings, words: int, layer: int, width: int) -> bool:
    if (model.projection and model.projection[layer]) or width >= model.units[layer]:
        return False
    one = tuple(width if index == layer else 0 for index in range(model.layers))
    return model.model_copy(update={"projection": one}).weights(words) < model.weights(words)


def project(
    model: LanguageModel, widths: tuple[int, ...], calibration: Calibration
) -> LanguageModel:
    """The dense model with projections of these widths, 0 for none.

    P starts as the best map of that rank for what follows: with M the matrices that h feeds, each
    divided by its norm, P and M' minimise the mean of |M h - M' P h|^2 on training text.
    """
    settings, prefix = model.settings, model.settings.cell.prefix
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    before = settings.projection or (0,) * settings.layers
    after = tuple(new or old for new, old in zip(widths, before, strict=True))
    shaped = settings.model_copy(update={"projection": after})
    for layer, width in enumerate(widths):
        if not width:
            continue
        own = f"{prefix}.{layer}."
        fed = [site for site in matrices if site.startswith(own) and site != f"{own}input"]
        last = layer + 1 == settings.layers
        fed += [site for site in ("decoder", "decoder.projection") if last and site in matrices]
        fed += [] if last else [f"{prefix}.{layer + 1}.input"]
        tied = last and settings.tied and "decoder.projection" not in fed
        seen = [matrices[site] for site in [*fed, *(["embedding"] if tied else [])]]
        moments = calibration.inputs[f"{own}projection"]
        to_narrow, to_wide = _best_map(seen, moments, width)
        for site in fed:
            matrices[site] = matrices[site] @ to_wide
        matrices[f"{own}projection"] = to_narrow
        if tied and width != settings.embedding:
            # the tied embedding is as wide as h was: its decoder is reached from m
            matrices["decoder.projection"] = to_wide
    return dense_model(shaped, matrices, model.biases)


def _best_map(matrices: list[Tensor], moments: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """P (width, hidden) and its right inverse (hidden, width) for what follows it."""
    root, inverse = roots(moments)
    stacked = torch.cat([matrix.double() / matrix.double().norm() for matrix in matrices])
    _, _, right = torch.linalg.svd(stacked @ root, full_matrices=False)
    narrow = right[:width] @ inverse  # (width, hidden)
    wide = root @ right[:width].T  # (hidden, width)
    # the rows of P have norm one in the mean
    scale = (narrow.norm() / narrow.shape[0] ** 0.5).clamp(min=1e-12)
    return (narrow / scale).to(moments.dtype), (wide * scale).to(moments.dtype)
