"""A dense checkpoint from weights that another program trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.files import content_key, sha256_of, write_json
from lmcore.imports.model import ImportedModel, imported
from lmcore.imports.weight_files import read_weights
from lmcore.progress import DivergedError
from lmcore.training_settings import ImportedSettings
from lmcore.vocabulary_file import read_vocabulary
from search.bench.dense import DenseCheckpoint, keep_dense
from search.config import ImportConfig, StudyConfig

C = TypeVar("C", bound=StudyConfig)


@dataclass(frozen=True)
class Import:
    """A model as it was read, and the settings of the study that starts from it."""

    model: ImportedModel
    remarks: tuple[str, ...]
    source: dict[str, Any]  # the file's name and SHA-256, and which array is which part


def read_import(config: ImportConfig) -> Import:
    """The model that the settings name. Raises UserError for whatever is wrong with its files."""
    path = Path(config.weights)
    words = read_vocabulary(Path(config.vocabulary), config.words)
    file = read_weights(path)
    try:
        model = imported(file.arrays, words, config.layout, config.names, config.forget_bias)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Import(model, file.remarks, {"weights": path.name, "names": model.names})


def with_words(config: ImportConfig) -> ImportConfig:
    """The settings with a text over the model's own words, where the kind of text can have these.

    Words that a person corrected are written to the cache folder as a JSON list.
    """
    corpus = config.corpus
    if "vocabulary" not in type(corpus).model_fields or corpus.places.get("vocabulary"):
        return config
    path = Path(config.vocabulary)
    if config.words:
        words = read_vocabulary(path, config.words)
        path = config.folder / "dense" / f"words-{content_key(words)}.json"
        write_json(path, words)
    return config.model_copy(
        update={"corpus": corpus.model_copy(update={"vocabulary": str(path.absolute())})}
    )


def of_model(config: C, model: ImportedModel) -> C:
    """The settings with this model as the study's own dense model."""
    training = ImportedSettings(sha256=model.sha256)
    return config.model_copy(update={"model": model.settings, "training": training})


def keep_import(config: ImportConfig, corpus: Corpus, read: Import) -> DenseCheckpoint:
    """Write the checkpoint of a model whose rows are in the order of the corpus's words. Its record
    has the perplexity of the weights as they came beside that of the file. Raises UserError where
    the latter is infinite."""
    model = read.model.model()
    before = model.score(corpus, "valid")
    path = Path(config.weights)
    source = read.source | ({"sha256": sha256_of(path)} if path.is_file() else {})
    about = {"imported": source, "float32_perplexity": before.value}
    try:
        return keep_dense(config, corpus, model, about)
    except DivergedError as error:
        raise UserError(f"{config.weights}: {error}; its weights are too large") from None
