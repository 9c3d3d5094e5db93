"""Which matrices the hidden units of a language model touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmcore import sites
from lmcore.units import Units, columns_of, rows_of

if TYPE_CHECKING:
    from lmcore.model_settings import ModelSettings


def units_of(model: ModelSettings, embedding: bool) -> list[Units]:
    """The groups of a model with matrices that are stored densely.

    A layer with a projection keeps one unit more than the projection is wide. Where `embedding`,
    the embedding's columns, with those of the first input matrix, are groups too; with a tied
    decoder they belong to the last layer's groups anyway.
    """
    every, found, last = model.site_shapes(words=1), list[Units](), model.layers - 1
    columns = columns_of((sites.EMBEDDING, model.site(0, sites.INPUT)))
    for layer, (count, width) in enumerate(zip(model.units, model.widths, strict=True)):
        own = model.sites_of(layer)
        slices = [
            rows_of(site, every[site][0], count)
            for name, site in own.items()
            if name != sites.PROJECTION
        ]
        if sites.PROJECTION in own:
            slices += columns_of([own[sites.PROJECTION]])
        else:
            slices += columns_of(_output_readers(model, layer))
            if layer != last:
                slices += columns_of([model.site(layer + 1, sites.INPUT)])
            elif not model.tied:
                slices += columns_of([sites.DECODER])
            elif sites.DECODER_PROJECTION in every:
                slices += columns_of([sites.DECODER_PROJECTION])
            else:  # tied, as wide as the embedding: one set of units
                slices += columns
        least = 1 if width == count else width + 1
        found.append(Units(model.layer_name(layer), count, tuple(slices), least))
    if not embedding or columns[0] in found[-1].slices:
        return found
    if sites.DECODER_PROJECTION in every:
        columns.append(rows_of(sites.DECODER_PROJECTION, model.embedding, model.embedding))
    elif model.tied:  # the last projection writes what the decoder and its own layer read
        columns.append(
            rows_of(model.site(last, sites.PROJECTION), model.embedding, model.embedding)
        )
        columns += columns_of(_output_readers(model, last))
    return [*found, Units(sites.EMBEDDING, model.embedding, tuple(columns))]


def _output_readers(model: ModelSettings, layer: int) -> list[str]:
    """The sites of a layer that read the layer's own output."""
    before = (sites.INPUT, sites.PROJECTION)
    return [site for name, site in model.sites_of(layer).items() if name not in before]
