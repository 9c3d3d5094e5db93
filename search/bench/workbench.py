"""Recipe -> Measurement: build, fine-tune, write the file, reload it, measure."""

from __future__ import annotations

import hashlib
import math
import platform
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import lmcore
from lmcore.building import build, schedule_of
from lmcore.bundle import Bundle, load, pack, save
from lmcore.calibration import Calibration
from lmcore.compress.hidden_units import UnitsSettings, with_fewer_units
from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.files import content_key
from lmcore.network import Network
from lmcore.progress import DivergedError, Observer, TrainingRecord, ignore
from lmcore.recipe import Recipe
from lmcore.score import Comparison
from lmcore.settings import parse
from lmcore.training import train
from lmcore.training_settings import FineTuningSettings
from search.bench.held import held
from search.bench.stages import Stages
from search.config import StudyConfig
from search.measurement import Measurement

PACKAGES = ("numpy", "optuna", "safetensors", "scipy", "sqlalchemy")


class Workbench:
    """Measures recipes of one dense checkpoint on one corpus.

    `dense` is the checkpoint's bundle. Bundles are written to `folder`. `stages` is the cache of
    models with fewer units and of fine-tunings that were begun. `seed` is the study's.
    """

    def __init__(
        self, corpus: Data, dense: Bundle, seed: int, folder: Path, stages: Stages, device: str
    ) -> None:
        self.corpus, self.dense, self.seed = corpus, dense, seed
        self.folder, self.stages, self.device = folder, stages, device
        self.calibration = Calibration(dense.model, corpus.train)

    @classmethod
    def of(cls, config: StudyConfig, corpus: Data, dense: Bundle) -> Workbench:
        """The workbench of a study, in its cache folder."""
        stages = Stages(config.folder / "stages", config.max_stages)
        return cls(corpus, dense, config.seed, config.folder / "bundles", stages, config.device)

    def reseeded(self, seed: int) -> Workbench:
        """The same workbench with another seed: recipes are trained with it, from the same dense
        checkpoint."""
        other = copy(self)
        other.seed = seed
        return other

    def key(self, recipe: Recipe) -> str:
        """The hash of everything that the measurement of a resolved recipe depends on."""
        return content_key(recipe.plain(), self.dense.sha256, self.corpus.key, self.seed)

    def path(self, key: str) -> Path:
        """The path of the bundle of a measurement."""
        return self.folder / f"{key}.lmb"

    def measure(
        self, recipe: Recipe, observe: Observer = ignore, goes_on: bool = False
    ) -> Measurement:
        """Make the file of a resolved recipe and measure it, from the file.

        The result is a function of the recipe, the dense checkpoint, the corpus and the seed. A
        shorter fine-tuning in the cache saves time but changes nothing. With `goes_on`, this
        fine-tuning is kept in the cache for a longer one. Raises DivergedError where the loss or
        the measure is not finite.
        """
        key, laps = self.key(recipe), Laps()
        model = self.untrained(recipe, observe).to(self.device)
        laps.end("build")
        record = TrainingRecord()
        if recipe.finetuning:
            with held(self.stages.folder, key, observe):
                record = self._finetune(model, recipe, recipe.finetuning, observe)
                if not goes_on:
                    self._weights(recipe).unlink(missing_ok=True)
            self.stages.trim()
            laps.end("finetune")
        path = self.path(key)
        save(path, model.eval(), self.dense.vocabulary)
        laps.end("write")
        bundle = load(path)
        laps.end("load")
        measured = bundle.model.to(self.device).score(self.corpus, "valid")
        laps.end("score")
        if not math.isfinite(measured.value):
            measure = bundle.model.settings.task.measure
            raise DivergedError(f"the valid {measure.name} of the file is infinite")
        return Measurement(
            key=key,
            recipe=recipe.plain(),
            size_bytes=bundle.size_bytes,
            valid_measure=measured.value,
            tokens_per_second=measured.tokens_per_second,
            updates=record.updates,
            seconds=record.seconds,
            sha256=bundle.sha256,
            provenance=provenance()
            | {"seed": self.seed, "dense": self.dense.sha256, "seconds": laps.seconds}
            | self._text(),
        )

    def timed(
        self, measured: Measurement, observe: Observer = ignore, goes_on: bool = False
    ) -> Measurement:
        """The measurement with the speed of its file relative to the dense model, measured now. A
        file that is not in the cache is made again."""
        from lmcore.onnx.speed import relative_speed  # imports onnx and onnxruntime

        path = self.path(measured.key)
        if _read(path) is None:
            self.measure(parse(Recipe, measured.recipe, "recipe"), observe, goes_on)
        return replace(measured, relative_speed=relative_speed(load(path), self.dense))

    def _text(self) -> dict[str, Any]:
        """What the validation stream spells, where its tokens spell a text."""
        spelling = self.corpus.spelling("valid")
        return {"text": spelling.plain()} if spelling else {}

    def comparison(self, base: Network) -> Comparison:
        """What models lose over the base on the validation text."""
        return base.to(self.device).comparison(self.corpus)

    def untrained_size(self, recipe: Recipe, observe: Observer = ignore) -> int:
        """The size in bytes of a resolved recipe's file before any fine-tuning."""
        return len(pack(self.untrained(recipe, observe), self.dense.vocabulary))

    def untrained(self, recipe: Recipe, observe: Observer = ignore) -> Network:
        """The model of a resolved recipe before any fine-tuning."""
        start = self.calibration
        if recipe.layers.units:
            start = start.of(self._stage(recipe.layers.units, observe))
        return build(start.model, recipe, start)

    def _finetune(
        self,
        model: Network,
        recipe: Recipe,
        settings: FineTuningSettings,
        observe: Observer,
    ) -> TrainingRecord:
        """Fine-tune the recipe's built model, from the highest rung in the cache."""
        shorter = [
            recipe.model_copy(update={"finetuning": settings.up_to(rung)})
            for rung in range(len(settings.rungs))
        ]
        begun = (self.stages.use(self._weights(one).name) for one in reversed(shorter))
        schedule = schedule_of(recipe, model)
        record = train(
            model,
            self.corpus.train,
            settings,
            _seed(self.key(shorter[0] if shorter else recipe)),
            observe=observe,
            checkpoint=self._weights(recipe),
            teacher=self.dense.model if settings.distillation else None,
            regularizer=schedule,
            begun=next((path for path in begun if path), None),
            lost=self._lost(recipe, model) if settings.full_rate_at else None,
        )
        if schedule and not record.updates:  # no update was made, but the recipe asks for its zeros
            schedule.after_update(rate=0.0, progress=1.0)
        return record

    def _lost(self, recipe: Recipe, built: Network) -> float:
        """What the recipe's file loses over the dense model before any training, in nats a token:
        with all the zeros that a schedule would bring."""
        model = deepcopy(built)
        if schedule := schedule_of(recipe, model):
            schedule.after_update(rate=0.0, progress=1.0)
        return self.calibration.lost(model)

    def _weights(self, recipe: Recipe) -> Path:
        """The path of the state of a fine-tuning, during it and after its end."""
        return self.stages.path(f"{self.key(recipe)}.safetensors")

    def _stage(self, units: UnitsSettings, observe: Observer) -> Network:
        """The dense model with fewer units, trained once for all recipes that start from it."""
        key = content_key(units.plain(), self.dense.sha256, self.corpus.key, self.seed)
        path = self.stages.path(f"{key}.lmb")
        with held(self.stages.folder, key, observe):
            if self.stages.use(path.name) and (known := _read(path)) is not None:
                return known
            state = path.with_suffix(".safetensors")  # of a training that is not over
            model = with_fewer_units(
                self.dense.model,
                self.corpus.train,
                units,
                _seed(key),
                observe,
                state,
                self.device,
            )
            save(path, model, self.dense.vocabulary)
            state.unlink(missing_ok=True)
            cut = load(path).model
        self.stages.trim()
        return cut


