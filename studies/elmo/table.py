"""What tasks lose where matrices of the language model that they read words by are compressed: the
rows of the studies elmo_sentiment, elmo_entailment and elmo_reading, with three seeds of each head.

    python studies/elmo/table.py      # from the root of the checkout

Reads what `lmpareto sweep` measured of each study and seed, see README.md; of a study that the
database has not, the rows that rows.csv has. Writes rows.csv, table.md, and the picture lost.png
and lost.svg.
"""

from __future__ import annotations

import csv
import json
import subprocess
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.show.page import write_pictures

HERE = Path(__file__).parent
ROWS = HERE / "rows.csv"
TASKS, SEEDS = ("sentiment", "entailment", "reading"), (1, 2, 3)
METHODS = {"svd": "SVD", "semi_nmf": "Semi-NMF", "pruning": "pruning"}
KINDS = ("input", "recurrent")
RANKS = (5, 10, 20, 40, 80)
COLOURS = dict(zip(METHODS, ("#4269d0", "#ff725c", "#3ca951"), strict=True))


class Row(NamedTuple):
    """A file that was measured; the error is in percent, on the validation split."""

    task: str
    seed: int
    name: str
    size_bytes: int
    valid_error: float


def rows() -> list[Row]:
    """Those of the database, and of rows.csv for the other studies."""
    known, found = written(), list[Row]()
    for task in TASKS:
        for seed in SEEDS:
            measured = of_database(task, seed)
            found += measured or [one for one in known if (one.task, one.seed) == (task, seed)]
    return found


def of_database(task: str, seed: int) -> list[Row]:
    """The rows of a study that was begun; of another, none."""
    name = f"elmo_{task}" if seed == 1 else f"elmo_{task}_{seed}"
    command = ["lmpareto", "front", f"name={name}", "format=json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return []
    return [
        Row(task, seed, one["name"], one["size_bytes"], round(one["valid_error"], 3))
        for one in json.loads(done.stdout)["baselines"]
    ]


def written() -> list[Row]:
    """The rows of rows.csv."""
    with ROWS.open(newline="") as file:
        return [
            Row(
                one["task"],
                int(one["seed"]),
                one["name"],
                int(one["size_bytes"]),
                float(one["valid_error"]),
            )
            for one in csv.DictReader(file)
        ]


def lost(measured: list[Row]) -> dict[tuple[str, str], list[float]]:
    """(task, baseline) -> percentage points of error above the dense model's, one for each seed."""
    dense = {(one.task, one.seed): one.valid_error for one in measured if one.name == "dense"}
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in measured:
        if (one.task, one.seed) in dense:
            found[one.task, one.name].append(one.valid_error - dense[one.task, one.seed])
    return found


def cell(values: list[float]) -> str:
    """The mean over seeds, and its standard deviation."""
    if not values:
        return "–"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):+.1f}{spread}"


def table(measured: list[Row]) -> str:
    """A table for each task, as Markdown."""
    losses, lines = lost(measured), list[str]()
    for task in TASKS:
        dense = [one.valid_error for one in measured if (one.task, one.name) == (task, "dense")]
        if not dense:
            continue
        spread = f" ± {stdev(dense):.1f}" if len(dense) > 1 else ""
        lines += [
            f"**{task}**: error of the dense model {mean(dense):.1f}{spread}% on validation, "
            f"{len(dense)} seed{'s' if len(dense) > 1 else ''}",
            "",
            "| rank | "
            + " | ".join(f"{METHODS[m]}, {kind}" for m in METHODS for kind in KINDS)
            + " |",
            "|---" * (1 + len(METHODS) * len(KINDS)) + "|",
        ]
        for rank in RANKS:
            cells = [cell(losses[task, f"{m}_{kind}_{rank}"]) for m in METHODS for kind in KINDS]
            lines.append(f"| {rank} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def picture(measured: list[Row]) -> go.Figure:
    """What is lost over the rank, a plot for each task; dotted: input matrices."""
    losses, tasks = lost(measured), [one for one in TASKS if any(r.task == one for r in measured)]
    figure = make_subplots(1, len(tasks), subplot_titles=tasks, horizontal_spacing=0.06)
    for column, task in enumerate(tasks, 1):
        for method, label in METHODS.items():
            for kind in KINDS:
                every = [losses[task, f"{method}_{kind}_{rank}"] for rank in RANKS]
                figure.add_scatter(
                    x=RANKS,
                    y=[mean(values) if values else None for values in every],
                    error_y={
                        "array": [stdev(values) if len(values) > 1 else 0 for values in every],
                        "thickness": 1,
                    },
                    name=f"{label}, {kind}",
                    legendgroup=f"{label}, {kind}",
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": COLOURS[method], "dash": "dot" if kind == "input" else "solid"},
                    row=1,
                    col=column,
                )
    figure.update_xaxes(type="log", tickvals=RANKS, ticktext=RANKS, title="rank")
    figure.update_yaxes(title="points lost", col=1)
    figure.update_layout(
        template="plotly_white",
        font={"family": "sans-serif", "size": 13},
        margin={"t": 50, "l": 60, "r": 20, "b": 50},
        legend={"orientation": "h", "y": -0.22},
        meta={"title": "elmo", "height": 420},
    )
    return figure


def main() -> None:
    measured = rows()
    with ROWS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(measured)
    text = table(measured)
    (HERE / "table.md").write_text(text)
    write_pictures(picture(measured), HERE, "lost")
    print(text)


if __name__ == "__main__":
    main()
