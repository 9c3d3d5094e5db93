"""Networks that learn from examples of their own length: sentences, pairs of them, questions."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lmcore.errors import UserError
from lmcore.lessons import Lessons, distillation_of
from lmcore.network import Network
from lmcore.runtime import give_back
from lmcore.score import Comparison, Score, error_of
from lmcore.training_settings import TrainingSettings
from lmcore.watching import watching

SCORED = 64  # examples a batch, where nothing is trained
SAMPLE = 20  # examples of one sample
MOMENT_BATCHES = 30  # of SCORED examples, for the second moments
GIVEN_BACK = 50  # updates after which memory that batches of other lengths took is given back
POOL = 50  # batches whose examples are sorted by length together


class Examples(Protocol):
    """Examples, in an order of their own."""

    @property
    def lengths(self) -> Tensor:
        """(examples,): how many tokens each has."""

    def batch(self, places: Tensor) -> Any:
        """The examples at these places (batch,), as their network takes them."""


class Batches(Lessons):
    """Batches of examples of about the same length, in another order each epoch. The last batch of
    an epoch may be smaller."""

    def __init__(
        self,
        network: ExampleNetwork,
        examples: Examples,
        settings: TrainingSettings,
        seed: int,
        teacher: ExampleNetwork | None = None,
    ) -> None:
        """Until it is closed, the teacher is in eval mode, on the network's device. Raises
        UserError where there is no example."""
        if not len(examples.lengths):
            raise UserError("the training split has no example")
        self._network, self._examples, self._seed = network, examples, seed
        self._batch = settings.batch
        self.updates = math.ceil(len(examples.lengths) / settings.batch)
        self.tokens = int(examples.lengths.sum()) // self.updates
        self._order: tuple[int, list[Tensor]] = (-1, [])  # an epoch, and its batches
        self._distillation, self._teacher = distillation_of(settings, teacher), teacher
        if teacher:
            self._before = teacher.training, teacher.device
            teacher.eval().to(network.device)

    def loss(self, update: int, sampled: bool) -> Tensor:
        if update % GIVEN_BACK == 0:
            give_back()
        epoch, number = divmod(update, self.updates)
        if self._order[0] != epoch:
            self._order = epoch, self._batches(epoch)
        batch = self._examples.batch(self._order[1][number])
        scores = self._network.scores(batch)
        loss = self._network.loss_of(scores, batch)
        if not (self._teacher and self._distillation):
            return loss
        with torch.no_grad():
            theirs = self._teacher.scores(batch)
        mix, temperature = self._distillation.mix, self._distillation.temperature
        soft = [
            divergence(one / temperature, other / temperature)
            for one, other in zip(scores, theirs, strict=True)
        ]
        return (1 - mix) * loss + mix * temperature**2 * torch.stack(soft).sum()

    def _batches(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
        lengths = self._examples.lengths
        order = torch.randperm(len(lengths), generator=generator)
        pools = torch.split(order, POOL * self._batch)
        ordered = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools])
        batches = torch.split(ordered, self._batch)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator)]

    def carried(self) -> dict[str, Tensor]:
        return {}

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        pass

    def close(self) -> None:
        if self._teacher:
            mode, home = self._before
            self._teacher.to(home).train(mode)


def divergence(scores: Tensor, theirs: Tensor) -> Tensor:
    """KL(softmax(theirs) || softmax(scores)), a mean over the rows of (n, choices) in nats. A
    choice that is none scores -inf with both."""
    shares, log_shares = theirs.softmax(1), theirs.log_softmax(1)
    lost = torch.where(shares > 0, shares * (log_shares - scores.log_softmax(1)), 0.0)
    return lost.sum(1).mean()


class ExampleNetwork(Network):
    """A network of a task with examples."""

    @abstractmethod
    def scores(self, batch: Any) -> tuple[Tensor, ...]:
        """For each decision (n, choices): log-probabilities, up to a number a row. A choice that is
        none scores -inf."""

    @abstractmethod
    def loss_of(self, scores: tuple[Tensor, ...], batch: Any) -> Tensor:
        """The mean loss of a batch with these scores, in nats."""

    def loss(self, batch: Any) -> Tensor:
        """The mean loss of a batch, in nats."""
        return self.loss_of(self.scores(batch), batch)

    def lessons(
        self, examples: Examples, settings: TrainingSettings, seed: int, teacher: Any = None
    ) -> Batches:
        return Batches(self, examples, settings, seed, teacher)

    def comparison(self, data: Any) -> Comparison:
        return _Whole(self, data)

    def sampled_losses(self, examples: Examples, most: int) -> Iterator[tuple[Tensor, float]]:
        samples = _spread(examples, most, SAMPLE)
        for places in samples:
            yield self.loss(examples.batch(places)), 1 / len(samples)

    def moments(self, examples: Examples) -> dict[str, Tensor]:
        sums, counts = dict[str, Tensor](), dict[str, int]()

        def add(site: str, x: Tensor) -> None:
            rows = x.reshape(-1, x.shape[-1]).double()
            sums[site] = sums.get(site, 0.0) + rows.T @ rows
            counts[site] = counts.get(site, 0) + len(rows)

        with watching(self, add):
            for places in _spread(examples, MOMENT_BATCHES, SCORED):
                self.loss(examples.batch(places))
        return {site: (value / counts[site]).float() for site, value in sums.items()}


class LabellingNetwork(ExampleNetwork):
    """A network whose forward gives the logits of a label for each thing that is asked: (asked,
    labels)."""

    @abstractmethod
    def right(self, batch: Any) -> Tensor:
        """(asked,): the labels that are right."""

    def scores(self, batch: Any) -> tuple[Tensor, ...]:
        return (self(batch),)

    def loss_of(self, scores: tuple[Tensor, ...], batch: Any) -> Tensor:
        return cross_entropy(scores[0], self.right(batch))

    @torch.no_grad()
    def score(self, data: Any, split: str, streams: int = 1) -> Score:
        """The error, and the accuracy in percent. The error is infinite where a logit is."""
        self.eval()
        started, examples = time.perf_counter(), data.split(split)
        wrong, count = 0.0, 0
        for places in torch.split(by_length(examples), SCORED):
            batch = examples.batch(places)
            right, logits = self.right(batch), self(batch)
            wrong += float((logits.argmax(1) != right).sum())
            wrong += 0.0 if logits.isfinite().all() else math.inf
            count += len(right)
        seconds, accuracy = time.perf_counter() - started, 100 * max(0.0, 1 - wrong / count)
        more = {"accuracy": accuracy}
        return Score(error_of(wrong, count), data.tokens(split), seconds, more, count)


class _Whole:
    """A comparison over the whole validation split."""

    def __init__(self, base: ExampleNetwork, data: Any) -> None:
        self._data, self._base = data, base.score(data, "valid").value

    def __call__(self, model: Any, most: float = math.inf) -> tuple[float, int]:
        score = model.score(self._data, "valid")
        return math.log(score.value / self._base), score.tokens


def by_length(examples: Examples) -> Tensor:
    """(examples,): their places, the shortest first."""
    return examples.lengths.argsort(stable=True)


def _spread(examples: Examples, most: int, size: int) -> list[Tensor]:
    """At most so many batches of `size` examples of about the same length, spread over all."""
    batches = torch.split(by_length(examples), size)
    count = min(most, len(batches))
    return [batches[at * len(batches) // count] for at in range(count)]
