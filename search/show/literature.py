"""Published size-perplexity points to compare with, as their sources state them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

CORPUS = "ptb"


@dataclass(frozen=True)
class PublishedPoint:
    """One row of `literature.csv`.

    `label` is what a picture writes beside the point, empty where another at the same size bears
    the same; `base` is the model the method was applied to, "layers x units" or "units-units".
    `size_bytes` is as published, often 4 bytes a weight; it was not measured on a file.
    `source_type` is "paper" or "slides". The perplexities are as published; those not given are
    None.
    """

    name: str
    label: str
    source: str
    source_type: str
    base: str
    method: str
    weights_millions: float | None
    size_bytes: int
    valid_perplexity: float | None
    test_perplexity: float
    note: str


def published_points(corpus: str) -> tuple[PublishedPoint, ...]:
    """The published points of `corpus`, in the order of the file; only Penn Treebank has any."""
    if corpus != CORPUS:
        return ()
    text = files("search.show").joinpath("literature.csv").read_text(encoding="utf-8")
    return tuple(_point(row) for row in csv.DictReader(text.splitlines()))


def _point(row: dict[str, str]) -> PublishedPoint:
    return PublishedPoint(
        name=row["name"],
        label=row["label"],
        source=row["source"],
        source_type=row["source_type"],
        base=row["base"],
        method=row["method"],
        weights_millions=_number(row["params_millions"]),
        size_bytes=round(float(row["size_mb"]) * 10**6),
        valid_perplexity=_number(row["valid_ppl"]),
        test_perplexity=float(row["test_ppl"]),
        note=row["note"],
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
