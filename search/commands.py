"""What each command does: a document computed, then shown as text or as JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import optuna
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from plotly.graph_objects import Figure

from lmcore.bundle import load
from lmcore.corpus import Corpus, load_corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.files import write_atomic
from lmcore.inspection import inspect
from lmcore.runtime import device, prepare
from lmcore.settings import parse
from search.bench.dense import find_dense, need_dense, train_dense
from search.bench.workbench import workbench
from search.config import (
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PlotConfig,
    PublishConfig,
    ReplayConfig,
    SensitivityConfig,
    StudyConfig,
    SweepConfig,
    WorkerConfig,
)
from search.front import choose
from search.process import interruptible
from search.show import inspection_plots
from search.show.export import check_words, export
from search.show.overview import overview
from search.show.plane import PlotRecord, record_of
from search.show.plots import figure, image, page
from search.show.publish import publish
from search.show.replay import replay
from search.show.tables import (
    effects_document,
    effects_table,
    front_document,
    front_table,
    inspection_document,
    inspection_table,
    progress_document,
    progress_text,
)
from search.space.space import OWN
from search.store.outage import AWAY, Patience, reason
from search.store.slots import Slots, worker_name
from search.store.store import Store
from search.study.effects import measure_effects
from search.study.results import Results, results_of
from search.study.study import Progress, check_begun, find, progress, space_of
from search.terminal import quiet_optuna, training_bar
from search.units import format_size
from search.work.launching import STOPPED, end
from search.work.sweep import sweep
from search.work.worker import Worker

Document = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a command has to say, for programs and for people."""

    document: Document
    text: str


def _train(config: StudyConfig) -> Answer:
    corpus = _corpus(config)
    own, *others = (_trained(config, name, corpus) for name in config.dense_names)
    document = dict(own.document)
    if others:
        documents = (one.document for one in others)
        document["models"] = dict(zip(config.models, documents, strict=True))
    return Answer(document, "\n".join(one.text for one in (own, *others)))


def _trained(config: StudyConfig, name: str, corpus: Corpus) -> Answer:
    """The dense model of that name, trained where it is not at hand."""
    one = config.of(name)
    dense = find_dense(one, corpus)
    known = dense is not None
    if dense is None:
        with training_bar("dense model" if name == OWN else f"dense model {name}") as observe:
            dense = train_dense(one, corpus, observe)
    size = format_size(dense.record["size_bytes"])
    return Answer(
        {"bundle": str(dense.path), **dense.record},
        f"{dense.path}: {size}, valid perplexity {dense.record['valid_perplexity']:.2f}"
        f"{' (trained before)' if known else ''}",
    )


def _sensitivity(config: SensitivityConfig) -> Answer:
    corpus = _corpus(config)
    space = space_of(config, len(corpus.vocabulary))
    store = Store(config.storage)
    if store.has_study(config.study):
        check_begun(config, find(config, store), corpus)
    bench = workbench(config, corpus)
    effects = measure_effects(config.study, space.own(), bench, store, config.settings)
    return Answer(effects_document(config.study, effects), effects_table(effects, space.lists))


def _sweep(config: SweepConfig) -> Answer:
    store = Store(config.storage)
    print(f"study {config.study} in {config.storage.shown}", file=sys.stderr)
    corpus = _corpus(config)
    done = _progress(config, store, sweep(config, corpus, store))
    results = results_of(config, store)
    table = front_table(results.front, results.beside)
    return Answer(
        {**progress_document(done), **front_document(results.front)},
        f"{progress_text(done, config.workers)}\n{table}",
    )


def _worker(config: WorkerConfig) -> Answer:
    corpus = _corpus(config)
    dense = {name: need_dense(config.of(name), corpus) for name in config.dense_names}
    with interruptible(stop := threading.Event()):
        patiently = Patience(config.storage.lease, config.storage.shown, stop.is_set)
        store = patiently(Store, config.storage)
        trials = patiently(_slots(config, store, config.study).total)
        asked, name = config.model_copy(update={"trials": trials}), worker_name()
        Worker(asked, config.worker, name, dense, stop, config.deadline).run()
    done = _progress(config, store, find(config, store))
    return Answer(progress_document(done), progress_text(done, workers=1))


