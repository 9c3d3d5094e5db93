"""How well an answer matches: exact match and F1 as SQuAD defines them (Rajpurkar et al. 2016,
section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """In lower case, without ASCII punctuation, without articles, with single blanks."""
    plain = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact(answer: str, right: Iterable[str]) -> bool:
    """Whether the answer is one of the right ones, both normalised."""
    wanted = normalised(answer)
    return any(normalised(one) == wanted for one in right)


def f1(answer: str, right: Iterable[str]) -> float:
    """The harmonic mean of precision and recall of the answer's words, from 0 to 1: the best over
    the right answers. Two answers without words agree."""
    return max(_f1(normalised(answer).split(), normalised(one).split()) for one in right)


def _f1(words: list[str], wanted: list[str]) -> float:
    common = (Counter(words) & Counter(wanted)).total()
    if not words or not wanted:
        return float(words == wanted)
    return 2 * common / (len(words) + len(wanted))
