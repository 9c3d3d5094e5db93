"""Finite grids of recipes on real models, each measured at all its rungs, and each part alone.

    python -m benchmarks.grid [WORKERS] [GRID]

records the recipes that are missing from GRID.csv beside this file; the grids are those of `GRIDS`,
`grid` first. A recording that was stopped goes on where it was. `benchmarks.search` replays the
tables.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module

from lmcore.bundle import load
from lmcore.corpus import EOS, Corpus, TextFiles, load_corpus, unigram_perplexity
from lmcore.files import content_key, write_atomic, write_json
from lmcore.inspection import inspect
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.settings import parse
from search.bench.dense import find_dense, train_dense
from search.bench.workbench import Workbench, provenance
from search.commands import settings_of
from search.config import SweepConfig
from search.rules.fidelity import Look, TowardsFront
from search.rules.limits import Box, BoxSettings
from search.rules.sensitivity import Effect
from search.terminal import progress_bar

TOKENS = {"train": 93_000, "valid": 11_000, "test": 11_000}  # of the corpus
WORDS = 2000  # of the vocabulary of a text of so many tokens
Cell = tuple[Any, ...]  # a value of each axis, None where the dense model's stays


@dataclass(frozen=True)
class Design:
    """What is recorded: the recipes of all combinations of the `axes`, on the dense model of a
    study, which `bench` makes.

    Each of `parts`, some of the axes, is measured alone, too. `recipe` makes plain data of a value
    of each axis; its fine-tuning has the epochs of the last rung. `box` is what a search is to
    search.
    """

    name: str  # of its files
    axes: Mapping[str, tuple[Any, ...]]
    parts: tuple[tuple[str, ...], ...]
    rungs: tuple[float, ...]  # in epochs, without the last one
    epochs: float
    recipe: Callable[[Mapping[str, Any]], dict[str, Any]]
    bench: Callable[[], Workbench]
    box: BoxSettings | None = None

    @property
    def table(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.csv")

    @property
    def facts(self) -> Path:
        return self.table.with_suffix(".json")

    @property
    def columns(self) -> tuple[str, ...]:
        return *self.axes, "rung", "size_bytes", "perplexity", "seconds", "site_bytes"

    @property
    def ladder(self) -> tuple[float, ...]:
        """The epochs of each rung of the table."""
        return *self.rungs, self.epochs

    @property
    def dense(self) -> Cell:
        return (None,) * len(self.axes)

    def cells(self) -> list[Cell]:
        return list(itertools.product(*self.axes.values()))

    def alone(self) -> Iterator[Cell]:
        """Each part at each of its settings, all else dense; nothing but dense, first."""
        yield self.dense
        for part in self.parts:
            for values in itertools.product(*(self.axes[axis] for axis in part)):
                given = dict(zip(part, values, strict=True))
                yield tuple(given.get(axis) for axis in self.axes)

    def named(self, cell: Cell) -> dict[str, Any]:
        """Axis -> the cell's value."""
        return dict(zip(self.axes, cell, strict=True))

    def cell(self, line: Mapping[str, str]) -> Cell:
        """The cell of a line of the table."""
        return tuple(
            type(values[0])(line[axis]) if line[axis] else None
            for axis, values in self.axes.items()
        )


@dataclass(frozen=True)
class Grid:
    """What was recorded: the dense model, each cell at each rung, each part alone."""

    design: Design
    dense: Look
    looks: dict[Cell, tuple[Look, ...]]
    alone: dict[Cell, Effect]  # with nothing, the dense model
    unigram_perplexity: float
    dense_bytes: int | None = None  # 4 a weight; earlier recordings did not store it

    @cached_property
    def box(self) -> Box | None:
        if self.design.box is None or self.dense_bytes is None:
            return None
        return self.design.box.around(self.dense_bytes, self.dense.perplexity)


