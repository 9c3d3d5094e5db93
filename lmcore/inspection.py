"""Why a site compresses or does not: its matrix's norms and spectrum, and what its bytes hold.

Winata et al. (2019), "On the effectiveness of low-rank matrix factorization for LSTM model
compression", explain by L1 norms, nuclear norms and spectra that recurrent matrices (their
"multiplicative recurrence") compress further than input matrices ("additive recurrence").
All numbers are of the matrices as the file stores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmcore import sites
from lmcore.bundle import Bundle
from lmcore.codec import Codec, Shape
from lmcore.errors import UserError
from lmcore.leaf import Leaf
from lmcore.structure import Structure
from lmcore.weight import Weight

MOST = 5e11  # products that singular values may take: of ten matrices of 10,000 x 2,500, say
_SLACK = 1e-9  # a share of energy reached up to rounding is reached


@dataclass(frozen=True)
class LeafInspection:
    """What the file holds of a leaf.

    `values` are those stored: what a mask keeps. The bits are those of all their codes together;
    masks and tables count in `size_bytes` alone.
    """

    shape: Shape
    codec: Codec
    size_bytes: int
    values: int
    zeros: int  # entries that are zero, masked or not
    bits: int  # before entropy coding
    entropy_bits: float  # at the empirical order-0 entropy of each stream
    coded_bits: int  # in the file


@dataclass(frozen=True)
class SiteInspection:
    """A site's matrix (out, in) and its leaves.

    `singular_values` are all min(out, in), falling. A zero matrix has norms, stable rank and
    ranks of energy 0: rank 0 keeps all of it.
    """

    shape: tuple[int, int]
    structure: Structure
    leaves: Mapping[str, LeafInspection]
    l1: float
    frobenius: float
    singular_values: tuple[float, ...]

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def mean_magnitude(self) -> float:
        """L1 norm a weight, which matrices of different sizes can be compared by."""
        return self.l1 / self.weights

    @property
    def spectral(self) -> float:
        return self.singular_values[0]

    @property
    def nuclear(self) -> float:
        return sum(self.singular_values)

    @property
    def stable_rank(self) -> float:
        """Frobenius^2 / spectral^2, from 1 to the rank: how evenly the energy is spread."""
        return (self.frobenius / self.spectral) ** 2 if self.spectral else 0.0

    @cached_property
    def energy(self) -> NDArray[np.float64]:
        """(min(out, in) + 1,): the share of the squared Frobenius norm that the best matrix of
        rank 0, 1, ... keeps (Eckart and Young 1936)."""
        kept = np.cumsum([0.0, *np.square(self.singular_values)])
        return kept / kept[-1] if kept[-1] else np.ones_like(kept)

    def rank_of(self, share: float) -> int:
        """The least rank that keeps this share of the energy."""
        return int(np.searchsorted(self.energy, share - _SLACK))

    @property
    def size_bytes(self) -> int:
        return sum(leaf.size_bytes for leaf in self.leaves.values())

    @property
    def bits_per_weight(self) -> float:
        """All of the site's bytes, as bits for each entry of the matrix."""
        return 8 * self.size_bytes / self.weights

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the leaves' entries."""
        entries = sum(int(np.prod(leaf.shape)) for leaf in self.leaves.values())
        return sum(leaf.zeros for leaf in self.leaves.values()) / entries

    @property
    def bits(self) -> float:
        """Bits a stored value before entropy coding."""
        return self._per_value(sum(leaf.bits for leaf in self.leaves.values()))

    @property
    def entropy_bits(self) -> float:
        """Bits a stored value at the codes' order-0 entropy."""
        return self._per_value(sum(leaf.entropy_bits for leaf in self.leaves.values()))

    @property
    def coded_bits(self) -> float:
        """Bits a stored value that its codes take in the file."""
        return self._per_value(sum(leaf.coded_bits for leaf in self.leaves.values()))

    def _per_value(self, bits: float) -> float:
        """0 where a mask keeps nothing."""
        values = sum(leaf.values for leaf in self.leaves.values())
        return bits / values if values else 0.0


@dataclass(frozen=True)
class Inspection:
    """A file: its sites, and the bytes of what else it holds."""

    size_bytes: int
    sites: Mapping[str, SiteInspection]
    others: Mapping[str, int]  # biases, vocabulary, header -> bytes

    @property
    def parts(self) -> dict[str, int]:
        """Part of the file -> bytes; they sum to `size_bytes`."""
        return {name: site.size_bytes for name, site in self.sites.items()} | dict(self.others)


def inspect(bundle: Bundle) -> Inspection:
    """The record of a file; UserError where a matrix holds what is no number, and where singular
    values would take hours."""
    model, parts = bundle.model, bundle.parts
    _check_products(model.sites)
    with torch.no_grad():
        sites = {site: _site(site, weight, parts.leaves) for site, weight in model.sites.items()}
    return Inspection(bundle.size_bytes, sites, _others(bundle))


def _check_products(matrices: Mapping[str, Weight]) -> None:
    products = {site: prod(one.shape) * min(one.shape) for site, one in matrices.items()}
    if sum(products.values()) > MOST:
        largest = max(products, key=lambda site: products[site])
        rows, columns = matrices[largest].shape
        raise UserError(f"{largest}: singular values of {rows:,} x {columns:,} would take hours")


def parts_of(bundle: Bundle) -> dict[str, int]:
    """Part of the file -> bytes; they sum to the file's size."""
    found = {
        site: sum(sum(bundle.parts.leaves[sites.leaf_name(site, leaf)]) for leaf in weight.leaves)
        for site, weight in bundle.model.sites.items()
    }
    return found | _others(bundle)


def _others(bundle: Bundle) -> dict[str, int]:
    parts = bundle.parts
    return {
        "biases": sum(sum(parts.leaves[bias]) for bias in bundle.model.biases),
        "vocabulary": parts.vocabulary,
        "header": parts.header,
    }


def _site(site: str, weight: Weight, sizes: Mapping[str, tuple[int, ...]]) -> SiteInspection:
    matrix = weight.dense().double()  # (out, in)
    if not matrix.isfinite().all():
        raise UserError(f"{site}: the matrix holds infinities or NaN; it has no norms")
    return SiteInspection(
        shape=weight.shape,
        structure=weight.structure,
        leaves={
            name: _leaf(leaf, sizes[sites.leaf_name(site, name)])
            for name, leaf in weight.leaves.items()
        },
        l1=float(matrix.abs().sum()),
        frobenius=float(matrix.norm()),
        singular_values=tuple(torch.linalg.svdvals(matrix).tolist()),
    )


def _leaf(leaf: Leaf, sizes: tuple[int, ...]) -> LeafInspection:
    """`sizes`: the bytes of each of the leaf's streams."""
    spec = leaf.spec
    codes = [
        (array, stream, size)
        for array, stream, size in zip(leaf.write(), spec.streams, sizes, strict=True)
        if stream.is_codes
    ]
    return LeafInspection(
        shape=leaf.shape,
        codec=spec.codec,
        size_bytes=sum(sizes),
        values=leaf.data.numel() if spec.kept is None else spec.kept,
        zeros=int((leaf.value() == 0).sum()),
        bits=sum(array.size * (s.high - s.low).bit_length() for array, s, _ in codes),
        entropy_bits=sum(_entropy_bits(array) for array, _, _ in codes),
        coded_bits=sum(8 * size for _, _, size in codes),
    )


def _entropy_bits(symbols: NDArray[Any]) -> float:
    """What all symbols take at their empirical order-0 entropy; 0 for none."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(symbols.size / counts)).sum())