def _progress(config: StudyConfig, store: Store, study: optuna.Study) -> Progress:
    """Of the trials that sweeps asked for, whatever the settings say now."""
    return progress(study, _slots(config, store, study.study_name).total())


def _slots(config: StudyConfig, store: Store, study: str) -> Slots:
    return Slots(store.engine, study, config.trials, config.storage.lease)


def _status(config: StudyConfig) -> Answer:
    store = Store(config.storage)
    if config.name is not None:
        done = _progress(config, store, find(config, store))
        at_work = len(_slots(config, store, config.name).held())
        return Answer(progress_document(done), progress_text(done, max(1, at_work)))
    names = optuna.get_all_study_names(store.optuna)
    studies = [optuna.load_study(study_name=name, storage=store.optuna) for name in names]
    counts = [_progress(config, store, study) for study in studies]
    lines = [
        f"{one.study}: {one.complete} trials, {sum(one.failed.values())} failed" for one in counts
    ]
    return Answer(
        {"studies": [progress_document(one) for one in counts]},
        "\n".join(lines) or f"no studies in {store.settings.shown}",
    )


def _front(config: StudyConfig) -> Answer:
    results = results_of(config, Store(config.storage))
    table = front_table(results.front, results.beside)
    return Answer(front_document(results.front), table)


def _plot(config: PlotConfig) -> Answer:
    results = results_of(config, Store(config.storage))
    folder = Path(config.to) if config.to else config.folder / "plots" / config.study
    drawn = figure(_drawn(results))
    files = _page(drawn, folder, "front")
    return Answer({"study": config.study, "files": files}, "\n".join(files))


def _drawn(results: Results) -> PlotRecord:
    return record_of(results.front, results.corpus, results.beside, results.predicted)


def _page(drawn: Figure, folder: Path, name: str) -> list[str]:
    """Write NAME.html and the pictures beside it."""
    path = folder / f"{name}.html"
    write_atomic(path, page(drawn).encode())
    return [str(one) for one in (path, *_pictures(drawn, folder, name))]


def _pictures(drawn: Figure, folder: Path, name: str) -> list[Path]:
    """NAME.png and NAME.svg where a browser is at hand; else what to install, said aside."""
    written = []
    for path in (folder / f"{name}.png", folder / f"{name}.svg"):
        try:
            image(drawn, path)
        except UserError as error:
            print(f"lmpareto: no pictures: {error}", file=sys.stderr)
            break
        written.append(path)
    return written


def _export(config: ExportConfig) -> Answer:
    results = results_of(config, Store(config.storage))
    name = config.trial if isinstance(config.trial, str) else None
    if name is None:
        name = choose(
            results.front,
            max_size_bytes=config.max_size,
            max_perplexity=config.max_perplexity,
            pick=config.pick,
            trial=config.trial if isinstance(config.trial, int) else None,
        ).name
    document = export(config, _corpus(config), name, results.measured(name), Path(config.to))
    return Answer(
        document,
        f"{document['bundle']}: {'trial ' if name.isdigit() else ''}{name}, "
        f"{format_size(document['size_bytes'])}, "
        f"perplexity {document['valid_perplexity']:.2f} (valid), "
        f"{document['test_perplexity']:.2f} (test)",
    )


def _publish(config: PublishConfig) -> Answer:
    results = results_of(config, Store(config.storage))
    folder = Path(config.to)
    publish(config, _corpus(config), results, folder)
    _pictures(figure(_drawn(results)), folder, "front")
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    return Answer({"study": config.study, "files": files}, "\n".join(files))


