"""The dense checkpoint that every trial of a study starts from, as a float16 bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lmcore.begun_with import (
    begin_with,
    beginning_of,
    set_vectors,
    vectors_named,
)
from lmcore.building import build
from lmcore.bundle import Bundle, load, save
from lmcore.codec import Float16
from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.evaluation import STREAMS
from lmcore.files import bundle_named, content_key, sha256_of, write_json
from lmcore.network import Network, random_network
from lmcore.progress import DivergedError, Observer, ignore
from lmcore.recipe import Recipe, SiteSettings, resolve
from lmcore.runtime import device
from lmcore.sites import VECTORS
from lmcore.task import Measure, measured_in
from lmcore.training import train
from lmcore.training_settings import DenseTrainingSettings, ImportedSettings
from search.bench.held import held
from search.config import PUBLISHED, StudyConfig

DENSE = Recipe(sites={"*": SiteSettings(bits=Float16())}, biases=Float16())


@dataclass(frozen=True)
class DenseCheckpoint:
    """The file of a trained dense model, and the record of its training."""

    path: Path
    record: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        return int(self.record["size_bytes"])

    @property
    def valid_measure(self) -> float:
        return float(measured_in(self.record, "valid"))

    @property
    def sha256(self) -> str:
        """Of the file's bytes."""
        return sha256_of(self.path)

    def load(self) -> Bundle:
        """The model, read from the file. Raises UserError where the file was altered."""
        try:
            return load(self.path)
        except UserError as error:
            raise UserError(f"{error}; once it is deleted, lmpareto train makes it again") from None


DenseCheckpoints = Mapping[str, DenseCheckpoint]  # by the names of `StudyConfig.dense_names`


def dense_key(config: StudyConfig, corpus: Data) -> str:
    """The hash of everything that the trained model depends on."""
    training = config.training.plain()
    if isinstance(config.training, DenseTrainingSettings):
        training |= beginning_of(config.training)
    return content_key(corpus.key, config.model.plain(), training, config.seed)


def find_dense(config: StudyConfig, corpus: Data) -> DenseCheckpoint | None:
    """The checkpoint of these settings, from the cache or from a published study. None where there
    is none, or only one whose file is incomplete."""
    key = dense_key(config, corpus)
    cached = config.folder / "dense" / f"{key}.json"
    for record_path in (cached, *sorted(PUBLISHED.glob("*/dense*.json"))):
        bundle = record_path.with_suffix(".lmb")
        try:
            record = json.loads(record_path.read_text())
            whole = bundle.stat().st_size == record["size_bytes"]
            known = record["key"], float(measured_in(record, "valid"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if known[0] == key and whole:
            return DenseCheckpoint(bundle, record)
    return None


def need_dense(config: StudyConfig, corpus: Data) -> DenseCheckpoint:
    """The checkpoint of a study. Raises UserError where the model was not trained yet."""
    checkpoint = find_dense(config, corpus)
    if checkpoint is None:
        raise (
            _not_imported(config)
            if isinstance(config.training, ImportedSettings)
            else UserError(
                f"the dense model of {config.study} is not at hand; "
                f"lmpareto train with the same settings trains it"
            )
        )
    return checkpoint


def _not_imported(config: StudyConfig) -> UserError:
    return UserError(
        f"the imported dense model of {config.name or 'these settings'} is not at hand in "
        f"{config.folder / 'dense'}; lmpareto import makes it again from the same weights and "
        f"words: study={config.name or 'NAME'} weights=FILE vocabulary=FILE"
    )


def train_dense(config: StudyConfig, corpus: Data, observe: Observer = ignore) -> DenseCheckpoint:
    """Train the dense model of the settings, from where an earlier process was stopped, if one was.
    Where another process trains the same model now, its result is waited for.

    Raises UserError where the training diverges, where its settings are not for this data, and
    where the model was imported.
    """
    if isinstance(config.training, ImportedSettings):
        raise _not_imported(config)
    key = dense_key(config, corpus)
    folder = config.folder / "dense"
    settings = config.training
    generator = torch.Generator().manual_seed(config.seed)
    shape = config.model.completed(corpus)
    corpus.check(settings, "training")
    try:
        shape.check()
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    model = random_network(shape, len(corpus.vocabulary), settings.init, generator)
    _begin(model, corpus, settings)
    model.to(device(config.device))

    # on a GPU, step by step, the text takes as long as half an epoch of training
    streams = 1 if device(config.device).type == "cpu" else STREAMS

    def validate(model: Network) -> float:
        return model.score(corpus, "valid", streams).value

    state = folder / f"{key}.safetensors"  # of a training that is not over
    with held(folder, key, observe):
        if made := find_dense(config, corpus):
            return made
        try:
            record = train(model, corpus.train, settings, config.seed, validate, observe, state)
            checkpoint = keep_dense(config, corpus, model.cpu(), asdict(record))
        except DivergedError as error:
            state.unlink(missing_ok=True)
            raise UserError(
                f"training the dense model diverged: {error}; "
                f"try a training.rate below {settings.rate}"
            ) from None
        state.unlink(missing_ok=True)
        return checkpoint


def _begin(model: Network, corpus: Data, settings: DenseTrainingSettings) -> None:
    """Give the model what its training is to begin with."""
    taken = list[str]()
    if settings.start is not None:
        taken = begin_with(model, corpus.vocabulary, load(bundle_named(settings.start)))
    if settings.vectors is not None:
        set_vectors(model, corpus.vocabulary, vectors_named(settings.vectors))
    elif VECTORS in model.sites and VECTORS not in taken:
        raise UserError(
            "training.vectors: this model reads fixed vectors of words, which no training changes; "
            "name the file they stand in, or set model.words.vectors=null"
        )


def doubt(checkpoint: DenseCheckpoint, corpus: Data, measure: Measure) -> str | None:
    """A sentence for a model that knows no more than how frequent words, or answers, are."""
    if checkpoint.valid_measure < corpus.naive:
        return None
    return (
        f"the dense model has a valid {measure.said(checkpoint.valid_measure, 1)}, and "
        f"frequencies alone give {measure.number(corpus.naive, 1)}; train for more "
        f"training.epochs, at another training.rate, or on more data"
    )


def keep_dense(
    config: StudyConfig, corpus: Data, model: Network, training: dict[str, Any]
) -> DenseCheckpoint:
    """Write a dense model as a float16 bundle, and the record of its training, or of its import,
    beside it. Raises DivergedError where the file's measure is not finite."""
    key = dense_key(config, corpus)
    path = config.folder / "dense" / f"{key}.lmb"
    recipe = resolve(DENSE, config.model.completed(corpus), len(corpus.vocabulary))
    size_bytes = save(path, build(model, recipe).eval(), corpus.vocabulary)
    reloaded = load(path).model.to(device(config.device))
    measured, measure = reloaded.score(corpus, "valid"), config.corpus.task.measure
    if not math.isfinite(measured.value):
        path.unlink()
        raise DivergedError(f"the valid {measure.name} of the file is infinite")
    if "valid_measures" in training:
        training = {f"valid_{measure.plural}": training.pop("valid_measures"), **training}
    record = {
        "key": key,
        "corpus": corpus.describe(),
        "model": config.model.plain(),
        "training": config.training.plain(),
        "seed": config.seed,
        "size_bytes": size_bytes,
        measure.key("valid"): measured.value,
        **training,
    }
    write_json(path.with_suffix(".json"), record)
    return DenseCheckpoint(path, record)
