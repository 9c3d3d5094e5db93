"""How far a trial climbs: at which fine-tunings it is looked at, and which trials go on from there.

A rung is so many epochs of fine-tuning. At each the file is written and measured, a real point of
the plane; a trial that does not go on keeps the values of the last file it has.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from lmcore.recipe import Recipe
from lmcore.settings import Family

PREDICTS = 0.8  # the partial tau from which the rung without training is believed
LEAST = 10  # trials that tau is measured on
_size = attrgetter("size_bytes")


@dataclass(frozen=True)
class Look:
    """What the file of a trial was at one of its rungs."""

    trial: int
    rung: int
    size_bytes: int
    perplexity: float


class Fidelity(Family):
    """The rungs, in epochs, below the fine-tuning that a recipe asks for; 0 is without training."""

    rungs: tuple[Annotated[float, Field(ge=0)], ...] = ()

    @field_validator("rungs")
    @classmethod
    def _ascend(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(rungs)):
            raise ValueError(f"they ascend; got {list(rungs)}")
        return rungs

    def ladder(self, recipe: Recipe) -> list[Recipe]:
        """The recipe cut off at each rung below its own fine-tuning, then the recipe itself."""
        if recipe.finetuning is None:
            return [recipe]
        below = tuple(r for r in self.rungs if 0 < r < recipe.finetuning.epochs)
        whole = recipe.finetuning.model_copy(update={"rungs": below})
        steps = [whole.up_to(rung) for rung in range(len(whole.ends))]
        untrained = [None] if 0 in self.rungs else []
        return [recipe.model_copy(update={"finetuning": s}) for s in (*untrained, *steps)]

    @abstractmethod
    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        """Whether a trial is trained on, given every look so far (its own may be among them) and
        the size in bytes and the perplexity of the dense model."""


class Whole(Fidelity):
    """Every trial is trained to its end."""

    kind: Literal["whole"] = "whole"

    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        return True


class TowardsFront(Fidelity):
    """Those go on that may move the front.

    Inside the box - no larger than the dense model, at most `worst` times its perplexity - a trial
    that no other dominates at its rung always goes on. Of the others, harsh recipes that training
    may yet bring into the box among them, go the best 1 / `eta` of all at the rung, one at least,
    counting how far their perplexity lies above the best that is reached at no more than their
    size. Without training only the size decides, until the perplexities there are known to tell
    the better of two files of a size.
    """

    kind: Literal["front"] = "front"
    eta: Annotated[float, Field(ge=1)] = 4.0
    worst: Annotated[float, Field(ge=1)] = 2.0

    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        size_bytes, perplexity = dense
        untrained = mine.rung == 0 and 0 in self.rungs
        if not math.isfinite(mine.perplexity) or mine.size_bytes > size_bytes:
            return False
        if untrained and not predicts(looks):
            return True
        others = [one for one in looks if one.rung == mine.rung and one.trial != mine.trial]
        every = [*(one for one in others if one.size_bytes <= size_bytes), mine]
        excess = excesses(every)
        better = sum(other < excess[mine.trial] for other in excess.values())
        if better < max(1.0, len(every) / self.eta):
            return True
        inside = untrained or mine.perplexity <= self.worst * perplexity
        return inside and excess[mine.trial] <= 0


class Asha(Fidelity):
    """Of all at a rung the first 1 / `eta` go on (Schmucker et al. 2021, multi-objective ASHA):
    by non-dominated sorting, and within a layer by an epsilon-net."""

    kind: Literal["asha"] = "asha"
    eta: Annotated[float, Field(gt=1)] = 3.0

    def goes_on(self, mine: Look, looks: Sequence[Look], dense: tuple[int, float]) -> bool:
        if not math.isfinite(mine.perplexity):
            return False
        others = [one for one in looks if one.rung == mine.rung and one.trial != mine.trial]
        order = ranked([*others, mine])
        return order.index(mine) < max(1.0, len(order) / self.eta)


AnyFidelity = Annotated[SerializeAsAny[Fidelity], BeforeValidator(Fidelity.pick)]


def excesses(looks: Sequence[Look]) -> dict[int, float]:
    """Trial -> ln of its perplexity above the best of all others that are no larger, given one
    look of each; at most 0 where none of them dominates it, -inf where none is as small. Equal
    points are on the front together."""
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
    """Whether the first rung tells who will have the lower perplexity among files of a size.

    By the partial tau of both perplexities, given the size of the last file (Kendall 1942): those
    of larger files are lower at both rungs, which is no news.
    """
    top = max((look.rung for look in looks), default=0)
    first = {look.trial: look.perplexity for look in looks if look.rung == 0}
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
    """The looks, best first: layer by layer of non-dominated sorting, each as an epsilon-net.

    An epsilon-net (Salinas et al. 2021) takes one after another that which lies farthest, in the
    ranks of size and perplexity, from all that were taken.
    """
    sizes = sorted(look.size_bytes for look in looks)
    perplexities = sorted(look.perplexity for look in looks)
    place = {
        look: (sizes.index(look.size_bytes), perplexities.index(look.perplexity)) for look in looks
    }
    left, order = list(looks), []
    while left:
        layer = [one for one in left if not any(_dominates(other, one) for other in left)]
        left = [one for one in left if one not in layer]
        net = [min(layer, key=lambda look: look.perplexity)]
        rest = [look for look in layer if look is not net[0]]
        while rest:
            far = max(rest, key=lambda one: min(math.dist(place[one], place[n]) for n in net))
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
