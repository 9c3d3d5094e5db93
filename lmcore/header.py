"""A bundle's header: the model's sizes, and of every site its structure and its leaves' codecs.

All shapes follow from it. Before anything is made of a header that was read, it is held against
itself and against what a file of its size may hold.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

import lmcore.kinds  # noqa: F401, makes them known
from lmcore import sites
from lmcore.capacity import HEADER_BYTES, Capacity, unpacked
from lmcore.codec import AnyCodec, LeafSpec
from lmcore.model_settings import Size
from lmcore.network_settings import AnyNetwork, NetworkSettings
from lmcore.recipe import Recipe
from lmcore.settings import Settings, explain, later
from lmcore.structure import AnyStructure, MatrixShape
from lmcore.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from lmcore.network import Network


class LeafHeader(Settings):
    """How a leaf is coded; `kept` counts the values that its mask keeps, None without a mask."""

    codec: AnyCodec
    kept: Annotated[int, Field(ge=0)] | None = None


class SiteHeader(Settings):
    """The structure of a site, and its leaves."""

    structure: AnyStructure
    leaves: dict[str, LeafHeader]


class Header(Settings):
    """What a file says of itself before its streams."""

    model: AnyNetwork
    words: Size
    vocabulary: Kind = later("words")
    sites: dict[str, SiteHeader]
    biases: dict[str, LeafHeader]

    @property
    def text(self) -> bytes:
        """As JSON; the same header gives the same bytes."""
        return json.dumps(self.plain(), sort_keys=True, separators=(",", ":")).encode()

    @property
    def packed(self) -> bytes:
        """As the file has it."""
        return zlib.compress(self.text, 9)

    @property
    def site_shapes(self) -> dict[str, MatrixShape]:
        """Site -> (out, in), in the order of the file."""
        return self.model.site_shapes(self.words)

    @property
    def specs(self) -> dict[str, LeafSpec]:
        """What the file holds of each leaf, by "site/leaf" or bias name, in the file's order."""
        found = {}
        for site, shape in self.site_shapes.items():
            head = self.sites[site]
            for name, leaf_shape in head.structure.leaf_shapes(shape).items():
                leaf = head.leaves[name]
                found[sites.leaf_name(site, name)] = LeafSpec(leaf_shape, leaf.codec, leaf.kept)
        for name, bias_shape in self.model.bias_shapes(self.words).items():
            bias = self.biases[name]
            found[name] = LeafSpec(bias_shape, bias.codec, bias.kept)
        return found


def header_of(model: Network, vocabulary: Vocabulary) -> Header:
    """The header of a model's file."""
    stored = {
        site: SiteHeader(
            structure=weight.structure,
            leaves={name: _of_leaf(leaf.spec) for name, leaf in weight.leaves.items()},
        )
        for site, weight in model.sites.items()
    }
    biases = {name: _of_leaf(leaf.spec) for name, leaf in model.biases.items()}
    return Header(
        model=model.settings,
        words=model.words,
        vocabulary=vocabulary.kind,
        sites=stored,
        biases=biases,
    )


def header_from(
    specs: dict[str, LeafSpec], recipe: Recipe, model: NetworkSettings, vocabulary: Vocabulary
) -> Header:
    """The header that the file of a resolved recipe will have, given `recipe.leaf_specs`."""
    words = len(vocabulary)
    stored = {
        site: SiteHeader(
            structure=recipe.sites[site].structure,
            leaves={
                name: _of_leaf(specs[sites.leaf_name(site, name)])
                for name in recipe.sites[site].structure.leaf_shapes(shape)
            },
        )
        for site, shape in recipe.layers.site_shapes(model, words).items()
    }
    biases = {name: _of_leaf(specs[name]) for name in model.bias_shapes(words)}
    shaped = recipe.layers.shape(model)
    return Header(
        model=shaped, words=words, vocabulary=vocabulary.kind, sites=stored, biases=biases
    )


def read_header(data: bytes, capacity: Capacity) -> Header:
    """The header that was packed, every size within the capacity.

    Raises ValueError where there is none, or where it contradicts itself.
    """
    text = unpacked(zlib.decompressobj(), data, HEADER_BYTES)
    try:
        header = Header.model_validate_json(text)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise ValueError("its header is no JSON") from None
        raise ValueError(explain(error, "header")[0]) from None
    header.model.check()
    if header.text != text:
        raise ValueError("its header is spelled in another way than lmpareto spells it")
    _at_most("words", header.words, capacity.words)
    _at_most("weights", header.model.weights(header.words), capacity.weights)
    _check_names("sites", header.sites, header.site_shapes)
    _check_names("biases", header.biases, header.model.bias_shapes(header.words))
    rebuilt = [_check_site(site, header.sites[site], s) for site, s in header.site_shapes.items()]
    _at_most("weights", sum(rebuilt), capacity.weights)
    values = 0
    for name, spec in header.specs.items():
        _check_kept(name, spec)
        values += sum(math.prod(stream.shape) for stream in spec.streams)
    _at_most("values", values, capacity.values)
    return header


def _of_leaf(spec: LeafSpec) -> LeafHeader:
    return LeafHeader(codec=spec.codec, kept=spec.kept)


def _at_most(what: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(
            f"its header says {count:,} {what}; a file of its size has at most {most:,}"
        )


def _check_names(what: str, given: Collection[str], wanted: Collection[str]) -> None:
    if set(given) != set(wanted):
        raise ValueError(
            f"the {what} of its header are not those of its model, {', '.join(wanted)}"
        )


def _check_site(site: str, head: SiteHeader, shape: MatrixShape) -> int:
    """How many numbers the site's matrix (out, in) takes when it is rebuilt."""
    structure = head.structure
    fits = structure.fits(shape) and not structure.is_open
    if not fits or structure.canonical(site, shape) != structure:
        raise ValueError(f"{site}, {shape[0]} x {shape[1]}, cannot be {structure.plain()}")
    _check_names(f"leaves of {site}", head.leaves, structure.leaf_shapes(shape))
    return math.prod(structure.padded(shape))


def _check_kept(name: str, spec: LeafSpec) -> None:
    """A mask is stored where the codec has no code for zero and some of the values are zero."""
    count = math.prod(spec.shape)
    if spec.kept is not None and (spec.kept >= count or spec.codec.zeros_are_codes):
        raise ValueError(f"{name} has a mask that keeps {spec.kept:,} of {count:,} values")
