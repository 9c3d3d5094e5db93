"""How far a trial climbs: at which rungs its file is measured, and which trials go on from there.

A rung is a number of epochs of fine-tuning. At each rung a trial's file is written and measured,
and the measurement is a point of the plane. A trial then goes on to the next rung, or it stops. Its
values are those of its best file, and the rules compare trials by their `best_so_far`, each with
its `rivals`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from lmcore.recipe import Recipe
from lmcore.settings import Family
from search.rules.limits import BoxSettings

PREDICTS = 0.8  # the least partial tau at which perplexities before training decide
FASTER = 1.1  # the ratio of two speeds that is beyond the noise of measuring them
LEAST = 10  # the least number of trials that tau is computed from
_size = attrgetter("size_bytes")


@dataclass(frozen=True)
class Look:
    """A trial at one of its rungs, 0 for the first: the size and the perplexity of a file, its
    relative speed where the study has that objective, and the updates that it was trained for."""

    trial: int
    rung: int
    size_bytes: int
    perplexity: float
    speed: float | None = None
    updates: int = 0


class Fidelity(Family):
    """A rule that says which trials go on.

    `rungs` are in epochs and ascend; 0 is before any training. The last rung of every trial is the
    fine-tuning that its recipe asks for, so rungs at or above that are left out.
    """

    rungs: tuple[Annotated[float, Field(ge=0)], ...] = ()

    @field_validator("rungs")
    @classmethod
    def _ascend(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(rungs)):
            raise ValueError(f"rungs must ascend; got {list(rungs)}")
        return rungs

    def ladder(self, recipe: Recipe) -> list[Recipe]:
        """One recipe a rung: the recipe cut off at each rung below its fine-tuning, then whole."""
        if recipe.finetuning is None:
            return [recipe]
        below = tuple(r for r in self.rungs if 0 < r < recipe.finetuning.epochs)
        whole = recipe.finetuning.model_copy(update={"rungs": below})
        steps = [whole.up_to(rung) for rung in range(len(whole.ends))]
        untrained = [None] if 0 in self.rungs else []
        return [recipe.model_copy(update={"finetuning": s}) for s in (*untrained, *steps)]

    def within(self, box: BoxSettings | None) -> Fidelity:
        """The rule for a search in a box."""
        return self

    @abstractmethod
    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        """Whether the trial of the look `mine` goes on to its next rung.

        `looks` has every look of the study so far, each as `best_so_far`; `mine` may be among them.
        `dense` is the size in bytes and the perplexity of the dense model.
        """


class Whole(Fidelity):
    """Every trial goes on to its last rung."""

    kind: Literal["whole"] = "whole"

    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        return True


class TowardsFront(Fidelity):
    """A trial goes on where it may still move the front.

    - A file larger than the dense model, or of infinite perplexity, stops the trial.
    - Before any training, every other trial goes on, until `predicts` says that the perplexities
      measured there tell good recipes from bad ones.
    - A trial goes on if its best file is non-dominated among those of all trials at its rung and
      its perplexity is at most `worst` times that of the dense model. Before any training, its
      perplexity may be higher.
    - A trial also goes on if its excess is among the best 1 / `eta` of all trials at its rung, at
      least one. The excess is the distance in ln perplexity from the best file that is no larger
      (see `excesses`). So harsh recipes are trained too: training may repair them.
    """

    kind: Literal["front"] = "front"
    eta: Annotated[float, Field(ge=1)] = 4.0
    worst: Annotated[float, Field(ge=1)] = 2.0

    def within(self, box: BoxSettings | None) -> Fidelity:
        """With the box's perplexity as `worst` where that is lower."""
        if box is None or box.perplexity >= self.worst:
            return self
        return self.model_copy(update={"worst": box.perplexity})

    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        size_bytes, perplexity = dense
        untrained = mine.rung == 0 and 0 in self.rungs
        if not math.isfinite(mine.perplexity) or mine.size_bytes > size_bytes:
            return False
        if untrained and not predicts(looks):
            return True
        others = rivals(mine, looks)
        every = [*(one for one in others if one.size_bytes <= size_bytes), mine]
        excess = excesses(every)
        better = sum(other < excess[mine.trial] for other in excess.values())
        if better < max(1.0, len(every) / self.eta):
            return True
        inside = untrained or mine.perplexity <= self.worst * perplexity
        return inside and excess[mine.trial] <= 0


class Asha(Fidelity):
    """The first 1 / `eta` of all trials at a rung go on, at least one, in the order of `ranked`
    (Schmucker et al. 2021, multi-objective asynchronous successive halving)."""

    kind: Literal["asha"] = "asha"
    eta: Annotated[float, Field(gt=1)] = 3.0

    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        if not math.isfinite(mine.perplexity):
            return False
        others = rivals(mine, looks)
        order = ranked([*others, mine])
        return order.index(mine) < max(1.0, len(order) / self.eta)


