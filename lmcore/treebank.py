"""Trees of phrases, each with a label: the form of the Stanford Sentiment Treebank (Socher et al.
2013, "Recursive deep models for semantic compositionality over a sentiment treebank")."""

from __future__ import annotations

import re
from typing import NamedTuple

from lmcore.errors import UserError

_PART = re.compile(r"\(\s*([^\s()]+)|([^\s()]+)|(\))")


class Phrase(NamedTuple):
    """A label, and the text that has it."""

    label: str
    text: str


def phrases_of(tree: str, where: str) -> list[Phrase]:
    """The phrases of a tree "(LABEL word)" or "(LABEL (...) (...))", the whole of it last.

    Raises UserError, which says `where` the tree stands, for what is none.
    """
    found, words = list[Phrase](), list[str]()
    begun: list[tuple[str, int]] = []  # label and first word of the phrases that are not at an end
    for part in _PART.finditer(tree):
        label, word, _ = part.groups()
        is_over = found and not begun
        if is_over or (not label and not begun):
            break
        if label:
            begun.append((label, len(words)))
        elif word:
            words.append(word)
        else:
            label, first = begun.pop()
            found.append(Phrase(label, " ".join(words[first:])))
    else:
        if found and not begun and all(phrase.text for phrase in found):
            return found
    raise UserError(
        f"{where} is {tree[:60]!r}; a line is a tree: (3 (2 the) (3 (4 lovely) (2 film)))"
    )
