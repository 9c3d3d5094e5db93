"""The chosen model as a folder to take home."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from lmcore.bundle import load
from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.files import check_folder
from lmcore.task import Measure
from search.commands.answer import Answer, tell_corpus
from search.config import ExportConfig
from search.front import Point, choose
from search.show.export import check_words, export
from search.show.folder import Exported, Forms, take_home
from search.show.tables import in_bits
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.results import Results
from search.study.sureness import sureness_of
from search.units import format_size

Config = ExportConfig


def run(config: ExportConfig) -> Answer:
    context, forms = StudyContext(config), Forms(config.onnx, config.safetensors)
    if config.bundle is not None:
        return _of_bundle(context, Path(config.bundle), forms)
    history = history_of(context)
    point = _chosen(config, history.results)
    check_folder(Path(config.to))
    tell_corpus(context)
    seeds = sureness_of(history).get(point.name)
    measured = history.results.measured(point.name)
    document = export(context, point, measured, Path(config.to), forms, seeds)
    return Answer(document, exported_text(point.label, document))


def exported_text(label: str, document: dict[str, Any]) -> str:
    """What was exported, in a line."""
    measure = Measure(**document["measure"])
    valid, test = document[measure.key("valid")], document[measure.key("test")]
    bits = document.get("test_bits_per_byte")
    return (
        f"{document['bundle']}: {label}, {format_size(document['size_bytes'])}, "
        f"{measure.said(valid)} (valid), {measure.number(test)} (test){in_bits(bits)}"
        f"{_without(document)}"
    )


def _without(document: dict[str, Any]) -> str:
    """What the folder lacks."""
    return f"; {document['no_onnx']}" if "no_onnx" in document else ""


def _of_bundle(context: StudyContext[ExportConfig], path: Path, forms: Forms) -> Answer:
    """A file alone; on the text that is given as `corpus`, if one is."""
    config = context.config
    if config.name is not None:
        raise UserError(
            f"study {config.name} and bundle {path} exclude each other: bundle= is a file alone; "
            f"give its text, if you like, as corpus=..."
        )
    bundle, corpus = load(path), _given_corpus(context)
    check_folder(Path(config.to))
    if corpus is None:
        print("no corpus= is given: nothing is measured on a text", file=sys.stderr)
        document = take_home(Exported(path), Path(config.to), forms)
        return Answer(
            document,
            f"{document['bundle']}: {path}, {format_size(document['size_bytes'])}"
            f"{_without(document)}",
        )
    check_words(bundle, corpus, str(path))
    document = take_home(Exported(path, corpus=corpus), Path(config.to), forms)
    return Answer(document, exported_text(str(path), document))


def _given_corpus(context: StudyContext[ExportConfig]) -> Data | None:
    """The text, if a setting of it was typed."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if not any(one.lstrip("+").startswith(("corpus=", "corpus.", "task=")) for one in typed):
        return None
    tell_corpus(context)
    return context.corpus


def _chosen(config: ExportConfig, results: Results) -> Point:
    if config.trial is not None:
        return results.find(config.trial, config.rung)
    return choose(results.front, config.max_size, config.max_perplexity, config.pick)
