"""A model at the keyboard: completions and next words of each line that is typed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import lmcore
from lmcore.api import Likely, LoadedModel
from search.commands.answer import Answer
from search.config import CompleteConfig

Config = CompleteConfig
PROMPT = "> "
ABOUT = (
    "{model}. Type the beginning of a sentence and Enter: the last word's likeliest completions, "
    "then the next words. Ctrl-D ends it."
)


def run(config: CompleteConfig) -> Iterator[Answer]:
    """An answer for each line of standard input, as it comes."""
    lm = lmcore.load(config.bundle)
    if sys.stdin.isatty():
        print(ABOUT.format(model=_model_text(config, lm)), file=sys.stderr)
    for line in _lines():
        yield _answer(lm, line, config.words)


def _lines() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            print(PROMPT, end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline()):
            return
        yield line.rstrip("\r\n")


def _model_text(config: CompleteConfig, lm: LoadedModel) -> str:
    source = config.bundle or "The model that lmpareto carries, of Penn Treebank (lower case)"
    return f"{source}: {len(lm.vocabulary):,} {lm.vocabulary.noun}"


def _answer(lm: LoadedModel, line: str, words: int) -> Answer:
    """The completions of the last word, where one is begun, and what comes after it, where it is a
    word of the model's or where none is begun."""
    begun = bool(line) and not line[-1].isspace()
    unknown = lm.unknown_words(line)
    completions = lm.complete(line, words) if begun else []
    is_whole = not begun or line.split()[-1] not in unknown
    following = lm.next_words(line, words) if is_whole else []
    # the word at hand may only be begun
    told = [word for word in unknown if not (begun and word == line.split()[-1] and completions)]
    document = {
        "text": line,
        "completions": [list(pair) for pair in completions],
        "next_words": [list(pair) for pair in following],
        "unknown_words": told,
    }
    parts = [f"{_shown(completions)}"] if completions else []
    parts += [f"next: {_shown(following)}"] if following else []
    parts += [f"(unknown to the model: {' '.join(told)})"] if told else []
    return Answer(document, "   ".join(parts) or "(no word of the model's begins so)")


def _shown(likely: Likely) -> str:
    return "  ".join(f"{word} {probability:.1%}" for word, probability in likely)
