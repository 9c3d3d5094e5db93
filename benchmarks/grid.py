"""A finite grid of recipes on a real model, each measured at all its rungs, and each part alone.

    python -m benchmarks.grid [WORKERS]

records the recipes that are missing from grid.csv beside this file, on a part of Penn Treebank. All
of them take about an hour on two cores; a recording that was stopped goes on where it was.
`benchmarks.search` replays the table.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module

from lmcore.bundle import load
from lmcore.corpus import EOS, TextFiles, load_corpus
from lmcore.evaluation import unigram_perplexity
from lmcore.files import write_atomic, write_json
from lmcore.inspection import inspect
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.settings import parse
from search.bench.dense import find_dense, train_dense
from search.bench.workbench import Workbench, provenance
from search.commands import settings_of
from search.config import SweepConfig
from search.rules.fidelity import Look, TowardsFront
from search.rules.sensitivity import Effect
from search.terminal import progress_bar

TABLE, FACTS = (Path(__file__).with_name(name) for name in ("grid.csv", "grid.json"))
RUNGS, EPOCHS = (0.0, 0.25, 1.0), 4.0
TOKENS, WORDS = {"train": 93_000, "valid": 11_000, "test": 11_000}, 2000  # of the corpus
AXES: dict[str, tuple[Any, ...]] = {
    "embedding": (96, 72, 48),  # its width
    "rank": (0, 40, 20),  # of the decoder; 0: dense
    "words": (0.1, 0.4, 1.0, 2.2),  # the step of embedding and decoder, in standard deviations
    "sparsity": (0.0, 0.5, 0.8),  # of the layer's matrices
    "layer": (0.2, 0.7, 1.6),  # their step
}
PARTS = (("embedding",), ("rank", "words"), ("sparsity", "layer"))  # what is measured alone
COLUMNS = (*AXES, "rung", "size_bytes", "perplexity", "seconds", "site_bytes")

Cell = tuple[Any, ...]  # a value of each axis, None where the dense model's stays
DENSE: Cell = (None,) * len(AXES)


@dataclass(frozen=True)
class Grid:
    """What was recorded: the dense model, each cell at each rung, each part alone."""

    dense: Look
    looks: dict[Cell, tuple[Look, ...]]
    alone: dict[Cell, Effect]  # with nothing, the dense model
    unigram_perplexity: float


def cells() -> list[Cell]:
    return list(itertools.product(*AXES.values()))


def parts() -> Iterator[Cell]:
    """Each part at each of its settings, all else dense; nothing but dense, first."""
    yield DENSE
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
            "batch": 8,
            "optimizer": "adam",
            "rate": 0.002,
            "dropout": {"kind": "sequence", "rate": 0.3},
        },
    }


def read() -> Grid:
    """The recorded table."""
    looks: dict[Cell, dict[int, Look]] = {}
    site_bytes: dict[Cell, dict[str, int]] = {}
    with TABLE.open() as file:
        for line in csv.DictReader(file):
            cell = _cell(line)
            rung, size_bytes = int(line["rung"]), int(line["size_bytes"])
            found = looks.setdefault(cell, {})
            found[rung] = Look(-1, rung, size_bytes, float(line["perplexity"]))
            if line["site_bytes"]:
                site_bytes[cell] = json.loads(line["site_bytes"])
    dense = looks[DENSE][0]
    return Grid(
        dense=dense,
        looks={cell: tuple(looks[cell][rung] for rung in range(4)) for cell in cells()},
        alone={
            cell: Effect(
                math.log(looks[cell][0].perplexity / dense.perplexity),
                site_bytes[cell],
                tuple(
                    (axis, value)
                    for axis, value in zip(AXES, cell, strict=True)
                    if value is not None
                ),
            )
            for cell in parts()
        },
        unigram_perplexity=json.loads(FACTS.read_text())["unigram_perplexity"],
    )


def _cell(line: dict[str, str]) -> Cell:
    return tuple(
        type(values[0])(line[axis]) if line[axis] else None for axis, values in AXES.items()
    )


# --- recording ---------------------------------------------------------------------------------


def main() -> None:
    prepare()
    corpus = _bench().corpus  # the dense model is trained where it is not at hand
    unigram = unigram_perplexity(corpus.train, corpus.valid, len(corpus.vocabulary))
    facts = {"unigram_perplexity": unigram, **provenance()}
    write_json(FACTS, {"corpus": corpus.describe(), **facts})
    known = set()
    if TABLE.exists():
        with TABLE.open() as file:
            known = {_cell(line) for line in csv.DictReader(file)}
    else:
        TABLE.write_text(",".join(COLUMNS) + "\n")
    missing = [(cell, False) for cell in parts() if cell not in known]
    missing += [(cell, True) for cell in cells() if cell not in known]
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with (
        multiprocessing.get_context("spawn").Pool(workers, prepare) as pool,
        TABLE.open("a", newline="") as file,
        progress_bar("grid", "cells") as bar,
    ):
        writer = csv.writer(file, lineterminator="\n")
        measured = pool.imap_unordered(_measure, missing)
        for number, rows in enumerate(measured, 1):
            writer.writerows(rows)
            file.flush()
            bar.to(number, len(missing))


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
        sizes = "" if climbs else json.dumps(_site_bytes(bench.path(one.key)))
        numbers = (one.size_bytes, f"{one.valid_perplexity:.4f}", f"{one.seconds:.2f}", sizes)
        lines.append((*("" if value is None else value for value in cell), rung, *numbers))
    return lines


def _site_bytes(path: Path) -> dict[str, int]:
    return {name: site.size_bytes for name, site in inspect(load(path)).sites.items()}


@cache
def _bench() -> Workbench:
    with initialize_config_module("search.conf", version_base="1.3"):
        composed = compose("sweep", ["study=quickstart", "name=grid", "corpus=ptb"])
    config = settings_of(SweepConfig, composed)
    whole = load_corpus(config.corpus, config.folder)
    texts = {split: config.folder / "grid" / f"{split}.txt" for split in TOKENS}
    for split, path in texts.items():
        words = (whole.vocabulary.words[index] for index in whole.split(split)[: TOKENS[split]])
        write_atomic(path, " ".join(words).replace(f" {EOS} ", "\n").encode())
    train, valid, test = (str(path) for path in texts.values())
    part = TextFiles(train=train, valid=valid, test=test, max_words=WORDS)
    config = config.model_copy(update={"corpus": part})
    corpus = load_corpus(config.corpus, config.folder)
    checkpoint = find_dense(config, corpus) or train_dense(config, corpus)
    return Workbench.of(config, corpus, checkpoint.load())


if __name__ == "__main__":
    main()
