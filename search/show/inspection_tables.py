"""An inspection as a JSON document and as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmcore.inspection import Inspection, LeafInspection, SiteInspection
from search.describe import setting_text
from search.show.tables import aligned
from search.units import format_size

ENERGIES = (0.5, 0.9, 0.99)  # shares of the squared Frobenius norm whose ranks are told
CURVE_POINTS = 64  # at most so many ranks of a spectrum stand in a document


def inspection_document(inspection: Inspection) -> dict[str, Any]:
    """{"size_bytes", "parts": part -> bytes, "sites": site -> all that is known of its matrix}."""
    return {
        "size_bytes": inspection.size_bytes,
        "parts": inspection.parts,
        "sites": {
            name: _site_document(site, site.size_bytes / inspection.size_bytes)
            for name, site in inspection.sites.items()
        },
    }


def _site_document(site: SiteInspection, share: float) -> dict[str, Any]:
    ranks, energy = _spread(len(site.singular_values)), site.energy
    return {
        "shape": site.shape,
        "structure": site.structure.plain(),
        "size_bytes": site.size_bytes,
        "share": share,
        "bits_per_weight": site.bits_per_weight,
        "sparsity": site.sparsity,
        "bits": site.bits,
        "entropy_bits": site.entropy_bits,
        "coded_bits": site.coded_bits,
        "l1": site.l1,
        "mean_magnitude": site.mean_magnitude,
        "frobenius": site.frobenius,
        "spectral": site.spectral,
        "nuclear": site.nuclear,
        "stable_rank": site.stable_rank,
        "rank_of_energy": {str(share): site.rank_of(share) for share in ENERGIES},
        "curve": {
            "rank": ranks,
            "singular_value": [site.singular_values[rank - 1] for rank in ranks],
            "energy": [float(energy[rank]) for rank in ranks],
        },
        "leaves": {name: _leaf_document(leaf) for name, leaf in site.leaves.items()},
    }


def _leaf_document(leaf: LeafInspection) -> dict[str, Any]:
    return {
        "shape": leaf.shape,
        "codec": leaf.codec.plain(),
        "size_bytes": leaf.size_bytes,
        "values": leaf.values,
        "zeros": leaf.zeros,
        "bits": leaf.bits,
        "entropy_bits": leaf.entropy_bits,
        "coded_bits": leaf.coded_bits,
    }


def _spread(last: int) -> list[int]:
    """1 to `last`, evenly thinned to `CURVE_POINTS` numbers where there are more."""
    every = np.linspace(1, last, min(last, CURVE_POINTS))
    return [int(rank) for rank in every.round()]


def inspection_table(inspection: Inspection) -> str:
    """Two tables: the bytes, with a line for each part of the file; the norms, with a line for each
    matrix."""
    total = inspection.size_bytes
    heads = ["shape", "structure", "codes", "size", "share", "bits/weight", "zeros"]
    spent = [("", *heads, "bits", "entropy", "in file")]
    for name, site in inspection.sites.items():
        codecs = dict.fromkeys(leaf.codec.kind for leaf in site.leaves.values())
        shares = (f"{site.bits_per_weight:#.3g}", f"{site.sparsity:.1%}")
        bits = (f"{site.bits:#.3g}", f"{site.entropy_bits:#.3g}", f"{site.coded_bits:#.3g}")
        size = (format_size(site.size_bytes), f"{site.size_bytes / total:.1%}")
        form = (_shape(site.shape), _structure(site), " ".join(codecs))
        spent.append((name, *form, *size, *shares, *bits))
    for name, size_bytes in inspection.others.items():
        size = (format_size(size_bytes), f"{size_bytes / total:.1%}")
        spent.append((name, "", "", "", *size, "", "", "", "", ""))
    spent.append(("file", "", "", "", format_size(total), "100.0%", "", "", "", "", ""))
    heads = ["mean |w|", "L1", "Frobenius", "spectral", "nuclear", "stable rank"]
    norms = [("", *heads, *(f"rank of {share:.0%}" for share in ENERGIES))]
    for name, site in inspection.sites.items():
        values = map(_number, (site.l1, site.frobenius, site.spectral, site.nuclear))
        ranks = (f"{site.stable_rank:.1f}", *(str(site.rank_of(share)) for share in ENERGIES))
        norms.append((name, f"{site.mean_magnitude:#.3g}", *values, *ranks))
    return "\n".join(
        [
            *aligned(spent, "<<<<" + 7 * ">"),
            "bits a stored value: before coding, at its codes' entropy, as coded in the file; "
            "bits/weight: all bytes",
            "",
            *aligned(norms, "<" + 9 * ">"),
            "stable rank: Frobenius^2 / spectral^2; rank of 90%: the least that keeps 90% of "
            "Frobenius^2",
        ]
    )


def _structure(site: SiteInspection) -> str:
    """The form of a site, as in "svd(rank=40): 10000 x 40, 40 x 200".

    The shapes of the leaves are left out where the matrix itself is the only leaf.
    """
    text = setting_text(site.structure.plain())
    shapes = [leaf.shape for leaf in site.leaves.values()]
    return text if shapes == [site.shape] else f"{text}: {', '.join(map(_shape, shapes))}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _number(value: float) -> str:
    """Four significant digits, thousands written out."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
