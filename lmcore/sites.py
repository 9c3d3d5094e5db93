"""The names of sites and biases: stored in recipes and files, spelled here alone.

A site of a layer is PREFIX.LAYER.MATRIX ("lstm.0.input"), the prefix that of its cell; a bias or a
peephole is PREFIX.LAYER.VECTOR. A tied embedding and decoder is the one site "embedding". A leaf
of a site is SITE/LEAF.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")

EMBEDDING = "embedding"
VECTORS = "vectors"  # fixed vectors of words
DECODER = "decoder"
DECODER_PROJECTION = "decoder.projection"  # from the last layer's output to a tied embedding
DECODER_BIAS = "decoder.bias"
WORD_SITES = (EMBEDDING, DECODER)  # their rows are words
SHARED = (EMBEDDING, DECODER, DECODER_PROJECTION, DECODER_BIAS)  # of no layer

# within a layer
INPUT = "input"  # acts on what the layer reads
RECURRENT = "recurrent"  # acts on the layer's own output one step before
PROJECTION = "projection"  # makes the layer's output of its h
BIAS = "bias"
PEEPHOLE = "peephole"

# the two directions of a layer that reads from both ends, in place of a cell's prefix
FORWARD, BACKWARD = "forward", "backward"


def layer_name(prefix: str, layer: int) -> str:
    """ "lstm.0": the layer with this index, counted from 0."""
    return f"{prefix}.{layer}"


def both_directions(name: str, layer: int) -> tuple[str, str]:
    """ "encoder_forward.0", "encoder_backward.0": the two directions of a layer of a part."""
    return layer_name(f"{name}_{FORWARD}", layer), layer_name(f"{name}_{BACKWARD}", layer)


def in_layer(prefix: str, layer: int, name: str) -> str:
    """ "lstm.0.input": a matrix or vector of the layer with this index, counted from 0."""
    return f"{layer_name(prefix, layer)}.{name}"


def layer_and_matrix(site: str) -> tuple[str, str] | None:
    """("0", "input") of "lstm.0.input"; None for a site of no layer."""
    words = site.split(".")
    return (words[1], words[2]) if len(words) == 3 else None


def of_layer(named: Mapping[str, T], prefix: str, layer: int) -> dict[str, T]:
    """The entries that belong to one layer, by their names within it."""
    return below(layer_name(prefix, layer), named)


def below(prefix: str, named: Mapping[str, T]) -> dict[str, T]:
    """The entries whose names begin with "PREFIX.", without it."""
    own = f"{prefix}."
    return {n.removeprefix(own): value for n, value in named.items() if n.startswith(own)}


def leaf_name(site: str, leaf: str) -> str:
    """ "lstm.0.input/left": a leaf of a site."""
    return f"{site}/{leaf}"


def site_of(leaf: str) -> str:
    """The site of a leaf that `leaf_name` named; "" for a bias, which is of no site."""
    return leaf.rpartition("/")[0]


def shortened(some: Collection[str], every: Collection[str]) -> list[str]:
    """Names of sites, those of all layers as one pattern: "lstm.*.input". So are those of both
    directions ("phrase_*.input") and of all cells ("*.input"), the widest that fits."""
    of_pattern: dict[str, set[str]] = {}
    for name in every:
        for pattern in _patterns(name):
            of_pattern.setdefault(pattern, set()).add(name)
    chosen, found, covered = set(some), list[str](), set[str]()
    whole = {pattern: names for pattern, names in of_pattern.items() if names <= chosen}
    for name in every:
        if name in chosen and name not in covered:
            fitting = [pattern for pattern in _patterns(name) if pattern in whole]
            found.append(max(fitting, key=lambda pattern: len(whole[pattern]), default=name))
            covered |= whole.get(found[-1], {name})
    return found


def _patterns(site: str) -> list[str]:
    """The patterns that a site is named by, the narrowest first; one of no layer has its name."""
    if layer_and_matrix(site) is None:
        return [site]
    prefix, _, matrix = site.split(".")
    part, _, direction = prefix.rpartition("_")
    both = [f"{part}_*.{matrix}"] if part and direction in (FORWARD, BACKWARD) else []
    return [f"{prefix}.*.{matrix}", *both, f"*.{matrix}"]