def stored_recipe(bench: Workbench, name: str, measured: Measurement) -> Recipe:
    """The recipe of a measurement. Raises UserError where the bench gives it another key: then its
    dense checkpoint, corpus or seed is not the one that was measured."""
    recipe = parse(Recipe, measured.recipe, "recipe")
    if bench.key(recipe) != measured.key:
        raise UserError(
            f"trial {name} was measured on another dense model, corpus or seed than the settings "
            f"of this study give now"
        )
    return recipe


class Laps:
    """A stopwatch: the seconds that each step of a measurement took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = perf_counter()

    def end(self, step: str) -> None:
        """Note that the step ended now and began when the one before ended."""
        now = perf_counter()
        self.seconds[step], self._since = round(now - self._since, 3), now


def _read(path: Path) -> Network | None:
    """The model of a bundle, None where the file is missing or damaged."""
    try:
        return load(path).model
    except UserError:
        return None


def _seed(key: str) -> int:
    return int(key, 16) % 2**31


@cache
def provenance() -> dict[str, Any]:
    """Which code, packages and machine measure. `code` is a hash of all files of lmcore."""
    digest = hashlib.sha256()
    folder = Path(lmcore.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return {
        "lmpareto": version("lmpareto"),
        "code": digest.hexdigest()[:12],
        "torch": torch.__version__,
        **{name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
