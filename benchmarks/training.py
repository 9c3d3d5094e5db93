"""A training step of the 2 x 200 model against the same step written plainly in PyTorch.

    python -m benchmarks.training

The plain step uses nn.Embedding, nn.LSTM, nn.Linear, F.cross_entropy, clip_grad_norm_ and SGD. The
two take turns, so that a busy neighbour slows both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.runtime import prepare
from lmcore.training import train
from lmcore.training_settings import DropoutSettings, TrainingSettings

WORDS, HIDDEN, BATCH, WINDOW, STEPS, ROUNDS = 10_000, 200, 20, 20, 10, 11


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, num_layers=2)
        self.decoder = nn.Linear(HIDDEN, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(ids))
        logits: Tensor = self.decoder(hidden)
        return logits


def _plain_steps(ids: Tensor) -> Callable[[], None]:
    model = _Plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            logits = model(ids[:WINDOW])
            loss = cross_entropy(logits.flatten(0, 1), ids[1 : WINDOW + 1].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()

    return steps


def _our_steps(ids: Tensor) -> Callable[[], None]:
    settings = ModelSettings(layers=2, hidden=HIDDEN, embedding=HIDDEN, tied=False)
    model = random_model(settings, WORDS, 0.1, torch.Generator().manual_seed(0))
    training = TrainingSettings(
        epochs=1,
        batch=BATCH,
        window=WINDOW,
        rate=1.0,
        dropout=DropoutSettings(kind="element", rate=0.0),
    )
    text = ids.repeat(STEPS, 1)[: STEPS * WINDOW + 1].T.flatten()

    def steps() -> None:
        train(model, text, training, seed=0)

    return steps


def main() -> None:
    prepare()
    ids = torch.randint(WORDS, (WINDOW + 1, BATCH), generator=torch.Generator().manual_seed(0))
    runs = {"plain": _plain_steps(ids), "lmpareto": _our_steps(ids)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    tokens = STEPS * WINDOW * BATCH
    speeds = {name: tokens / median(times) for name, times in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name:9} {speed:,.0f} tokens/s")
    ratio = speeds["lmpareto"] / speeds["plain"]
    print(json.dumps({"tokens_per_second": speeds, "speedup": ratio}))


if __name__ == "__main__":
    main()