AnyFidelity = Annotated[SerializeAsAny[Fidelity], BeforeValidator(Fidelity.pick)]


def best_so_far(looks: Iterable[Look]) -> list[Look]:
    """Each look with the trial's best file up to its rung: that of the lowest perplexity. The looks
    of a trial are given in the order of its rungs."""
    best: dict[int, Look] = {}
    found = []
    for look in looks:
        before = best.get(look.trial, look)
        best[look.trial] = min(before, look, key=lambda one: (one.perplexity, one.size_bytes))
        found.append(replace(best[look.trial], rung=look.rung, updates=look.updates))
    return found


def rivals(mine: Look, looks: Iterable[Look]) -> list[Look]:
    """What a look is compared with: the other trials at its rung, after as many updates. A study
    may have trials of several `rungs`, if it was swept with one `fidelity` and then with another.

    Where the study has speed as an objective, only those that are about as fast or faster. A file
    that is smaller and better but slower does not make it superfluous. Speeds are noisy: were a
    trial compared with strictly faster ones only, chance would let nearly all of them go on.
    """
    here = (mine.rung, mine.updates)
    found = (one for one in looks if (one.rung, one.updates) == here and one.trial != mine.trial)
    if mine.speed is None:
        return list(found)
    return [one for one in found if one.speed is None or one.speed * FASTER >= mine.speed]


def excesses(looks: Sequence[Look]) -> dict[int, float]:
    """Trial -> its excess, given one look of each trial.

    The excess is ln of the trial's perplexity over the lowest perplexity of the other trials whose
    files are no larger. It is at most 0 for a non-dominated trial, and -inf
    where no other file is as small. Equal points are non-dominated together.
    """
    found: dict[int, float] = {}
    best = second = math.inf  # the two lowest perplexities so far
    for _, equal in groupby(sorted(looks, key=_size), _size):
        here = list(equal)
        best, second, *_ = sorted((best, second, *(look.perplexity for look in here)))
        for look in here:
            reached = second if look.perplexity == best else best
            none = reached == math.inf
            found[look.trial] = -math.inf if none else math.log(look.perplexity / reached)
    return found


def predicts(looks: Sequence[Look]) -> bool:
    """Whether the perplexity at the first rung tells which of two files of the same size will have
    the lower perplexity at the last rung.

    The measure is Kendall's partial tau (Kendall 1942) of the two perplexities, given the size of
    the last file: (t_xy - t_xz t_yz) / sqrt((1 - t_xz^2) (1 - t_yz^2)). The size is taken out
    because larger files have lower perplexities at both rungs. False with fewer than `LEAST` trials
    at the last rung.
    """
    top = max((look.rung for look in looks), default=0)
    first = {look.trial: look.perplexity for look in looks if not (look.rung or look.updates)}
    ended = [look for look in looks if look.rung == top and look.trial in first]
    if top == 0 or len(ended) < LEAST:
        return False
    from scipy.stats import kendalltau  # takes a second to import

    before, after = [first[look.trial] for look in ended], [look.perplexity for look in ended]
    sizes = [look.size_bytes for look in ended]
    (same, by_size, end_by_size) = (
        float(kendalltau(one, other).statistic)
        for one, other in ((before, after), (before, sizes), (after, sizes))
    )
    spread = math.sqrt((1 - by_size**2) * (1 - end_by_size**2))
    return spread > 0 and (same - by_size * end_by_size) / spread >= PREDICTS


def ranked(looks: Sequence[Look]) -> list[Look]:
    """The looks, best first: by layers of non-dominated sorting, each ordered as an epsilon-net.

    An epsilon-net (Salinas et al. 2021) begins with the lowest perplexity. The next look is always
    the one farthest from all looks taken before, measured in ranks of size and of perplexity.
    """
    sizes = sorted(look.size_bytes for look in looks)
    perplexities = sorted(look.perplexity for look in looks)
    rank = {
        look: (sizes.index(look.size_bytes), perplexities.index(look.perplexity)) for look in looks
    }
    left, order = list(looks), []
    while left:
        layer = [one for one in left if not any(_dominates(other, one) for other in left)]
        left = [one for one in left if one not in layer]
        net = [min(layer, key=lambda look: look.perplexity)]
        rest = [look for look in layer if look is not net[0]]
        while rest:
            far = max(rest, key=lambda one: min(math.dist(rank[one], rank[n]) for n in net))
            net.append(far)
            rest.remove(far)
        order += net
    return order


def _dominates(one: Look, other: Look) -> bool:
    return (
        one.size_bytes <= other.size_bytes
        and one.perplexity <= other.perplexity
        and (one.size_bytes, one.perplexity) != (other.size_bytes, other.perplexity)
    )
