"""How long a command makes its user wait before it does anything.

    python -m benchmarks.startup [ROUNDS]

Prints each command's time as a multiple of `python -c "import torch"` and of `python -c pass`. The
times are medians of ROUNDS (9) rounds. In each round all commands take turns, so that a busy
neighbour slows them all. `front of 1,000 trials` reads such a study from SQLite.

`worker` is the time that a worker's process of a sweep needs before its first update, beyond that
of `import torch`: imports, a text, a dense bundle of 4.5 MB, the database, a proposal and the built
model. It is also given in processor seconds, which a neighbour changes less. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from search.cli import COMMANDS
from search.process import Importing

ROUNDS = 9
TRIALS = 1_000
UNTIL_UPDATE = Importing("benchmarks.startup", "_until_update")
WORDS = 10_000
TOKENS = {"train": 400_000, "valid": 1_000, "test": 1_000}
WORKER, TORCH, NOTHING = "worker", "import torch", "pass"
STUDY = """\
# @package _global_
defaults:
  - override /corpus: text
  - override /model: small_tied
  - override /training: variational
  - override /space: codes
  - override /fidelity: whole
  - override /prior: none
name: startup
corpus: {{train: {folder}/train.txt, valid: {folder}/valid.txt, test: {folder}/test.txt}}
space: {{finetuning: {{epochs: 1}}}}
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="lmpareto-startup-") as name:
        folder = Path(name)
        _prepare(folder)
        mine = [f"--config-dir={folder}", "study=startup"]
        asked = {
            f'python -c "{TORCH}"': _python("-c", TORCH),
            f'python -c "{NOTHING}"': _python("-c", NOTHING),
            "--help": _lmpareto("--help"),
            "--version": _lmpareto("--version"),
            **{f"{command} --help": _lmpareto(command, "--help") for command in COMMANDS},
            "status": _lmpareto("status", *mine),
            "front study=ptb_small": _lmpareto("front", "study=ptb_small"),
            f"front of {TRIALS:,} trials": _lmpareto("front", *mine),
            "report study=ptb_small": _lmpareto("report", "study=ptb_small", f"to={folder}/page"),
            WORKER: _python("-m", "benchmarks.startup", "--worker", str(folder)),
        }
        seconds, cpu = _measured(asked, rounds, folder)
    torch, nothing = (median(seconds[f'python -c "{one}"']) for one in (TORCH, NOTHING))
    figures = {
        what: {"x_torch": median(took) / torch, "x_pass": median(took) / nothing}
        for what, took in seconds.items()
    }
    beyond = median(cpu[WORKER]) - median(cpu[f'python -c "{TORCH}"'])
    figures[WORKER] |= {
        "beyond_torch_x_torch": figures[WORKER]["x_torch"] - 1,
        "beyond_torch_cpu_seconds": beyond,
    }
    width = max(map(len, figures))
    for what, one in figures.items():
        print(f"{what:{width}}  {one['x_torch']:5.2f} x torch  {one['x_pass']:6.1f} x pass")
    print(f"worker, beyond import torch: {beyond:.2f} s of the processor")
    print(json.dumps({"torch_seconds": torch, **figures}))


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _lmpareto(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "lmpareto"), *arguments]