def read(design: Design) -> Grid:
    """The recorded table."""
    looks: dict[Cell, dict[int, Look]] = {}
    site_bytes: dict[Cell, dict[str, int]] = {}
    with design.table.open() as file:
        for line in csv.DictReader(file):
            cell = design.cell(line)
            rung, size_bytes = int(line["rung"]), int(line["size_bytes"])
            found = looks.setdefault(cell, {})
            found[rung] = Look(-1, rung, size_bytes, float(line["perplexity"]))
            if line["site_bytes"]:
                site_bytes[cell] = json.loads(line["site_bytes"])
    dense, facts = looks[design.dense][0], json.loads(design.facts.read_text())
    rungs = range(len(design.ladder))
    return Grid(
        design=design,
        dense=dense,
        looks={cell: tuple(looks[cell][rung] for rung in rungs) for cell in design.cells()},
        alone={
            cell: Effect(
                math.log(looks[cell][0].perplexity / dense.perplexity),
                site_bytes[cell],
                tuple(one for one in design.named(cell).items() if one[1] is not None),
            )
            for cell in design.alone()
        },
        unigram_perplexity=facts["unigram_perplexity"],
        dense_bytes=facts.get("dense_bytes"),
    )


# --- the grids ---------------------------------------------------------------------------------


def _small_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
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
            "epochs": 4.0,
            "batch": 8,
            "optimizer": "adam",
            "rate": 0.002,
            "dropout": {"kind": "sequence", "rate": 0.3},
        },
    }


