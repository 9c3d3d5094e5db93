"""The shared projection (Grachev 2017, eq. 8-10): each layer's h is projected once, m = P h.

m feeds the recurrence, the next layer and the decoder, which get that much narrower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from lmcore import sites
from lmcore.codec import Ladder
from lmcore.compress.embedding import fold_square
from lmcore.compress.low_rank import roots
from lmcore.errors import UserError
from lmcore.layer_methods import LayerMethod
from lmcore.lazy import torch
from lmcore.model_settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.calibration import Calibration
    from lmcore.model import LanguageModel

Widths = int | tuple[int, ...]


class SharedProjection(LayerMethod[Widths]):
    """The width of each layer's shared projection, or one for all, 0 for none."""

    field: ClassVar[str] = "projection"
    kind: ClassVar[str] = "projection"
    order: ClassVar[int] = 10
    setting: ClassVar[Any] = Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...]
    is_written_as_null: ClassVar[bool] = True

    def examples(self, model: ModelSettings) -> Ladder:
        widest = max(model.widths)
        every = [1, widest // 2, widest - 1, widest]
        return [{self.field: (width,) * model.layers} for width in sorted({*every} - {0})]

    def sentence(self, plain: Any) -> str:
        return f"a shared projection to {' and '.join(str(width or 'none') for width in plain)}"

    def canonical(self, asked: Widths, model: ModelSettings, words: int) -> Widths | None:
        """One width a layer, 0 where the layer's projection would not make the model smaller."""
        if isinstance(asked, tuple) and len(asked) != model.layers:
            raise UserError(
                f"recipe.layers.projection: got {list(asked)}; "
                f"it takes one width a layer, {model.layers} in all"
            )
        widths = asked if isinstance(asked, tuple) else (asked,) * model.layers
        saving = projected_widths(widths, model, words)
        return saving if any(saving) else None

    def shape(self, value: Widths, model: ModelSettings) -> ModelSettings:
        return with_projections(model, value) if isinstance(value, tuple) else model

    def apply(
        self, value: Widths, dense: LanguageModel, calibration: Calibration
    ) -> tuple[LanguageModel, Calibration]:
        """A projection is skipped if the pruned layer has no more units than its width."""
        assert isinstance(value, tuple), "canonical makes one width a layer of it"
        pairs = zip(value, dense.settings.widths, strict=True)
        narrowed = project(dense, tuple(w if w < now else 0 for w, now in pairs), calibration)
        return narrowed, calibration.of(narrowed)


def projected_widths(widths: tuple[int, ...], model: ModelSettings, words: int) -> tuple[int, ...]:
    """The projection of each layer, 0 where it would not make the model smaller."""
    return tuple(
        width if _saves(model, words, layer, width) else 0 for layer, width in enumerate(widths)
    )


def _saves(model: ModelSettings, words: int, layer: int, width: int) -> bool:
    if not 0 < width < model.widths[layer]:
        return False
    one = tuple(width if index == layer else 0 for index in range(model.layers))
    return with_projections(model, one).weights(words) < model.weights(words)


def with_projections(model: ModelSettings, widths: tuple[int, ...]) -> ModelSettings:
    """The model with projections of these widths; where a width is 0, the layer keeps its own."""
    before = model.projection or (0,) * model.layers
    after = tuple(new or old for new, old in zip(widths, before, strict=True))
    return model.model_copy(update={"projection": after if any(after) else ()})


def project(
    model: LanguageModel, widths: tuple[int, ...], calibration: Calibration
) -> LanguageModel:
    """The dense model with projections of these widths, each below the layer's, 0 for none.

    P (width, hidden) starts as the best map for what reads the layer's h. Let M be the matrices
    that read h, each divided by its norm, one below the other. P and the narrower matrices M'
    minimise the mean of |M h - M' P h|^2 on training text. Where a layer has a projection already,
    the new one comes after it, and both become one matrix.
    """
    from lmcore.model import dense_model

    settings = model.settings
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    for layer, width in enumerate(widths):
        if not width:
            continue
        own = settings.site(layer, sites.PROJECTION)
        before = matrices.pop(own, None)
        fed = _fed_by(settings, layer)
        seen = [matrices[site] for site in fed]
        is_last = layer + 1 == settings.layers
        # its tied embedding is as wide as h was: its decoder is reached from m
        needs_decoder = is_last and settings.tied and sites.DECODER_PROJECTION not in fed
        if needs_decoder:
            seen.append(matrices[sites.EMBEDDING])
        moments = calibration.inputs[own]
        if before is not None:
            moments = before @ moments @ before.T
        to_narrow, to_wide = _best_map(seen, moments, width)
        for site in fed:
            matrices[site] = matrices[site] @ to_wide
        if needs_decoder:
            matrices[sites.DECODER_PROJECTION] = to_wide
        matrices[own] = to_narrow if before is None else to_narrow @ before
    shaped = with_projections(settings, widths)
    fold_square(shaped, matrices)
    return dense_model(shaped, matrices, model.biases)


def _fed_by(settings: ModelSettings, layer: int) -> list[str]:
    """The sites that read a layer's output, but for a tied embedding: the layer's own, then what
    comes next."""
    before = (sites.INPUT, sites.PROJECTION)
    fed = [site for name, site in settings.sites_of(layer).items() if name not in before]
    if layer + 1 < settings.layers:
        return [*fed, settings.site(layer + 1, sites.INPUT)]
    after, every = (sites.DECODER, sites.DECODER_PROJECTION), settings.site_shapes(words=1)
    return [*fed, *(site for site in after if site in every)]


def _best_map(matrices: list[Tensor], moments: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """P (width, hidden) and its right inverse (hidden, width) for what follows it."""
    root, inverse = roots(moments)
    doubles = [matrix.double() for matrix in matrices]
    stacked = torch.cat([matrix / matrix.norm().clamp(min=1e-30) for matrix in doubles])
    _, _, right = torch.linalg.svd(stacked @ root, full_matrices=False)
    narrow = right[:width] @ inverse  # (width, hidden)
    wide = root @ right[:width].T  # (hidden, width)
    # P of orthonormal rows: m has the scale of h, even where h hardly varies. Rows as they come
    # lost (tied 2 x 32, 60 words, to 20): after an epoch 9.80 against 9.44, at step 1.0 61 to 17
    rows, back = torch.linalg.qr(narrow.T)  # (hidden, width), (width, width)
    return rows.T.to(moments.dtype), (wide @ back.T).to(moments.dtype)
