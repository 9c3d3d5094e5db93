"""What a perplexity costs with sampled softmax and without: the tied 2 x 200 model.

    python -m benchmarks.sampled runs/full --epochs 8
    python -m benchmarks.sampled runs/600 --epochs 8 --negatives 600 --full 0.2
    python -m benchmarks.sampled runs/words --epochs 1 --text my.txt --words 50000

The training is that of conf/training/variational.yaml, its schedule squeezed into `--epochs`, on
Penn Treebank or on your own text. The folder gets `epochs.jsonl`: after each epoch the processor
seconds that its training steps took so far, without those of validation, and the perplexity of the
validation text. Only processor seconds compare on a machine that does other work, too. The same
command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from lmcore.corpus import Corpus, PennTreebank, TextFiles, load_corpus
from lmcore.files import write_atomic, write_json
from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.network import Network
from lmcore.progress import TrainingRecord
from lmcore.runtime import prepare
from lmcore.training import train
from lmcore.training_settings import (
    DropoutSettings,
    Linear,
    SampledSoftmaxSettings,
    TrainingSettings,
)

LOGGED = 20  # updates between two notes of the time


class _Clock:
    """Processor seconds of training steps, kept over a stop.

    The notes are lines of an update and of the seconds up to there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.seconds, self._begun = path, 0.0, False
        lines = path.read_text().splitlines() if path.exists() else []
        self._notes = {int(update): float(seconds) for update, seconds in map(str.split, lines)}
        self._last = time.process_time()

    def __call__(self, record: TrainingRecord, updates: int) -> None:
        now = time.process_time()
        if not self._begun:  # the first call says where the training went on
            known = [seconds for at, seconds in self._notes.items() if at < record.updates]
            self.seconds, self._begun = max(known, default=0.0), True
        self.seconds += now - self._last
        self._last = now
        if record.updates % LOGGED == 0:
            with self._path.open("a") as file:
                file.write(f"{record.updates} {self.seconds:.3f}\n")

    def skip(self) -> None:
        """What ran since the last update was no training step."""
        self._last = time.process_time()


def _settings(given: argparse.Namespace) -> TrainingSettings:
    sampled = given.negatives and SampledSoftmaxSettings(
        negatives=given.negatives, proposal=given.proposal, full=given.full
    )
    return TrainingSettings(
        epochs=given.epochs,
        batch=20,
        window=35,
        rate=20.0,
        schedule=Linear(hold=0.58, final=0.02),
        clip=0.25,
        dropout=DropoutSettings(kind="sequence", rate=given.dropout, rows=given.dropout / 2),
        weight_decay=1.2e-6,
        sampled=sampled or None,
    )


def _corpus(given: argparse.Namespace) -> Corpus:
    if given.text is None:
        return load_corpus(PennTreebank(), given.folder)
    return load_corpus(TextFiles(file=str(given.text), max_words=given.words), given.folder)


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("folder", type=Path, help="where the training and its results are kept")
    reader.add_argument("--epochs", type=float, default=8.0)
    reader.add_argument("--dropout", type=float, default=0.2)
    reader.add_argument("--negatives", type=int, default=0, help="0: full softmax")
    reader.add_argument("--proposal", choices=("unigram", "log_uniform"), default="unigram")
    reader.add_argument("--full", type=float, default=0.1)
    reader.add_argument("--text", type=Path, help="your own text; else Penn Treebank")
    reader.add_argument("--words", type=int, default=50_000, help="of your own text")
    given = reader.parse_args()
    prepare()
    given.folder.mkdir(parents=True, exist_ok=True)
    corpus = _corpus(given)
    words = len(corpus.vocabulary)
    settings = ModelSettings(layers=2, hidden=200, embedding=200, tied=True)
    model = random_model(settings, words, 0.1, torch.Generator().manual_seed(0))
    training = _settings(given)
    asked = {"training": training.plain(), "corpus": corpus.key}
    run = given.folder / "run.json"
    if run.exists() and json.loads(run.read_text()) != asked:
        sys.exit(f"{given.folder} has a run of another text or of other settings; name another one")
    write_json(run, asked)
    clock = _Clock(given.folder / "seconds.txt")
    table = given.folder / "epochs.jsonl"
    rows: list[dict[str, float]] = []
    if table.exists():
        rows = [json.loads(line) for line in table.read_text().splitlines()]

    def observe(record: TrainingRecord, updates: int) -> None:
        clock(record, updates)
        del rows[len(record.valid_measures) :]  # a stopped run may have been beyond its state

    def validate(model: Network) -> float:
        # the update before is not yet on the clock
        seconds = clock.seconds + time.process_time() - clock._last
        perplexity = model.score(corpus, "valid", streams=10).value
        rows.append({"seconds": round(seconds, 1), "valid_perplexity": round(perplexity, 2)})
        write_atomic(table, "".join(json.dumps(row) + "\n" for row in rows).encode())
        print(words, rows[-1], flush=True)
        clock.seconds = seconds
        clock.skip()
        return perplexity

    train(
        model,
        corpus.train,
        training,
        seed=0,
        validate=validate,
        observe=observe,
        checkpoint=given.folder / "training.state",
    )


if __name__ == "__main__":
    main()
