"""The shared projection (Grachev 2017, eq. 8-10): each layer's h is projected once, m = P h.

m feeds the recurrence, the next layer and the decoder, which get that much narrower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import BeforeValidator

from lmcore import sites
from lmcore.codec import Ladder
from lmcore.compress.embedding import fold_square
from lmcore.compress.low_rank import roots
from lmcore.errors import UserError
from lmcore.layer_methods import LayerMethod
from lmcore.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.calibration import Calibration
    from lmcore.model_settings import ModelSettings
    from lmcore.network import N
    from lmcore.network_settings import NetworkSettings

Widths = int | tuple[int, ...]


def _check_widths(given: Any) -> Any:
    """One message for both forms; pydantic would give one for each."""
    widths = given if isinstance(given, list | tuple) else [given or -1]
    if not all(type(width) is int and width >= 0 for width in widths):
        raise ValueError(
            "it is a whole number from 1 on, or a list of them, one a layer, 0 for none"
        )
    return given


class SharedProjection(LayerMethod[Widths]):
    """The width of each layer's shared projection, or one for all, 0 for none."""

    field: ClassVar[str] = "projection"
    kind: ClassVar[str] = "projection"
    order: ClassVar[int] = 10
    setting: ClassVar[Any] = Annotated[Widths, BeforeValidator(_check_widths)]
    is_written_as_null: ClassVar[bool] = True

    def examples(self, model: ModelSettings) -> Ladder:
        widest = max(model.widths)
        every = [1, widest // 2, widest - 1, widest]
        return [{self.field: (width,) * model.layers} for width in sorted({*every} - {0})]

    def sentence(self, plain: Any) -> str:
        return f"a shared projection to {' and '.join(str(width or 'none') for width in plain)}"

    def canonical(self, asked: Widths, model: NetworkSettings, words: int) -> Widths | None:
        """One width a layer, 0 where the layer's projection would not make the model smaller."""
        layers = model.projectable
        if not layers:
            raise UserError(
                f"recipe.layers.projection: in a network of the kind {model.kind} no layer is "
                f"projected"
            )
        if isinstance(asked, tuple) and len(asked) != len(layers):
            raise UserError(
                f"recipe.layers.projection: got {list(asked)}; "
                f"it takes one width a layer, {len(layers)} in all"
            )
        widths = asked if isinstance(asked, tuple) else (asked,) * len(layers)
        saving = tuple(
            width if _saves(model, words, layer, width) else 0
            for layer, width in zip(layers, widths, strict=True)
        )
        return saving if any(saving) else None

    def shape(self, value: Widths, model: NetworkSettings) -> NetworkSettings:
        return model.projected(_named(value, model))

    def apply(self, value: Widths, dense: N, calibration: Calibration) -> tuple[N, Calibration]:
        """A projection is skipped if the pruned layer has no more units than its width."""
        layers = dense.settings.projectable
        named = _named(value, dense.settings)
        fitting = {layer: width for layer, width in named.items() if width < layers[layer]}
        narrowed = project(dense, fitting, calibration)
        return narrowed, calibration.of(narrowed)


def _named(value: Widths, model: NetworkSettings) -> dict[str, int]:
    """Layer -> its width, of those that are projected."""
    assert isinstance(value, tuple), "canonical makes one width a layer of it"
    pairs = zip(model.projectable, value, strict=True)
    return {layer: width for layer, width in pairs if width}


def _saves(model: NetworkSettings, words: int, layer: str, width: int) -> bool:
    if not 0 < width < model.projectable[layer]:
        return False
    return model.projected({layer: width}).weights(words) < model.weights(words)


def project(network: N, widths: Mapping[str, int], calibration: Calibration) -> N:
    """The dense network with projections of these widths, each below the layer's.

    P (width, hidden) starts as the best map for what reads the layer's h. Let M be the matrices
    that read h, each divided by its norm, one below the other. P and the narrower matrices M'
    minimise the mean of |M h - M' P h|^2 on training text. Where a layer has a projection already,
    the new one comes after it, and both become one matrix.
    """
    from lmcore.network import dense_network

    settings: NetworkSettings = network.settings
    matrices = {site: weight.dense().detach() for site, weight in network.sites.items()}
    for layer, width in widths.items():
        own, count = f"{layer}.{sites.PROJECTION}", settings.projectable[layer]
        before = matrices.pop(own, None)
        blocks = {one: one.blocks(matrices[one.site], count) for one in settings.readers[layer]}
        seen = [block for found in blocks.values() for block in found]
        # its tied embedding is as wide as h was: its decoder is reached from m
        needs_decoder = layer == settings.decoded and sites.DECODER_PROJECTION not in matrices
        if needs_decoder:
            seen.append(matrices[sites.EMBEDDING])
        moments = calibration.inputs[own]
        if before is not None:
            moments = before @ moments @ before.T
        to_narrow, to_wide = _best_map(seen, moments, width)
        for one, found in blocks.items():
            after = [block @ to_wide for block in found]
            matrices[one.site] = one.replaced(matrices[one.site], count, after)
        if needs_decoder:
            matrices[sites.DECODER_PROJECTION] = to_wide
        matrices[own] = to_narrow if before is None else to_narrow @ before
        settings = settings.projected({layer: width})
    fold_square(settings, matrices)
    return cast("N", dense_network(settings, matrices, network.biases))


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
