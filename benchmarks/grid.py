"""A finite grid of recipes on a real model, each measured at all its rungs, and each part alone.

    python -m benchmarks.grid

records what is missing from grid.csv beside this file (about an hour on two cores in all; it goes
on where it was stopped). `benchmarks.search` replays the table.
"""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from tqdm import tqdm

from lmcore.corpus import load_corpus
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.settings import parse
from search.commands import settings_of
from search.config import SweepConfig
from search.dense import find_dense, train_dense
from search.fidelity import Look, TowardsFront
from search.trial import Workbench

TABLE = Path(__file__).with_name("grid.csv")
RUNGS, EPOCHS = (0.0, 0.25, 1.0), 4.0
AXES: dict[str, tuple[Any, ...]] = {
    "embedding": (96, 72, 48),  # its width
    "rank": (0, 40, 20),  # of the decoder; 0: dense
    "words": (0.4, 0.8, 1.4, 2.2),  # the step of embedding and decoder, in standard deviations
    "sparsity": (0.0, 0.5, 0.8),  # of the layer's matrices
    "layer": (0.5, 1.0, 1.8),  # their step
}
PARTS = (("embedding",), ("rank", "words"), ("sparsity", "layer"))  # what is measured alone
COLUMNS = (*AXES, "rung", "size_bytes", "perplexity", "seconds")

Cell = tuple[Any, ...]  # a value of each axis, None where the dense model's stays


@dataclass(frozen=True)
class Grid:
    """What was recorded: the dense model, each cell at each rung, each part alone."""

    dense: Look
    looks: dict[Cell, tuple[Look, ...]]
    seconds: dict[Cell, tuple[float, ...]]  # of training, up to each rung
    alone: dict[Cell, Look]


def cells() -> list[Cell]:
    return list(itertools.product(*AXES.values()))


def parts() -> Iterator[Cell]:
    """Each part at each of its settings, all else dense; nothing but dense, first."""
    yield (None,) * len(AXES)
    for part in PARTS:
        for values in itertools.product(*(AXES[axis] for axis in part)):
            given = dict(zip(part, values, strict=True))
            yield tuple(given.get(axis) for axis in AXES)


def recipe_of(cell: Cell) -> dict[str, Any]:
    """The recipe of a cell, as plain data."""
    given = dict(zip(AXES, cell, strict=True))
    words: dict[str, Any] = {"bits": "float16"}
    if given["words"]:
        words = {"bits": {"kind": "uniform", "step": given["words"]}}
    layer: dict[str, Any] = {"bits": "float16"}
    if given["layer"]:
        layer = {
            "sparsity": given["sparsity"],
            "bits": {"kind": "uniform", "step": given["layer"]},
        }
    low_rank = {"structure": {"kind": "svd", "rank": given["rank"]}} if given["rank"] else {}
    return {
        "layers": {"embedding": given["embedding"]},
        "sites": {"decoder": words | low_rank, "embedding": words, "*": layer},
        "biases": {"kind": "linear", "bits": 8},
        "finetuning": {
            "epochs": EPOCHS,
            "batch": 16,
            "optimizer": "adam",
            "rate": 0.002,
            "dropout": {"kind": "sequence", "rate": 0.3},
        },
    }


def read() -> Grid:
    """The recorded table."""
    looks: dict[Cell, list[Look]] = {}
    seconds: dict[Cell, list[float]] = {}
    with TABLE.open() as file:
        for line in csv.DictReader(file):
            cell, rung, look = _parsed(line)
            looks.setdefault(cell, []).append(look)
            seconds.setdefault(cell, []).append(float(line["seconds"]))
            assert len(looks[cell]) == rung + 1, f"{TABLE}: the rungs of {cell} are not in order"
    dense = (None,) * len(AXES)
    whole = {cell: tuple(looks[cell]) for cell in cells()}
    return Grid(
        dense=looks[dense][0],
        looks=whole,
        seconds={cell: tuple(seconds[cell]) for cell in whole},
        alone={cell: looks[cell][0] for cell in parts() if cell != dense},
    )


def _parsed(line: dict[str, str]) -> tuple[Cell, int, Look]:
    cell = tuple(
        type(values[0])(line[axis]) if line[axis] else None for axis, values in AXES.items()
    )
    rung = int(line["rung"])
    return cell, rung, Look(-1, rung, int(line["size_bytes"]), float(line["perplexity"]))


# --- recording ---------------------------------------------------------------------------------


def main() -> None:
    prepare()
    _bench()  # trains the dense model, where it is not at hand
    known = set()
    if TABLE.exists():
        with TABLE.open() as file:
            known = {_parsed(line)[0] for line in csv.DictReader(file)}
    else:
        TABLE.write_text(",".join(COLUMNS) + "\n")
    missing = [(cell, False) for cell in parts() if cell not in known]
    missing += [(cell, True) for cell in cells() if cell not in known]
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with (
        multiprocessing.get_context("spawn").Pool(workers, prepare) as pool,
        TABLE.open("a", newline="") as file,
    ):
        writer = csv.writer(file)
        measured = pool.imap_unordered(_measure, missing)
        for rows in tqdm(measured, total=len(missing), mininterval=20):
            writer.writerows(rows)
            file.flush()


def _measure(asked: tuple[Cell, bool]) -> list[tuple[Any, ...]]:
    """The lines of a cell: of all its rungs, or of the one without training."""
    cell, climbs = asked
    bench = _bench()
    model = bench.dense.model
    recipe = resolve(parse(Recipe, recipe_of(cell), "recipe"), model.settings, model.words)
    ladder = TowardsFront(rungs=RUNGS).ladder(recipe)
    lines = []
    for rung, step in enumerate(ladder if climbs else ladder[:1]):
        one = bench.measure(step, goes_on=rung + 1 < len(ladder))
        numbers = (one.size_bytes, f"{one.valid_perplexity:.4f}", f"{one.seconds:.2f}")
        lines.append((*("" if value is None else value for value in cell), rung, *numbers))
    return lines


@cache
def _bench() -> Workbench:
    with initialize_config_module("search.conf", version_base="1.3"):
        composed = compose("sweep", ["study=quickstart", "name=grid"])
    config = settings_of(SweepConfig, composed)
    corpus = load_corpus(config.corpus, config.folder)
    dense = find_dense(config, corpus) or train_dense(config, corpus)
    return Workbench.of(config, corpus, dense.load())


if __name__ == "__main__":
    main()
