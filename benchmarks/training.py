"""What a training step of the 2 x 200 model costs, against the least it could and against others.

    python -m benchmarks.training

- `products`: the float32 products of a step, and nothing else;
- `plain`: the step as it is written plainly in PyTorch, with nn.Embedding, nn.LSTM, nn.Linear,
  F.cross_entropy, clip_grad_norm_ and SGD;
- `dense`: a step of ours;
- `codes`: a step of a fine-tuning with uniform codes on every site;
- `sampled`: a step with sampled softmax.

They take turns, so that a busy neighbour slows them all, and the time is the processor's.
`python -m benchmarks.sampled` tells what sampling is worth to a given perplexity.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lmcore.building import build
from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.network import Network
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.training import train
from lmcore.training_settings import DropoutSettings, SampledSoftmaxSettings, TrainingSettings

WORDS, HIDDEN, LAYERS, BATCH, WINDOW = 10_000, 200, 2, 20, 20
STEPS, ROUNDS = 16, 9  # codes are assigned anew once in so many steps
NEGATIVES = 600
CODES = {"sites": {"*": {"bits": {"kind": "uniform", "step": 0.5}}}}


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, num_layers=LAYERS)
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


def _model() -> Network:
    settings = ModelSettings(layers=LAYERS, hidden=HIDDEN, embedding=HIDDEN, tied=False)
    return random_model(settings, WORDS, 0.1, torch.Generator().manual_seed(0))


def _coded_model() -> Network:
    dense = _model()
    return build(dense, resolve(Recipe.model_validate(CODES), dense.settings, WORDS))


def _our_steps(
    ids: Tensor, model: Network, sampled: SampledSoftmaxSettings | None = None
) -> Callable[[], None]:
    training = TrainingSettings(
        epochs=1,
        batch=BATCH,
        window=WINDOW,
        rate=1.0,
        dropout=DropoutSettings(kind="element", rate=0.0),
        sampled=sampled,
    )
    text = ids.repeat(STEPS, 1)[: STEPS * WINDOW + 1].T.flatten()

    def steps() -> None:
        train(model, text, training, seed=0)

    return steps


def _product_steps() -> Callable[[], None]:
    """Of each matrix W (out, in): x W^T forward, and backward the gradients of x and of W. A
    layer's recurrent matrix takes a token of each stream at a time, but for its own gradient."""

    def product(rows: int, inner: int, columns: int) -> Callable[[], Tensor]:
        out = torch.empty(rows, columns)
        one, other = torch.randn(rows, inner), torch.randn(inner, columns)
        return lambda: torch.mm(one, other, out=out)

    def products(tokens: int, inputs: int, outputs: int) -> list[Callable[[], Tensor]]:
        return [product(tokens, inputs, outputs), product(tokens, outputs, inputs)]

    tokens, gates = BATCH * WINDOW, 4 * HIDDEN
    weight_gradient = product(gates, tokens, HIDDEN)
    layer = [*products(tokens, HIDDEN, gates), weight_gradient, weight_gradient]
    layer += products(BATCH, HIDDEN, gates) * WINDOW
    decoder = [*products(tokens, HIDDEN, WORDS), product(WORDS, tokens, HIDDEN)]
    step = layer * LAYERS + decoder

    def steps() -> None:
        for _ in range(STEPS):
            for compute in step:
                compute()

    return steps


def main() -> None:
    prepare()
    ids = torch.randint(WORDS, (WINDOW + 1, BATCH), generator=torch.Generator().manual_seed(0))
    sampled = SampledSoftmaxSettings(negatives=NEGATIVES, full=0.0)
    runs = {
        "products": _product_steps(),
        "plain": _plain_steps(ids),
        "dense": _our_steps(ids, _model()),
        "codes": _our_steps(ids, _coded_model()),
        "sampled": _our_steps(ids, _model(), sampled),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        for name, run in runs.items():
            started = time.thread_time()
            run()
            if turn:
                seconds[name].append(time.thread_time() - started)
    tokens = STEPS * WINDOW * BATCH
    speeds = {name: tokens / median(times) for name, times in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name:9} {speed:9,.0f} tokens/s, {speed / speeds['dense']:.2f} x dense")
    figures = {
        "tokens_per_second": speeds,
        "speedup": speeds["dense"] / speeds["plain"],
        "share_of_products": speeds["dense"] / speeds["products"],
        "codes_against_dense": speeds["codes"] / speeds["dense"],
        "sampled_against_dense": speeds["sampled"] / speeds["dense"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