def _gentle_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with a rate that follows from what was lost, up to the first rung alone."""
    recipe = _small_recipe(given)
    gentle = {"epochs": 0.25, "full_rate_at": 0.4}
    return recipe | {"finetuning": recipe["finetuning"] | gentle}


# a codec at each degree of coarseness; a further kind, such as codes trained with a price on their
# bytes, is one more entry
TIED_CODECS: dict[str, tuple[dict[str, Any], ...]] = {
    "uniform": tuple({"kind": "uniform", "step": step} for step in (0.7, 1.0, 1.4, 2.0, 2.8)),
    "kmeans": tuple({"kind": "kmeans", "bits": bits} for bits in (6, 5, 4, 3, 2)),
    "linear": tuple({"kind": "linear", "bits": bits} for bits in (7, 6, 5, 4, 3)),
}


def _tied_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    def coded(codec: str | None, coarseness: int | None) -> dict[str, Any]:
        if codec is None or coarseness is None:
            return {"bits": "float16"}
        return {"bits": TIED_CODECS[codec][coarseness]}

    return {
        "sites": {
            "embedding": coded(given["embedding_codec"], given["embedding"]),
            "*": coded(given["layer_codec"], given["layer"]),
        },
        "biases": {"kind": "linear", "bits": 8},
        "finetuning": {
            "epochs": 1.0,
            "batch": 20,
            "window": 35,
            "optimizer": "sgd",
            "rate": 4.0,
            "full_rate_at": 0.4,
            "clip": 0.25,
            "dropout": {"kind": "sequence", "rate": 0.2, "rows": 0.1},
            "sampled": {"negatives": 300},
        },
    }


def _composed(*arguments: str) -> SweepConfig:
    with initialize_config_module("search.conf", version_base="1.3"):
        composed = compose("sweep", [*arguments, "corpus=ptb"])
    found: SweepConfig = settings_of(SweepConfig, composed)
    return found


@cache
def _small_bench() -> Workbench:
    """Of a tiny model of a part of Penn Treebank, trained where it is not at hand."""
    config = _composed("study=quickstart", "name=grid")
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


@cache
def _tied_bench() -> Workbench:
    """Of the published dense model of the study `ptb_tied`; what it is fine-tuned and measured on
    is a part of Penn Treebank."""
    config = _composed("study=ptb_tied", "name=grid2")
    whole = load_corpus(config.corpus, config.folder)
    checkpoint = find_dense(config, whole) or train_dense(config, whole)
    return Workbench.of(config, _beginning(whole), checkpoint.load())


def _beginning(corpus: Corpus) -> Corpus:
    """The first tokens of each split, over the same vocabulary."""
    train, valid, test = (corpus.split(split)[:count] for split, count in TOKENS.items())
    name = f"{corpus.name}, its beginning"
    return replace(corpus, name=name, train=train, valid=valid, test=test)


SMALL = Design(  # about an hour on two cores
    name="grid",
    axes={
        "embedding": (96, 72, 48),  # its width
        "rank": (0, 40, 20),  # of the decoder; 0: dense
        "words": (0.1, 0.4, 1.0, 2.2),  # the step of embedding and decoder, in standard deviations
        "sparsity": (0.0, 0.5, 0.8),  # of the layer's matrices
        "layer": (0.2, 0.7, 1.6),  # their step
    },
    parts=(("embedding",), ("rank", "words"), ("sparsity", "layer")),
    rungs=(0.0, 0.25, 1.0),
    epochs=4.0,
    recipe=_small_recipe,
    bench=_small_bench,
)
GENTLE = replace(SMALL, name="gentle", rungs=(0.0,), epochs=0.25, recipe=_gentle_recipe)
TIED = Design(
    name="grid2",
    axes={
        "embedding": (0, 1, 2, 3, 4),  # the coarseness of its codec, see `TIED_CODECS`
        "embedding_codec": ("uniform", "kmeans", "linear"),
        "layer": (0, 1, 2, 3),  # that of the layers' codec
        "layer_codec": ("uniform", "kmeans", "linear"),
    },
    parts=(("embedding", "embedding_codec"), ("layer", "layer_codec")),
    rungs=(0.0, 0.25),
    epochs=1.0,  # of a tenth of the text
    recipe=_tied_recipe,
    bench=_tied_bench,
    box=BoxSettings(size=(0.02, 0.3), perplexity=1.5),
)
GRIDS = {design.name: design for design in (SMALL, GENTLE, TIED)}


# --- recording ---------------------------------------------------------------------------------


def main() -> None:
    prepare()
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    design = GRIDS[sys.argv[2] if len(sys.argv) > 2 else SMALL.name]
    bench = design.bench()
    corpus, model = bench.corpus, bench.dense.model
    words = len(corpus.vocabulary)
    unigram = unigram_perplexity(corpus.train, corpus.valid, words)
    known_size = {"dense_bytes": 4 * model.settings.weights(words)}
    first = design.recipe(design.named(design.cells()[0]))
    recorded = {"recipe": content_key(first, design.ladder, bench.dense.sha256, corpus.key)}
    if design.table.exists():
        before = json.loads(design.facts.read_text()).get("recipe")
        if before not in (None, recorded["recipe"]):
            sys.exit(f"{design.table} was recorded with another recipe; move it away")
    facts = {"unigram_perplexity": unigram, **known_size, **recorded, **provenance()}
    write_json(design.facts, {"corpus": corpus.describe(), **facts})
    known = set()
    if design.table.exists():
        with design.table.open() as file:
            known = {design.cell(line) for line in csv.DictReader(file)}
    else:
        design.table.write_text(",".join(design.columns) + "\n")
    missing = [(cell, False) for cell in design.alone() if cell not in known]
    missing += [(cell, True) for cell in design.cells() if cell not in known]
    with (
        multiprocessing.get_context("spawn").Pool(workers, prepare) as pool,
        design.table.open("a", newline="") as file,
        progress_bar(design.name, "cells") as bar,
    ):
        writer = csv.writer(file, lineterminator="\n")
        measured = pool.imap_unordered(partial(_measure, design.name), missing)
        for number, rows in enumerate(measured, 1):
            writer.writerows(rows)
            file.flush()
            bar.to(number, len(missing))


def _measure(grid: str, asked: tuple[Cell, bool]) -> list[tuple[Any, ...]]:
    """The lines of a cell: of all its rungs, or of the one without training."""
    design = GRIDS[grid]
    cell, climbs = asked
    bench = design.bench()
    model = bench.dense.model
    given = parse(Recipe, design.recipe(design.named(cell)), "recipe")
    ladder = TowardsFront(rungs=design.rungs).ladder(resolve(given, model.settings, model.words))
    lines = []
    for rung, step in enumerate(ladder if climbs else ladder[:1]):
        one = bench.measure(step, goes_on=rung + 1 < len(ladder))
        sizes = "" if climbs else json.dumps(_site_bytes(bench.path(one.key)))
        numbers = (one.size_bytes, f"{one.valid_measure:.4f}", f"{one.seconds:.2f}", sizes)
        lines.append((*("" if value is None else value for value in cell), rung, *numbers))
    return lines


def _site_bytes(path: Path) -> dict[str, int]:
    return {name: site.size_bytes for name, site in inspect(load(path)).sites.items()}


if __name__ == "__main__":
    main()
