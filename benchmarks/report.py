"""How long a report takes to make and to open, for studies of 5,000, 20,000 and 50,000 trials.

    python -m benchmarks.report [TRIALS]

Each study is made in a SQLite database: sampled recipes of three rungs, of which a third of the
trials climbs each. `made` is the whole process of `lmpareto report`. `opened` is from Chromium's
start of loading the page until its first screen is usable: sentence, slider and panel. `drawn` is
until the plot of the front is there, too. Both are medians of 3. Look at the processor
time, too: the wall time depends on what else the machine does. The last line is JSON.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from sqlalchemy import Connection, MetaData, Table, insert, select

from benchmarks.framework import settings
from search.store.schema import Base, MeasurementRow, RungRow
from search.study.beginning import create
from search.study.context import WorkContext
from search.study.note import ATTRIBUTE
from search.terminal import quiet_optuna

SIZES = (5_000, 20_000, 50_000)
LIMITS = {5_000: (10.0, 2.0), 50_000: (60.0, 5.0)}  # seconds to make, to open
MOST_BYTES = {20_000: 15 * 10**6}
SAMPLES = 300  # recipes that are sampled; the numbers of the others are those of one of them, moved
CHUNK = 2_000  # trials that are inserted at once
FAILING = 0.02
RUNGS = 3
BEGAN = datetime(2026, 1, 1)
IS_SET = "document.documentElement.dataset.{} === 'true'"
OPENED, DRAWN = IS_SET.format("usable"), IS_SET.format("ready")


def main() -> None:
    quiet_optuna()
    sizes = [int(one) for one in sys.argv[1:]] or SIZES
    figures = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="lmpareto-report-") as folder:
            figures[str(size)] = found = of_size(Path(folder), size)
        made, opened = LIMITS.get(size, (math.nan, math.nan))
        print(
            f"{size:,} trials: made in {found['made_seconds']:.1f} s "
            f"({found['made_cpu_seconds']:.1f} s of a processor; wanted {made:.0f}), opened in "
            f"{found['opened_seconds']:.1f} s (wanted {opened:.0f}), drawn in "
            f"{found['drawn_seconds']:.1f} s, "
            f"{found['bytes'] / 1e6:.1f} MB (wanted {MOST_BYTES.get(size, math.nan) / 1e6:.0f})",
            flush=True,
        )
    print(json.dumps(figures))


def of_size(folder: Path, size: int) -> dict[str, float]:
    """The figures of one study, which is made first."""
    fill(folder, size)
    command = [str(Path(sys.executable).parent / "lmpareto"), "report", "study=many"]
    environment = {**os.environ, "LMPARETO_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    before, since = os.times(), time.perf_counter()
    subprocess.run([*command, f"to={folder}/page"], env=environment, check=True, stdout=2)
    took, after = time.perf_counter() - since, os.times()
    cpu = after.children_user + after.children_system
    page = folder / "page" / "report.html"
    loads = [opened(page) for _ in range(3)]
    return {
        "made_seconds": took,
        "made_cpu_seconds": cpu - before.children_user - before.children_system,
        "opened_seconds": median(first for first, _ in loads),
        "drawn_seconds": median(last for _, last in loads),
        "bytes": sum(path.stat().st_size for path in page.parent.iterdir()),
    }


def opened(page: Path) -> tuple[float, float]:
    """Seconds until the page is usable, and until it is drawn; NaN without Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return math.nan, math.nan
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        since = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="commit")
        took = []
        for state in (OPENED, DRAWN):
            tab.wait_for_function(state, timeout=120_000)
            took.append(time.perf_counter() - since)
        browser.close()
    return took[0], took[1]


# --- the study ---------------------------------------------------------------------------------


def fill(folder: Path, size: int) -> None:
    """A study `many` of so many trials, as a search leaves it."""
    context = WorkContext(settings(folder, "name=many", f"trials={size}"))
    study = create(context)
    samples, draw = sampled(context), random.Random(1)
    known = MetaData()
    known.reflect(context.store.engine)
    with context.store.engine.begin() as connection:
        for first in range(0, size, CHUNK):
            numbers = range(first, min(first + CHUNK, size))
            rows = [trial(number, *draw.choice(samples), draw) for number in numbers]
            put(connection, known, study._study_id, rows)


Sample = tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]


