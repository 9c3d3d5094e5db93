"""How fast models predict, against the first of them.

    python -m benchmarks.speed DENSE.lmb OTHER.lmb ...

Each model scores the same random words, as one stream and as twenty. The models take turns, so that
a busy neighbour slows them all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

import torch

from lmcore.bundle import load
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.runtime import prepare

TOKENS, ROUNDS = 2_000, 9


def main() -> None:
    prepare()
    paths = sys.argv[1:]
    if len(paths) < 2:
        sys.exit("benchmarks.speed: give the bundle to compare with, then others")
    try:
        bundles = {path: load(Path(path)) for path in paths}
    except UserError as error:
        sys.exit(f"benchmarks.speed: {error}")
    words = min(len(bundle.vocabulary) for bundle in bundles.values())
    ids = torch.randint(words, (TOKENS,), generator=torch.Generator().manual_seed(0))
    figures: dict[str, dict[str, float]] = {path: {} for path in paths}
    for streams in (1, 20):
        speeds: dict[str, list[float]] = {path: [] for path in paths}
        for turn in range(ROUNDS + 1):
            for path, bundle in bundles.items():
                measured = score(bundle.language, ids, bundle.vocabulary.eos, streams, burn_in=0)
                if turn:
                    speeds[path].append(measured.tokens_per_second)
        for path in paths:
            speed, against = median(speeds[path]), median(speeds[paths[0]])
            figures[path] |= {
                f"tokens_per_second_{streams}": speed,
                f"x_{streams}": speed / against,
            }
            print(f"{path}: {streams} streams, {speed:,.0f} tokens/s, {speed / against:.2f} x")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
