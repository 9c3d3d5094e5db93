"""The results of a study, from the database or from the folder of a published study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lmcore.errors import UserError
from lmcore.files import write_atomic, write_json
from lmcore.methods import methods_of
from search.config import PUBLISHED, StudyConfig
from search.front import Front, Point, front_of
from search.measurement import Measurement
from search.rules.sensitivity import Effects
from search.study.context import StudyContext
from search.study.study import check_ours, complete_keys, infeasible

CORPUS = "lmpareto_corpus"  # the study's attribute in Optuna with the kind of its corpus
RECORDS = "trials.jsonl"
PREDICTED = "predicted.json"


@dataclass(frozen=True)
class Results:
    """The complete trials of a study, by number, and its baselines, by name."""

    study: str
    corpus: str  # the kind of the corpus
    trials: Mapping[int, Measurement]
    baselines: Mapping[str, Measurement]
    predicted: Sequence[tuple[float, float]] = ()  # bytes and perplexity, before any training
    infeasible: frozenset[int] = frozenset()  # trials over a limit of the last sweep

    @cached_property
    def front(self) -> Front:
        return front_of(
            self.study,
            (
                _point(str(number), number, one, number not in self.infeasible)
                for number, one in self.trials.items()
            ),
        )

    @property
    def beside(self) -> list[Point]:
        """The baselines as points, by name."""
        return [_point(name, None, one) for name, one in sorted(self.baselines.items())]

    def measured(self, name: str) -> Measurement:
        """The measurement of a trial's number or a baseline's name. Raises UserError for others."""
        if name in self.baselines:
            return self.baselines[name]
        if name.isdigit() and int(name) in self.trials:
            return self.trials[int(name)]
        if name.isdigit():
            self.front.trial(int(name))  # raises an error that lists the trials
        beside = ", ".join(self.baselines) or "nothing"
        raise UserError(
            f"trial: got {name}; it takes a number, or the name of a baseline: {beside}"
        )


def results_of(context: StudyContext[StudyConfig]) -> Results:
    """The study's results. Raises UserError where it is neither in the database nor published."""
    name, store = context.name, context.store
    if not store.has_study(name) and (published := _published(name)).exists():
        return _read(context.config, published)
    study = context.study
    check_ours(study)
    trials = complete_keys(study)
    names = store.baselines(name)
    found = store.measurements([*trials.values(), *names.values()])
    if others := [number for number, key in trials.items() if key not in found]:
        raise UserError(
            f"study {name}: lmpareto has no measurement of trial {others[0]}; another program has "
            f"added it, and can delete it"
        )
    return Results(
        study=name,
        # studies of earlier versions did not store the kind
        corpus=study.user_attrs.get(CORPUS, context.config.corpus.kind),
        trials={number: found[key] for number, key in trials.items()},
        baselines={one: found[key] for one, key in names.items() if key in found},
        predicted=_predicted(store.effects(name)),
        infeasible=infeasible(study),
    )


def _predicted(effects: Effects | None) -> list[tuple[float, float]]:
    if effects is None:
        return []
    return [(one.size_bytes, effects.perplexity_of(one)) for one in effects.front]


def write_records(results: Results, path: Path) -> None:
    """Write one JSON document a line: {"name": "17" or "control", and the measurement}, with
    {"feasible": false} where it is over a limit."""
    named = {**{str(n): one for n, one in results.trials.items()}, **results.baselines}
    over = {str(number): {"feasible": False} for number in results.infeasible}
    lines = [
        json.dumps({"name": name, **over.get(name, {}), **one.plain()})
        for name, one in named.items()
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
    if results.predicted:
        write_json(path.with_name(PREDICTED), [list(point) for point in results.predicted])


def _published(study: str) -> Path:
    return PUBLISHED / study / RECORDS


def _read(config: StudyConfig, path: Path) -> Results:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    over = frozenset(int(row["name"]) for row in rows if not row.pop("feasible", True))
    named = {row.pop("name"): Measurement(**row) for row in rows}
    predicted = path.with_name(PREDICTED)
    return Results(
        study=config.study,
        corpus=config.corpus.kind,
        trials={int(name): one for name, one in named.items() if name.isdigit()},
        baselines={name: one for name, one in named.items() if not name.isdigit()},
        predicted=json.loads(predicted.read_text()) if predicted.exists() else (),
        infeasible=over,
    )


def _point(name: str, trial: int | None, measured: Measurement, feasible: bool = True) -> Point:
    return Point(
        name=name,
        trial=trial,
        size_bytes=measured.size_bytes,
        valid_perplexity=measured.valid_perplexity,
        tokens_per_second=measured.tokens_per_second,
        recipe=measured.recipe,
        method="+".join(methods_of(measured.recipe)),
        feasible=feasible,
    )
