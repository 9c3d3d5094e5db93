"""What gpu.sh computes: whether all is there, how many epochs fit, and each model's coded file."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EPOCHS = {"ptb_650": 32.0, "ptb_1200": 32.0, "ptb_medium": 39.0}  # where the time suffices
MODULES = (  # that training imports or names, by the names with which they are imported
    *("torch", "numpy", "scipy", "pydantic", "hydra", "omegaconf", "optuna", "sqlalchemy"),
    *("constriction", "safetensors", "filelock", "threadpoolctl", "rich", "yaml"),
)
STEP = 0.18  # of the codes, in standard deviations: a float16 file of 40 MB becomes one of 11
SHARED = 0.5  # rates grow by (models at the start / models left) to this power, as others end
MARGIN = 0.93  # of the time is planned with


@dataclass(frozen=True)
class Probed:
    """How many tokens a training has before it, and how many it did a second beside the others."""

    tokens: float
    rate: float


def missing(device: str) -> str | None:
    """A sentence on what is missing for a training on the device; None where nothing is."""
    lacking = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if lacking:
        return f"Python {sys.executable} lacks {', '.join(lacking)}; install them, or set PYTHON"
    if importlib.util.find_spec("search") is None or importlib.util.find_spec("lmcore") is None:
        return (
            f"Python {sys.executable} lacks lmpareto; without a network: pip install --no-deps "
            f"--no-build-isolation ."
        )
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return "this machine has no CUDA device; DEVICE=cpu trains on the processor, for hours"
    return None


def fraction(models: Sequence[Probed], seconds: float) -> float:
    """The share of all their tokens with which trainings that run side by side end in time, at
    most 1."""
    low, high = 0.0, 1.0
    if _seconds([one.tokens for one in models], [one.rate for one in models]) <= seconds:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        took = _seconds([middle * one.tokens for one in models], [one.rate for one in models])
        low, high = (middle, high) if took <= seconds else (low, middle)
    return low


def _seconds(tokens: list[float], rates: list[float]) -> float:
    """How long trainings take that run side by side."""
    left, count, took = dict(enumerate(tokens)), len(tokens), 0.0
    while left:
        faster = (count / len(left)) ** SHARED
        step = min(left[one] / (rates[one] * faster) for one in left)
        took += step
        left = {one: left[one] - step * rates[one] * faster for one in left}
        left = {one: rest for one, rest in left.items() if rest > 1e-6 * tokens[one]}
    return took


def plan(records: Mapping[str, Mapping[str, float]], train_tokens: int, seconds: float) -> str:
    """The settings of each training, a line each, by what the trainings of a few updates told.

    `records` has their "tokens" and "seconds". Zaremba's schedule, whose epochs are counted, is
    drawn together with the epochs.
    """
    probed = [
        Probed(EPOCHS[name] * train_tokens, one["tokens"] / one["seconds"])
        for name, one in records.items()
    ]
    share = fraction(probed, MARGIN * seconds)
    return "".join(f"{name} {_settings(name, share)}\n" for name in records)


def _settings(name: str, share: float) -> str:
    if share == 1:
        return ""
    epochs = max(1, int(share * EPOCHS[name]))
    if name != "ptb_medium":
        return f"training.epochs={epochs}"
    ratio = epochs / EPOCHS[name]
    hold, factor = max(1, round(6 * ratio)), 0.8 ** (1 / ratio)
    schedule = "training.schedule"
    return f"training.epochs={epochs} {schedule}.hold={hold} {schedule}.factor={factor:.6f}"


def write(name: str, folder: Path, settings: Sequence[str]) -> str:
    """Write the trained model as NAME.lmb in uniform codes, and the record of its training as
    NAME.json: together they stand for the dense checkpoint. Returns what the file is, in a line.

    `settings` are those that it was trained with, typed. Everything told is measured on the
    reloaded file.
    """
    from hydra import compose, initialize_config_module

    from lmcore.bundle import load
    from lmcore.evaluation import score
    from lmcore.files import write_atomic, write_json
    from lmcore.recipe import Recipe, resolve
    from lmcore.runtime import device
    from lmcore.settings import parse
    from search.commands import settings_of
    from search.commands.typed import for_hydra
    from search.config import StudyConfig
    from search.study.context import StudyContext
    from search.units import format_size

    with initialize_config_module("search.conf", version_base="1.3"):
        composed = compose("train", for_hydra([f"study={name}", *settings]))
    config: StudyConfig = settings_of(StudyConfig, composed)
    context = StudyContext(config)
    checkpoint, corpus = context.need_checkpoint(), context.corpus
    sites = {"*": {"bits": {"kind": "uniform", "step": STEP}}}
    recipe = parse(Recipe, {"sites": sites, "biases": "float16"})
    bench = context.bench(checkpoint)
    measured = bench.measure(resolve(recipe, config.model, context.words))
    bundle = load(bench.path(measured.key))
    model = bundle.model.to(device(config.device))
    test = score(model, corpus.test, corpus.vocabulary.eos).value
    record = {
        **checkpoint.record,
        "size_bytes": measured.size_bytes,
        "valid_perplexity": measured.valid_measure,
        "test_perplexity": test,
        "dense_valid_perplexity": checkpoint.valid_measure,
    }
    write_atomic(folder / f"{name}.lmb", bench.path(measured.key).read_bytes())
    write_json(folder / f"{name}.json", record)
    epochs = checkpoint.record["training"]["epochs"]
    return (
        f"{name}: {format_size(measured.size_bytes)}, valid {measured.valid_measure:.2f}, "
        f"test {test:.2f}, {epochs:g} epochs"
    )


def _check(device: str) -> str:
    if said := missing(device):
        raise SystemExit(f"gpu.sh: {said}")
    return ""


def _plan(seconds: str, tokens: str, *records: str) -> str:
    read = {Path(one).stem: json.loads(Path(one).read_text()) for one in records}
    return plan(read, int(tokens), float(seconds)).rstrip("\n")


def _write(name: str, folder: str, *settings: str) -> str:
    return write(name, Path(folder), settings)


COMMANDS: dict[str, Callable[..., str]] = {"check": _check, "plan": _plan, "write": _write}

if __name__ == "__main__":
    if said := COMMANDS[sys.argv[1]](*sys.argv[2:]):
        print(said)