def _measured(
    asked: dict[str, list[str]], rounds: int, folder: Path
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of the clock and of the processor that each takes, a number a round; the first round
    warms the disk and does not count."""
    environment = {
        **os.environ,
        "LMPARETO_CACHE": str(folder / "cache"),
        "BROWSER_PATH": "/nowhere",
        "OMP_NUM_THREADS": "1",
    }
    seconds: dict[str, list[float]] = {what: [] for what in asked}
    cpu: dict[str, list[float]] = {what: [] for what in asked}
    for turn in range(rounds + 1):
        for what, command in asked.items():
            before, since = os.times(), time.perf_counter()
            done = subprocess.run(command, env=environment, check=True, capture_output=True)
            took, after = time.perf_counter() - since, os.times()
            spent = after.children_user + after.children_system
            spent -= before.children_user + before.children_system
            if what == WORKER:
                said = json.loads(done.stdout)
                took, spent = said["seconds"], said["cpu"]
            if turn:
                seconds[what].append(took)
                cpu[what].append(spent)
    return seconds, cpu


# --- what the commands read -------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    """A text, a study on it with trials that were told, and a dense model that is random."""
    draw = random.Random(1)
    words = [f"word{index}" for index in range(WORDS)]
    for split, tokens in TOKENS.items():
        lines = (" ".join(draw.choices(words, k=20)) for _ in range(tokens // 20))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "study").mkdir()
    (folder / "study" / "startup.yaml").write_text(STUDY.format(folder=folder))
    subprocess.run(
        _python("-m", "benchmarks.startup", "--make", str(folder)),
        env={**os.environ, "LMPARETO_CACHE": str(folder / "cache")},
        check=True,
        capture_output=True,
    )


def _context(folder: Path) -> Any:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import search
    from lmcore.settings import parse
    from search.config import SweepConfig
    from search.study.context import StudyContext

    conf = Path(search.__file__).parent.parent / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{folder}]", "study=startup"]
        composed = compose("sweep", [*overrides, f"trials={TRIALS + 1}"])
        plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return StudyContext(parse(SweepConfig, {str(name): one for name, one in plain.items()}))


def _make(folder: Path) -> None:
    import optuna
    import torch

    from lmcore.model import random_model
    from search.bench.dense import keep_dense
    from search.measurement import Measurement
    from search.study.beginning import create
    from search.study.note import ATTRIBUTE
    from search.study.study import ended_trials

    context = _context(folder)
    config, generator = context.config, torch.Generator().manual_seed(1)
    model = random_model(config.model, context.words, 0.1, generator)
    keep_dense(config, context.corpus, model, {})
    study, draw = create(context), random.Random(1)
    for number in range(TRIALS):
        recipe = context.space.corners[number % len(context.space.corners)].recipe.plain()
        size, perplexity = draw.randint(10**5, 4 * 10**6), draw.uniform(80, 400)
        one = Measurement(
            f"{number:016x}", recipe, size, perplexity, 1000.0, 1, 1.0, f"{number:064x}", {}
        )
        context.store.keep(one)
        study.add_trial(
            optuna.trial.create_trial(
                values=[size, perplexity],
                user_attrs={ATTRIBUTE: {"key": one.key, "recipe": recipe}},
            )
        )
    context.slots.provide([], ended_trials(study))


def _work(folder: Path) -> None:
    """Start a worker's process as a sweep does. Print the seconds of the clock and of the processor
    that it takes to its first update."""
    import multiprocessing

    from search.space.space import OWN

    context = _context(folder)
    arguments = (context.config, {OWN: context.need_checkpoint()})
    before, since = os.times(), time.perf_counter()
    process = multiprocessing.get_context("spawn").Process(target=UNTIL_UPDATE, args=arguments)
    process.start()
    process.join()
    took, after = time.perf_counter() - since, os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    assert process.exitcode == 0, "the worker made no update"
    print(json.dumps({"seconds": took, "cpu": spent}))


def _until_update(config: Any, checkpoints: Any) -> None:
    """What `search.work.worker.work` does, up to the first update."""
    import threading

    from lmcore.runtime import prepare
    from search.bench import workbench
    from search.process import imported
    from search.store.slots import worker_name
    from search.terminal import quiet_optuna
    from search.work.claiming import waiting
    from search.work.worker import Worker

    imported()
    quiet_optuna()
    prepare(1)
    context = waiting(config, threading.Event())
    worker = Worker(context, 0, worker_name(), checkpoints, threading.Event())

    def begin(*_: object, **__: object) -> None:
        worker.slots.leave(worker.lease.slot, worker.name)
        os._exit(0)

    vars(workbench)["train"] = begin
    worker.run()
    sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        _make(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--worker"]:
        _work(Path(sys.argv[2]))
    else:
        main()
