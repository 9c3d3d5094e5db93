"""What a trial without training costs, against one pass over its validation text in plain PyTorch.

    python -m benchmarks.trial [DENSE.lmb]

The trial builds a 2 x 200 model of uniform codes on every site, packs it, writes the file, reloads
it, and measures the perplexity of 73,760 words as one stream: as many as Penn Treebank's validation
text has, drawn at random. The plain pass uses nn.Embedding, nn.LSTM, nn.Linear and F.cross_entropy
on windows of the same length. The two take turns, so that a busy neighbour slows both; seconds are
those of a processor. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import thread_time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lmcore.building import build
from lmcore.bundle import Bundle, load, pack
from lmcore.compress.uniform import Uniform
from lmcore.errors import UserError
from lmcore.evaluation import WINDOW, score
from lmcore.files import write_atomic
from lmcore.recipe import Recipe, SiteSettings, resolve
from lmcore.runtime import prepare

DENSE = Path(__file__).parents[1] / "studies" / "ptb_tied" / "dense.lmb"
TOKENS, STEP, ROUNDS, MUST = 73_760, 1.0, 5, 1.6


def trial(dense: Bundle, ids: Tensor, folder: Path) -> dict[str, float]:
    """Seconds of each step of a trial."""
    laps: dict[str, float] = {}
    since = thread_time()

    def end(step: str) -> None:
        nonlocal since
        now = thread_time()
        laps[step], since = now - since, now

    recipe = Recipe(sites={"*": SiteSettings(bits=Uniform(step=STEP))})
    model = build(dense.language, resolve(recipe, dense.language.settings, dense.language.words))
    end("build")
    data = pack(model.eval(), dense.vocabulary)
    end("pack")
    write_atomic(folder / "trial.lmb", data)
    end("write")
    bundle = load(folder / "trial.lmb")
    end("read")
    score(bundle.language, ids, dense.vocabulary.eos)
    end("score")
    return laps


class Plain(nn.Module):
    """The dense model, written plainly."""

    def __init__(self, dense: Bundle) -> None:
        super().__init__()
        settings = dense.language.settings
        hidden = settings.units[0]
        self.embedding = nn.Embedding(dense.language.words, settings.embedding)
        self.lstm = nn.LSTM(settings.embedding, hidden, num_layers=settings.layers)
        self.decoder = nn.Linear(hidden, dense.language.words)

    @torch.no_grad()
    def pass_over(self, ids: Tensor) -> float:
        """The mean loss of a text (tokens,) in nats."""
        total, state = 0.0, None
        for start in range(0, len(ids) - 1, WINDOW):
            window = ids[start : start + WINDOW + 1].unsqueeze(1)
            hidden, state = self.lstm(self.embedding(window[:-1]), state)
            logits = self.decoder(hidden).flatten(0, 1)
            total += float(cross_entropy(logits, window[1:].flatten(), reduction="sum"))
        return total / (len(ids) - 1)


def main() -> None:
    prepare()
    try:
        dense = load(Path(sys.argv[1]) if sys.argv[1:] else DENSE)
    except UserError as error:
        sys.exit(f"benchmarks.trial: {error}")
    words = dense.language.words
    ids = torch.randint(words, (TOKENS,), generator=torch.Generator().manual_seed(0))
    plain, passes, trials = Plain(dense), list[float](), list[dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="lmpareto-trial-") as folder:
        for _ in range(ROUNDS):
            trials.append(trial(dense, ids, Path(folder)))
            since = thread_time()
            plain.pass_over(ids)
            passes.append(thread_time() - since)
    steps = {step: median(one[step] for one in trials) for step in trials[0]}
    ratio = median(sum(one.values()) / each for one, each in zip(trials, passes, strict=True))
    for step, seconds in steps.items():
        print(f"{step:6} {seconds:6.2f} s")
    print(f"plain  {median(passes):6.2f} s; the trial takes {ratio:.2f} x, wanted {MUST} x")
    print(json.dumps({"seconds": steps, "plain_seconds": median(passes), "ratio": ratio}))


if __name__ == "__main__":
    main()