def sampled(context: WorkContext[Any]) -> list[Sample]:
    """Parameters, their distributions, and the recipes of the rungs, of some trials."""
    config, space = context.config, context.space
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    found = []
    for _ in range(SAMPLES):
        one = asked.ask()
        ladder = config.fidelity.ladder(space.suggest(one).recipe)[:RUNGS]
        found.append((one.params, one.distributions, [recipe.plain() for recipe in ladder]))
    return found


def trial(
    number: int,
    parameters: dict[str, Any],
    ranges: dict[str, Any],
    ladder: list[dict[str, Any]],
    draw: random.Random,
) -> dict[str, Any]:
    """A trial with the numbers of a sampled one, each moved by up to 3%."""
    text = json.dumps(ladder)
    moved = dict(parameters)
    for name, value in parameters.items():
        if isinstance(value, float) and len(repr(value)) > 8:
            high, low = ranges[name].high, ranges[name].low
            moved[name] = min(high, max(low, value * draw.uniform(0.97, 1.03)))
            text = text.replace(repr(value), repr(moved[name]))
    reached = 1
    while reached < len(ladder) and draw.random() < 1 / 2:
        reached += 1
    size_bytes = math.exp(draw.uniform(math.log(1e5), math.log(4e6)))
    luck = draw.expovariate(4.0)
    files = []
    for rung, recipe in enumerate(json.loads(text)[:reached]):
        epochs = recipe["finetuning"]["epochs"] if recipe["finetuning"] else 0.0
        rest = (1e5 / size_bytes) ** 0.3 + luck + 0.3 * math.exp(-3 * epochs)
        at = BEGAN + timedelta(seconds=30 * number + 9 * rung)
        files.append((recipe, int(size_bytes), 80 * (1 + rest), at))
    return {
        "number": number,
        "parameters": moved,
        "ranges": ranges,
        "files": files,
        "failed": draw.random() < FAILING,
    }


def put(connection: Connection, known: MetaData, study: int, trials: list[dict[str, Any]]) -> None:
    """Insert the trials into Optuna's tables and ours."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in trials:
        for name, row in rows_of(one, study):
            rows.setdefault(name, []).append(row)
    for name, some in rows.items():
        table: Table = Base.metadata.tables.get(name, known.tables[name])
        connection.execute(insert(table), some)
    assert connection.scalar(select(known.tables["trials"].c.trial_id).limit(1))


def rows_of(one: dict[str, Any], study: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Table and row, of all that is stored of a trial."""
    number, files, failed = one["number"], one["files"], one["failed"]
    at, began = number + 1, BEGAN + timedelta(seconds=30 * number)
    yield (
        "trials",
        {
            "trial_id": at,
            "number": number,
            "study_id": study,
            "state": "FAIL" if failed else "COMPLETE",
            "datetime_start": began,
            "datetime_complete": began + timedelta(seconds=29),
        },
    )
    for name, value in one["parameters"].items():
        distribution = one["ranges"][name]
        yield (
            "trial_params",
            {
                "trial_id": at,
                "param_name": name,
                "param_value": distribution.to_internal_repr(value),
                "distribution_json": distribution_to_json(distribution),
            },
        )
    note: dict[str, Any] = {"asked": f"{number:08x}", "recipe": files[-1][0]}
    if failed:
        note["failure"] = "diverged: the loss is infinite"
    else:
        best = min(range(len(files)), key=lambda rung: files[rung][2])
        note["key"] = f"{number:08x}_{best}"
        for objective, value in enumerate(files[best][1:3]):
            row = {"trial_id": at, "objective": objective, "value": value, "value_type": "FINITE"}
            yield "trial_values", row
    yield (
        "trial_user_attributes",
        {"trial_id": at, "key": ATTRIBUTE, "value_json": json.dumps(note)},
    )
    for rung, (recipe, size_bytes, perplexity, when) in enumerate([] if failed else files):
        key = f"{number:08x}_{rung}"
        yield (
            MeasurementRow.__tablename__,
            {
                "key": key,
                "recipe": recipe,
                "size_bytes": size_bytes,
                "valid_perplexity": perplexity,
                "tokens_per_second": 9000.0,
                "updates": 100,
                "seconds": 8.0,
                "sha256": f"{number:064x}",
                "provenance": {"torch": "2.13.0", "seconds": {"build": 1.0, "finetune": 8.0}},
                "measured_at": when,
            },
        )
        yield (
            RungRow.__tablename__,
            {"study": "many", "trial": number, "rung": rung, "key": key},
        )


if __name__ == "__main__":
    main()
