"""Records of reports as studies give them, and at their edges, made without a study."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from typing import Any

from search.show.literature import literature_points
from search.show.report.record import (
    Course,
    FrontPoint,
    Mark,
    Report,
    Site,
    Stairs,
    StudyReport,
    Sureness,
)

SITES = {
    "embedding": 2_000_000,
    "lstm.0.input": 160_000,
    "lstm.0.recurrent": 160_000,
    "lstm.1.input": 160_000,
    "lstm.1.recurrent": 160_000,
    "decoder": 2_000_000,
}
DENSE_SIZE = 18_600_000
HOSTILE = '<img src=x onerror="document.title=1"> & "quotes" \'single\' </script><b>bold</b> =1+1'
PARAMETERS: dict[str, Any] = {
    "sites.embedding.structure": ("dense", "svd", "tensor_train"),
    "sites.embedding.structure.rank": (20, 120),
    "sites.embedding.bits.step": (0.4, 4.0),
    "sites.lstm.*.bits.step": (0.4, 4.0),
    "sites.decoder.bits.step": (0.4, 4.0),
    "sites.decoder.sparsity": (0.0, 0.9),
    "finetuning.rate": (0.01, 10.0),
    "finetuning.optimizer": ("sgd", "adam"),
    "finetuning.dropout.rate": (0.0, 0.5),
}
NUMBER, NUMBER_HERE = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?"), re.compile("¤")
REASONS = (
    "the rank 130 is over 120",
    "cuda: out of memory",
    "RuntimeError: a loss that is no number",
)


def study_report(
    trials: int = 60,
    name: str = "ptb_small",
    *,
    shift: float = 1.0,
    sure: bool = True,
    speed: bool = False,
) -> StudyReport:
    """A study of so many trials; the same arguments always give the same record."""
    chance = random.Random(trials)
    parameters: dict[str, list[Any]] = {one: [] for one in PARAMETERS}
    columns: dict[str, list[Any]] = {
        one: []
        for one in (
            *("number", "state", "stopped_early", "rung", "epochs", "size_bytes", "perplexity"),
            *("tokens_per_second", "relative_speed", "seconds", "started"),
            *("method", "recipe", "values", "failure"),
        )
    }
    recipes: list[str] = []
    for number in range(trials):
        values: dict[str, Any] = {
            one: chance.choice(ends) if isinstance(ends[0], str) else chance.uniform(*ends)
            for one, ends in PARAMETERS.items()
        }
        if values["sites.embedding.structure"] != "svd":
            values["sites.embedding.structure.rank"] = None
        for one, value in values.items():
            parameters[one].append(value)
        failed = number % 17 == 5
        size = int(180_000 * 14 ** chance.random())
        worse = abs(chance.gauss(0, 0.12))
        perplexity = shift * (100 + 26 * (300_000 / size) ** 1.4) * (1 + worse)
        rung = chance.choice((0, 1, 2, 3))
        words = "\n".join(recipe_of(values))
        form = NUMBER.sub("¤", words)
        if form not in recipes:
            recipes.append(form)
        row = {
            "number": number,
            "state": "failed" if failed else "infeasible" if size > 2_300_000 else "dominated",
            "stopped_early": rung < 2,
            "rung": None if failed else rung,
            "epochs": None if failed else (0, 0.25, 1, 4)[rung],
            "size_bytes": None if failed else size,
            "perplexity": None if failed else perplexity,
            "tokens_per_second": None if failed else 4000 + 3e9 / size,
            "relative_speed": None if failed or not speed else 1 + 1e6 / size,
            "seconds": 40 + 60 * rung + chance.random(),
            "started": 1.79e9 + 97.5 * number,
            "method": "svd, uniform" if values["sites.embedding.structure"] == "svd" else "uniform",
            "recipe": recipes.index(form),
            "values": " ".join(NUMBER.findall(words)),
            "failure": chance.choice(REASONS) if failed else None,
        }
        for name_of_column, cell in row.items():
            columns[name_of_column].append(cell)
    for row_number in _front(columns):
        columns["state"][row_number] = "front"
        columns["stopped_early"][row_number] = False
    front = [
        _point(columns, recipes, row, name, sure and index % 2 == 0)
        for index, row in enumerate(
            sorted(_front(columns), key=lambda row: float(columns["size_bytes"][row]))
        )
    ]
    stairs: Stairs = [(point.size_bytes, point.perplexity) for point in front]
    spent = list(accumulate(one or 0.0 for one in columns["epochs"]))
    failures = Counter(one for one in columns["failure"] if one)
    return StudyReport(
        name=name,
        corpus="ptb",
        unit="perplexity",
        sentence="15.6 x smaller at equal perplexity; 24.8 x at 2% more",
        objectives=["size", "perplexity"],
        front=front,
        knee=front[len(front) // 2].name if front else None,
        marks=[
            Mark("dense", 7_967_264, 120.35, text="the model that every trial starts from"),
            Mark("control", 7_967_264, 106.78, text="the dense model, fine-tuned"),
            *(
                Mark(one.label or one.name, one.size_bytes, one.test_perplexity, one.source)
                for one in literature_points("ptb")
            ),
        ],
        predicted=[(size * 1.1, perplexity * 1.2) for size, perplexity in stairs],
        trials=columns,
        parameters=parameters,
        recipes=recipes,
        bands={
            "best": [(size, 0.98 * value) for size, value in stairs],
            "median": stairs,
            "worst": [(size, 1.03 * value) for size, value in stairs],
        }
        if sure
        else {},
        importance={
            "size": dict(zip(PARAMETERS, (0.41, 0.2, 0.14, 0.1, 0.08, 0.05, 0.02), strict=False)),
            "perplexity": dict(zip(PARAMETERS, (0.1, 0.1, 0.2, 0.05, 0.05, 0.2), strict=False)),
        },
        course=Course(
            epochs=spent,
            hours=[97.5 * number / 3600 for number in range(trials)],
            hypervolume=[1 - 0.6 / (1 + 0.2 * number) for number in range(trials)],
            reference=(7_967_264.0, 240.7),
            rungs={"0 epochs": trials, "0.25 epochs": trials * 3 // 4, "1 epoch": trials // 2},
            failures=dict(failures),
            stages={"fine-tuning": 5230.0, "measuring": 610.0, "building": 44.0},
        ),
        provenance={
            "settings": "name: ptb_small\ntrials: 60\nspace:\n  sites:\n    embedding: {}\n",
            "versions": {"lmpareto": "0.1.0", "optuna": "5.0.0", "torch": "2.13.0"},
            "machine": {"processor": "Xeon", "cores": 2},
            "corpus": "ptb, sha256 3a1f9c0e",
            "dense": 16 * "3a1f",
            "commands": [f"lmpareto sweep study={name} trials={trials}"],
        },
        notes=["The times of this study's trials are not known: it was published by 0.1."],
        files={
            "trial": list(range(0, trials, 3)),
            "rung": [0 for _ in range(0, trials, 3)],
            "size_bytes": [size and size - 5 for size in columns["size_bytes"][::3]],
            "perplexity": [value and 1.15 * value for value in columns["perplexity"][::3]],
        },
    )


def recipe_of(values: dict[str, Any]) -> list[str]:
    """Some words of a recipe, a line each."""
    return [
        f"embedding: {values['sites.embedding.structure']}, codes of a uniform step "
        f"{values['sites.embedding.bits.step']:.3g}",
        f"decoder: {values['sites.decoder.sparsity']:.0%} zeros, step "
        f"{values['sites.decoder.bits.step']:.3g}",
        f"layers: codes of a uniform step {values['sites.lstm.*.bits.step']:.3g}",
        f"fine-tuning: {values['finetuning.optimizer']}, rate {values['finetuning.rate']:.3g}",
    ]


def recipe_text(columns: dict[str, list[Any]], recipes: list[str], row: int) -> str:
    """The recipe of a row in words."""
    numbers = iter(columns["values"][row].split(" "))
    return NUMBER_HERE.sub(lambda _: next(numbers), recipes[columns["recipe"][row]])


def _front(columns: dict[str, list[Any]]) -> list[int]:
    rows = [row for row, state in enumerate(columns["state"]) if state in ("dominated", "front")]
    rows.sort(key=lambda row: (columns["size_bytes"][row], columns["perplexity"][row]))
    best, front = float("inf"), []
    for row in rows:
        if columns["perplexity"][row] < best:
            best = columns["perplexity"][row]
            front.append(row)
    return front


def _point(
    columns: dict[str, list[Any]], recipes: list[str], row: int, study: str, sure: bool
) -> FrontPoint:
    size, perplexity = columns["size_bytes"][row], columns["perplexity"][row]
    share = size / sum(SITES.values())
    sites = [
        Site(
            site=name,
            structure="svd" if (row + index) % 3 == 0 else "dense",
            rank=str(20 + 7 * index) if (row + index) % 3 == 0 else "",
            zeros=0.1 * (index % 4),
            bits=f"uniform, step {0.7 + 0.3 * index:.1f}",
            bits_a_weight=8 * share * (0.8 + 0.1 * index),
            size_bytes=int(share * weights),
        )
        for index, (name, weights) in enumerate(SITES.items())
    ]
    return FrontPoint(
        name=str(columns["number"][row]),
        label=f"trial {columns['number'][row]}",
        size_bytes=size,
        perplexity=perplexity,
        ratio=DENSE_SIZE / size,
        epochs=columns["epochs"][row],
        tokens_per_second=columns["tokens_per_second"][row],
        relative_speed=columns["relative_speed"][row],
        recipe=recipe_text(columns, recipes, row).split("\n"),
        sites=sites,
        export=f"lmpareto export study={study} trial={columns['number'][row]} to=model",
        sure=Sureness(4, (1.004 * perplexity, 0.9), (1.01 * size, 2_100.0), 0.75) if sure else None,
    )


def report(*studies: StudyReport, watching: bool = False) -> Report:
    """A page of the studies."""
    names = ", ".join(study.name for study in studies)
    sentence = studies[0].sentence if len(studies) == 1 else f"{len(studies)} studies"
    return Report(names, sentence, list(studies), watching)


def empty() -> StudyReport:
    """A study before its first trial."""
    return replace(
        study_report(0),
        sentence="no trial yet",
        marks=[],
        predicted=[],
        importance={},
        course=Course([], [], [], (1e6, 200.0), {}, {}, {}),
        provenance={},
        files={},
    )


def all_failed() -> StudyReport:
    """A study whose trials all failed."""
    made = study_report(12)
    trials = made.trials | {
        "state": ["failed"] * 12,
        **{name: [None] * 12 for name in ("size_bytes", "perplexity", "epochs", "rung")},
        "failure": [REASONS[0]] * 12,
    }
    course = Course([], [], [], (1e6, 200.0), {}, {REASONS[0]: 12}, {})
    return replace(
        made,
        sentence="no model was measured",
        trials=trials,
        front=[],
        knee=None,
        predicted=[],
        bands={},
        importance={},
        course=course,
        files={},
    )


def ties() -> StudyReport:
    """Points of one size, of one perplexity, and twice the same."""
    made = study_report(40, sure=False)
    first = made.front[0]
    front = [replace(first, name=str(number), label=f"trial {number}") for number in range(3)]
    return replace(made, front=[*front, replace(first, name="3", size_bytes=first.size_bytes * 2)])


def hostile() -> StudyReport:
    """Names, recipes and reasons with markup, quotes and line ends in them."""
    made = study_report(30, HOSTILE)
    front = [
        replace(
            point,
            label=f"{point.label} {HOSTILE}",
            recipe=[HOSTILE],
            sites=[replace(site, site=f"{site.site} {HOSTILE}"[:60]) for site in point.sites],
            export=f"lmpareto export study='{HOSTILE}'",
        )
        for point in made.front
    ]
    return replace(
        made,
        front=front,
        corpus=HOSTILE,
        marks=[Mark(HOSTILE, 3e6, 130, HOSTILE, HOSTILE), Mark(HOSTILE, 2e6, 120)],
        recipes=[HOSTILE for _ in made.recipes],
        parameters={f"{HOSTILE} {name}": column for name, column in made.parameters.items()}
        | {"text": [HOSTILE, *(["a"] * 29)]},
        importance={HOSTILE: {HOSTILE: 0.7}},
        course=replace(made.course, failures={HOSTILE: 2}, rungs={HOSTILE: 3}),
        provenance={HOSTILE: {HOSTILE: [HOSTILE, "<script>alert(1)</script>"]}},
        notes=[HOSTILE],
    )


def three_objectives() -> StudyReport:
    """A study with speed as its third objective."""
    objectives = ["size", "perplexity", "speed"]
    return replace(study_report(80, speed=True), objectives=objectives)
