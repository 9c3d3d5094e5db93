"""Which matrices of a language model its hidden units touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmcore import sites
from lmcore.units import Slice, Units, columns_of, rows_of

if TYPE_CHECKING:
    from lmcore.model_settings import ModelSettings


def readers_of(model: ModelSettings) -> dict[str, tuple[Slice, ...]]:
    """What reads each layer's output, the layer's own matrices first, and what reads the rows of
    the embedding; but for a tied decoder, whose matrix the embedding is."""
    every, found, last = (
        model.site_shapes(words=1),
        dict[str, tuple[Slice, ...]](),
        model.layers - 1,
    )
    for layer in range(model.layers):
        before = (sites.INPUT, sites.PROJECTION)
        fed = [site for name, site in model.sites_of(layer).items() if name not in before]
        if layer != last:
            fed.append(model.site(layer + 1, sites.INPUT))
        else:
            fed += [one for one in (sites.DECODER, sites.DECODER_PROJECTION) if one in every]
        found[model.layer_name(layer)] = columns_of(fed)
    return {**found, sites.EMBEDDING: columns_of([model.site(0, sites.INPUT)])}


def units_of(model: ModelSettings, embedding: bool) -> list[Units]:
    """The groups of a model with matrices that are stored densely.

    A layer with a projection keeps one unit more than the projection is wide. Where `embedding`,
    the embedding's columns, with those of the first input matrix, are groups too; with a tied
    decoder they belong to the last layer's groups anyway.
    """
    every, readers = model.site_shapes(words=1), readers_of(model)
    columns = (*columns_of([sites.EMBEDDING]), *readers[sites.EMBEDDING])
    found, last = list[Units](), model.layers - 1
    for layer, (count, width) in enumerate(zip(model.units, model.widths, strict=True)):
        own, name = model.sites_of(layer), model.layer_name(layer)
        rows = [
            rows_of(site, every[site][0], count)
            for matrix, site in own.items()
            if matrix != sites.PROJECTION
        ]
        if sites.PROJECTION in own:
            read = columns_of([own[sites.PROJECTION]])
        elif layer == last and model.tied and sites.DECODER_PROJECTION not in every:
            read = (*readers[name], *columns)  # as wide as the embedding: one set of units
        else:
            read = readers[name]
        least = 1 if width == count else width + 1
        found.append(Units(name, count, (*rows, *read), least))
    if not embedding or columns[0] in found[-1].slices:
        return found
    if model.tied and sites.DECODER_PROJECTION in every:
        rows = [rows_of(sites.DECODER_PROJECTION, model.embedding, model.embedding)]
        columns = (*columns, *rows)
    elif model.tied:  # the last projection writes what the decoder and its own layer read
        rows = [rows_of(model.site(last, sites.PROJECTION), model.embedding, model.embedding)]
        columns = (*columns, *rows, *readers[model.layer_name(last)])
    return [*found, Units(sites.EMBEDDING, model.embedding, columns)]
