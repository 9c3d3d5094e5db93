"""Whether a bundle that lies can do more than be refused.

    python -m benchmarks.fuzz [COUNT [FIRST]]

reads COUNT (1,000) mutants of good bundles, each signed again (see `benchmarks/hostile.py`), from
the number FIRST (0) on, and prints a table of what became of them and the number of each that went
wrong. `python -m benchmarks.fuzz 1 FIRST` tries that one again. Each batch of mutants is read in a
process of its own with bounded memory; a mutant that ends its process counts as crashed.

Seconds are of the processor. Memory is what the process had at most while it read the mutant,
beyond what it had before. What is loaded must be a model that can be used: its parts agree, it
answers, or says in a sentence why not, and its file loads again to the same model.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.hostile import mutant
from benchmarks.specimens import specimens
from lmcore.bundle import Bundle, load, pack
from lmcore.errors import UserError
from lmcore.inspection import inspect
from lmcore.loaded_classifier import LoadedClassifier
from lmcore.loaded_reader import LoadedReader
from lmcore.loaded_tagger import LoadedTagger
from lmcore.networks.bilm import BiLM
from lmcore.networks.classifier import Classifier
from lmcore.networks.matcher import Matcher
from lmcore.networks.reader import Reader
from lmcore.networks.tagger import Tagger
from lmcore.runtime import prepare

SEED = 0
BATCH = 5000
SECONDS, MORE_BYTES, MESSAGE = 1.0, 300 * 10**6, 400
ADDRESS_BYTES = 16 * 10**9
REFUSED, LOADED, CRASHED = "refused", "loaded and usable", "crashed"
CONTRADICTORY, SLOW, LARGE = "contradictory", "over 1 s", "over 300 MB"
OUTCOMES = (REFUSED, LOADED, CRASHED, CONTRADICTORY, SLOW, LARGE)
GOOD = (REFUSED, LOADED)

Found = tuple[int, str, str]  # a mutant's number, what became of it, more of that


def judge(numbers: range, folder: Path) -> list[Found]:
    """What became of each mutant."""
    path, found = folder / "mutant.lmb", []
    for number in numbers:
        path.write_bytes(mutant(SEED, number))
        _forget_peak()
        before, started = _peak_bytes(), time.process_time()
        bundle, outcome, detail = _read(path)
        seconds = time.process_time() - started
        if seconds > SECONDS:
            outcome, detail = SLOW, f"{seconds:.1f} s; {detail}"
        if (more := _peak_bytes() - before) > MORE_BYTES:
            outcome, detail = LARGE, f"{more / 1e6:.0f} MB; {detail}"
        if outcome == LOADED and bundle is not None:
            outcome, detail = _use(bundle, folder / "again.lmb")
        found.append((number, outcome, detail))
    return found


def _read(path: Path) -> tuple[Bundle | None, str, str]:
    try:
        return load(path), LOADED, ""
    except UserError as error:
        message = str(error)
        is_short = message.count("\n") == 0 and len(message) < len(str(path)) + MESSAGE
        said_well = is_short and message.startswith(str(path))
        return None, REFUSED if said_well else CRASHED, message
    except BaseException:
        return None, CRASHED, traceback.format_exc()


def _use(bundle: Bundle, path: Path) -> tuple[str, str]:
    try:
        if wrong := contradictions(bundle):
            return CONTRADICTORY, "; ".join(wrong)
        for use in (_ask, inspect):
            with suppress(UserError):
                use(bundle)
        path.write_bytes(pack(bundle.model, bundle.vocabulary))
        if _content(load(path)) != _content(bundle):
            return CONTRADICTORY, "its file gives another model"
    except BaseException:
        return CRASHED, traceback.format_exc()
    return LOADED, ""


@torch.no_grad()
def _ask(bundle: Bundle) -> None:
    match bundle.model:
        case Tagger():
            LoadedTagger(bundle).tag(["word1", "other"])
        case Classifier():
            LoadedClassifier(bundle).probabilities("word1 other")
        case Matcher():
            LoadedClassifier(bundle).probabilities("word1 other", "word2")
        case Reader():
            LoadedReader(bundle).answer("word1 other?", "word2 word1 other.")
        case BiLM() as both:
            for language, ids in both.readers(torch.tensor([0, 1])):
                language.loss(ids[:-1, None], ids[1:, None], language.zero_state(1))
        case _:
            model = bundle.language
            model.loss(torch.tensor([[0]]), torch.tensor([[1]]), model.zero_state(1))


def _content(bundle: Bundle) -> list[Any]:
    """All that a file holds, to be compared."""
    model = bundle.model
    coded = [array.tolist() for leaf in model.leaves.values() for array in leaf.write()]
    structures = [weight.structure for weight in model.sites.values()]
    return [model.settings, bundle.vocabulary.words, structures, coded]


def contradictions(bundle: Bundle) -> list[str]:
    """What two parts of a loaded bundle say differently."""
    model, words = bundle.model, len(bundle.vocabulary)
    found = []
    if not words == len(set(bundle.vocabulary.words)) == model.words:
        found.append(f"{words} words, {model.words} rows")
    shapes = model.settings.site_shapes(words)
    if {site: weight.shape for site, weight in model.sites.items()} != shapes:
        found.append("the sites' shapes are not the model's")
    if {n: leaf.shape for n, leaf in model.biases.items()} != model.settings.bias_shapes(words):
        found.append("the biases' shapes are not the model's")
    for site, weight in model.sites.items():
        own = {name: leaf.shape for name, leaf in weight.leaves.items()}
        if own != weight.structure.leaf_shapes(weight.shape):
            found.append(f"{site}: the leaves' shapes are not the structure's")
        if sum(map(math.prod, own.values())) > math.prod(weight.shape):
            found.append(f"{site}: more numbers than the matrix has")
    for name, leaf in model.leaves.items():
        for stream, array in zip(leaf.spec.streams, leaf.write(), strict=True):
            if array.shape != stream.shape:
                found.append(f"{name}: a stream of {stream.shape} has {array.shape}")
            elif array.size and not stream.low <= array.min() <= array.max() <= stream.high:
                found.append(f"{name}: a code outside [{stream.low}, {stream.high}]")
    return found


def _forget_peak() -> None:
    """Let `_peak_bytes` begin anew, where the system can: on Linux. Elsewhere, memory is seen only
    where it is more than ever before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The most memory that this process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _batch(first: int, stop: int) -> list[Found]:
    prepare()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for data in specimens():  # what a first time takes is not a mutant's
            (folder / "good.lmb").write_bytes(data)
            outcome, detail = _use(load(folder / "good.lmb"), folder / "again.lmb")
            assert outcome == LOADED, detail
        return judge(range(first, stop), folder)


def _in_a_process(first: int, stop: int) -> list[Found]:
    """The batch, in halves where a mutant ends the process."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_batch, first, stop).result()
    except BrokenProcessPool:
        if stop - first == 1:
            return [(first, CRASHED, "it ended the process")]
        middle = (first + stop) // 2
        return _in_a_process(first, middle) + _in_a_process(middle, stop)


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    count, first = given + [1000, 0][len(given) :]
    totals: Counter[str] = Counter()
    for start in range(first, first + count, BATCH):
        stop = min(start + BATCH, first + count)
        for number, outcome, detail in _in_a_process(start, stop):
            totals[outcome] += 1
            if outcome not in GOOD or count == 1:
                print(f"{number}: {outcome}: {detail}", flush=True)
        print(f"{stop:,}", *(f"{totals[name]:,} {name}" for name in OUTCOMES), sep="  ", flush=True)
    if any(totals[name] for name in OUTCOMES if name not in GOOD):
        sys.exit(1)


if __name__ == "__main__":
    main()