def _evaluate(config: EvaluateConfig) -> Answer:
    bundle = load(Path(config.bundle))
    corpus = load_corpus(config.corpus, config.folder)
    check_words(bundle, corpus, config.bundle)
    model = bundle.model.to(device(config.device))
    measured = score(model, corpus.split(config.split), corpus.vocabulary.eos)
    document = {
        "bundle": config.bundle,
        "corpus": corpus.name,
        "split": config.split,
        "size_bytes": bundle.size_bytes,
        "perplexity": measured.perplexity,
        "tokens": measured.tokens,
        "tokens_per_second": measured.tokens_per_second,
    }
    return Answer(
        document,
        f"{config.bundle}: {format_size(bundle.size_bytes)}, perplexity "
        f"{measured.perplexity:.2f} on the {measured.tokens:,} tokens of {corpus.name} "
        f"{config.split}, {measured.tokens_per_second:,.0f} tokens/s",
    )


def _inspect(config: InspectConfig) -> Answer:
    title = config.title
    path = Path(config.bundle) if config.bundle else need_dense(config, _corpus(config)).path
    folder = Path(config.to) if config.to else config.folder / "plots" / (config.name or path.stem)
    inspection = inspect(load(path))
    files = _page(inspection_plots.figure(inspection, title), folder, "inspect")
    document = {"bundle": str(path), **inspection_document(inspection), "files": files}
    return Answer(document, "\n".join([f"{path}:", inspection_table(inspection), "", *files]))


def _replay(config: ReplayConfig) -> Answer:
    results = results_of(config, Store(config.storage))
    result = replay(config, _corpus(config), results)
    return Answer(result.document(), result.text())


def _corpus(config: StudyConfig) -> Corpus:
    corpus = load_corpus(config.corpus, config.folder)
    print(corpus.describe(), file=sys.stderr)
    return corpus


def _space(config: StudyConfig) -> Answer:
    shown = overview(config, _corpus(config).vocabulary)
    return Answer(shown.document(), shown.text())


_RUNS: dict[str, tuple[type[StudyConfig], Callable[[Any], Answer]]] = {
    "train": (StudyConfig, _train),
    "sensitivity": (SensitivityConfig, _sensitivity),
    "sweep": (SweepConfig, _sweep),
    "worker": (WorkerConfig, _worker),
    "space": (StudyConfig, _space),
    "status": (StudyConfig, _status),
    "front": (StudyConfig, _front),
    "plot": (PlotConfig, _plot),
    "export": (ExportConfig, _export),
    "evaluate": (EvaluateConfig, _evaluate),
    "inspect": (InspectConfig, _inspect),
    "replay": (ReplayConfig, _replay),
    "publish": (PublishConfig, _publish),
}


def run(command: str) -> None:
    """Run a command as a Hydra app on sys.argv; ends the process with 1 for a person's error."""
    kind, function = _RUNS[command]

    def task(composed: DictConfig) -> None:
        try:
            config = settings_of(kind, composed)
            prepare(config.threads)
            quiet_optuna()
            answer = function(config)
        except UserError as error:
            end(f"lmpareto {command}: {error}", 1)
        except AWAY as error:
            end(f"lmpareto {command}: the storage {config.storage.shown}: {reason(error)}", 1)
        except KeyboardInterrupt:
            end(f"lmpareto {command}: {STOPPED}", 130)
        _say(json.dumps(answer.document) if config.format == "json" else answer.text)

    try:
        hydra.main(config_path="pkg://search.conf", config_name=command, version_base="1.3")(task)()
    except KeyboardInterrupt:  # while the jobs of a launcher ran
        print(f"lmpareto {command}: {STOPPED}", file=sys.stderr)
        sys.exit(130)


def _say(answer: str) -> None:
    """Print it, to whoever wants to hear all of it."""
    try:
        print(answer, flush=True)
    except BrokenPipeError:  # `| head` has read enough; at its end Python would try once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def settings_of(kind: type[StudyConfig], composed: DictConfig) -> StudyConfig:
    try:
        data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(
            f"{error.full_key}: this setting is missing; give {error.full_key}=..."
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(data, dict)
    config = parse(kind, {str(name): value for name, value in data.items()})
    if config.name is None and (chosen := HydraConfig.get().runtime.choices.get("study")):
        return config.model_copy(update={"name": chosen})
    return config
