"""The literature: size-perplexity points of other people's work, as its sources state them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

CORPUS = "ptb"


@dataclass(frozen=True)
class LiteraturePoint:
    """One row of `literature.csv`.

    `label` is what a picture writes beside the point; it is empty where another point of the same
    size has the same label. `source_type` is "paper" or "slides". `base` is the model that the
    method was applied to, as "layers x units" or "units-units". `size_bytes` is as published, often
    4 bytes a weight, and was not measured on a file. A perplexity that the source does not give is
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
    valid_measure: float | None
    test_perplexity: float
    note: str


def literature_points(corpus: str) -> tuple[LiteraturePoint, ...]:
    """The literature on `corpus`, in the order of the file. Only Penn Treebank has any."""
    if corpus != CORPUS:
        return ()
    text = files("search.show").joinpath("literature.csv").read_text(encoding="utf-8")
    return tuple(_point(row) for row in csv.DictReader(text.splitlines()))


def _point(row: dict[str, str]) -> LiteraturePoint:
    return LiteraturePoint(
        name=row["name"],
        label=row["label"],
        source=row["source"],
        source_type=row["source_type"],
        base=row["base"],
        method=row["method"],
        weights_millions=_number(row["params_millions"]),
        size_bytes=round(float(row["size_mb"]) * 10**6),
        valid_measure=_number(row["valid_ppl"]),
        test_perplexity=float(row["test_ppl"]),
        note=row["note"],
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
