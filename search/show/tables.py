"""Fronts, progress and inspections as JSON documents and as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lmcore.inspection import Inspection, LeafInspection, SiteInspection
from search.describe import setting_text
from search.front import Front, Point
from search.rules.sensitivity import Effect, Effects, Predicted, spread
from search.study.study import Progress
from search.units import format_size

ENERGIES = (0.5, 0.9, 0.99)  # shares of the squared Frobenius norm whose ranks are told
SHOWN = 12  # points of a predicted front in a table
CURVE_POINTS = 64  # at most so many ranks of a spectrum stand in a document


def front_document(front: Front) -> dict[str, Any]:
    """{"study", "front": [{"trial", "size_bytes", "valid_perplexity", "recipe", ...}]}."""
    return {
        "study": front.study,
        "front": [
            {
                "trial": point.trial,
                "size_bytes": point.size_bytes,
                "valid_perplexity": point.valid_perplexity,
                "tokens_per_second": point.tokens_per_second,
                "recipe": point.recipe,
            }
            for point in front.points
        ],
    }


def front_table(front: Front, baselines: Iterable[Point]) -> str:
    """The front by size, then what was measured beside the search."""
    knee = front.knee() if front.points else None
    rows = [("trial", "size", "perplexity", "")]
    rows += [_row(point, "<- knee" if point is knee else "") for point in front.points]
    rows += [_row(point, "") for point in baselines]
    lines = aligned(rows, ">>><")
    counts = [f"{len(front.points)} on the front", f"{len(front.dominated)} dominated"]
    if front.infeasible:
        counts.append(f"{len(front.infeasible)} over max_size or max_perplexity")
    lines.append(f"perplexity on valid; {', '.join(counts)}")
    return "\n".join(lines)


def aligned(rows: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    """Lines with each column as wide as its widest cell; `sides` has a < or > for each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _row(point: Point, note: str) -> tuple[str, str, str, str]:
    return point.name, format_size(point.size_bytes), f"{point.valid_perplexity:.2f}", note


def effects_document(study: str, effects: Effects) -> dict[str, Any]:
    """{"study", "parts": part -> its settings alone, "front": the predicted one}."""
    return {
        "study": study,
        "size_bytes": effects.size_bytes,
        "valid_perplexity": effects.perplexity,
        "parts": {
            part: [
                {
                    "parameters": dict(effect.parameters),
                    "site_bytes": effect.site_bytes,
                    "nats": effect.nats,
                }
                for effect in settings
            ]
            for part, settings in effects.parts.items()
        },
        "front": [
            {
                "size_bytes": round(one.size_bytes),
                "valid_perplexity": effects.perplexity_of(one),
                "parameters": dict(one.parameters),
            }
            for one in effects.front
        ],
    }


def effects_table(effects: Effects, lists: Mapping[str, Sequence[Any]]) -> str:
    """What each setting saves and costs alone, then some points of the predicted front; `lists` are
    the space's ordered ones, whose places the parameters are."""
    rows = [("alone", "", "size", "perplexity")]
    whole = sum(effects.dense.site_bytes.values())
    for part, settings in effects.parts.items():
        for name, effect in zip((part, *[""] * len(settings)), settings, strict=False):
            left = effects.size_bytes - whole + sum(effect.site_bytes.values())
            reached = effects.perplexity * math.exp(effect.nats)
            rows.append((name, _settings(effect, lists), format_size(left), f"{reached:.2f}"))
    front = effects.front
    shown = spread(front, SHOWN)
    points = [("predicted", "size", "perplexity", "")]
    for one in shown:
        size = format_size(round(one.size_bytes))
        points.append(("", size, f"{effects.perplexity_of(one):.2f}", _settings(one, lists)))
    return "\n".join(
        [
            *aligned(rows, "<<>>"),
            "",
            *aligned(points, "<>><"),
            f"perplexity on valid, without training; {len(shown)} of {len(front)} points predicted",
        ]
    )


def _settings(one: Effect | Predicted, lists: Mapping[str, Sequence[Any]]) -> str:
    """ "decoder.bits.step=0.7, rank=40"."""
    named = ((name, lists[name][v] if name in lists else v) for name, v in one.parameters)
    values = ((name, f"{v:.3g}" if isinstance(v, float) else str(v)) for name, v in named)
    return ", ".join(f"{name}={value}" for name, value in values)


def progress_document(progress: Progress) -> dict[str, Any]:
    return {
        "study": progress.study,
        "trials": progress.trials,
        "complete": progress.complete,
        "infeasible": progress.infeasible,
        "running": progress.running,
        "failed": progress.failed,
        "left": progress.left,
        "median_seconds": progress.seconds,
    }


def progress_text(progress: Progress, workers: int) -> str:
    """How many trials are done, running, failed and why, and how long the rest will take."""
    lines = [f"{progress.study}: {progress.complete} of {progress.trials} trials complete"]
    if progress.infeasible:
        lines.append(f"{progress.infeasible} of them over max_size or max_perplexity")
    if progress.running:
        lines.append(f"{progress.running} running, or stopped and to be gone on with")
    for reason, count in progress.failed.items():
        lines.append(f"{count} failed: {reason.strip().splitlines()[-1]}")
    if progress.left and not workers:
        lines.append(f"{progress.left} to go, by workers started elsewhere")
    elif progress.left and progress.seconds:
        minutes = progress.left * progress.seconds / workers / 60
        lines.append(f"{progress.left} to go, about {minutes:.0f} min with {workers} worker(s)")
    return "\n".join(lines)


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
    """What the bytes hold, a line a part of the file; then the norms, a line a matrix."""
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
    """As in "svd(rank=40): 10000 x 40, 40 x 200"; no shapes where the matrix is the one leaf."""
    text = setting_text(site.structure.plain())
    shapes = [leaf.shape for leaf in site.leaves.values()]
    return text if shapes == [site.shape] else f"{text}: {', '.join(map(_shape, shapes))}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _number(value: float) -> str:
    """Four significant digits, thousands written out."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
