"""What the files within a point of the dense model on validation are worth on the test sentences.

    python studies/sst/within.py      # from the root of the checkout

Reads trials.jsonl and writes within.csv. Each file is exported: one that the cache has not is made
again, a few minutes of one core each.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search.api import open_study

HERE = Path(__file__).parent
POINT = 1.0
COLUMNS = ("name", "trial", "rung", "size_bytes", "valid_error", "test_error")


def within() -> list[dict[str, Any]]:
    """The files within a point of the dense model on validation, by size."""
    files = [json.loads(line) for line in (HERE / "trials.jsonl").read_text().splitlines()]
    most = next(one["valid_error"] for one in files if one["name"] == "dense") + POINT
    found = [one for one in files if "trial" in one and one["valid_error"] <= most]
    return sorted(found, key=lambda one: one["size_bytes"])


def tested(one: dict[str, Any]) -> float:
    """The error of a file on the test sentences, in percent."""
    with TemporaryDirectory() as folder:
        chosen = {"trial": one["trial"], "rung": one["rung"]}
        return float(open_study("sst").export(f"{folder}/model", **chosen)["test_error"])


def main() -> None:
    with (HERE / "within.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for one in within():
            measured = [*(one[name] for name in COLUMNS[:4]), round(one["valid_error"], 3)]
            table.writerow([*measured, round(tested(one), 3)])
            file.flush()


if __name__ == "__main__":
    main()
