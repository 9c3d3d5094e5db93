"""What a person should know of the parts of a text before a model is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from itertools import accumulate, chain

from lmcore.errors import UserError
from lmcore.text import Lines, Texts, by_frequency, count_tokens

LEAST_TOKENS = 100  # a shorter part has no perplexity worth the name
UNKNOWN_SHARE = 0.05  # of a part's tokens: from here on a person is told
LONG_WORD = 15  # letters on average: found only where blanks do not part words


def check_lengths(texts: Texts, files: Mapping[str, Lines]) -> None:
    """Raises UserError where a part has too few tokens.

    `files` has the lines of each file by the name that a person knows it by ("corpus.file my.txt"):
    one file for each part, in the order of the parts, or one for all.
    """
    for name, lines in files.items():
        if not any(lines):
            found = "has only blank lines" if lines else "is empty"
            raise UserError(f"{name} {found}; give a text with one sentence a line")
    names = files if len(files) > 1 else list(files) * len(texts)
    for name, (part, lines) in zip(names, texts.items(), strict=True):
        if count_tokens(lines) < LEAST_TOKENS:
            split = "" if len(files) > 1 else f"; split by lines, its {part} has {_counted(lines)}"
            raise UserError(
                f"{name} has {_counted(files[name])}{split}, and needs {LEAST_TOKENS} tokens. "
                f"Give a longer text, with one sentence a line"
            )


def _counted(lines: Lines) -> str:
    """ "1 line and 27 tokens"."""
    count = len(lines)
    return f"{count:,} line{'' if count == 1 else 's'} and {count_tokens(lines):,} tokens"


def remarks(texts: Texts, words: Container[str], max_words: int | None) -> tuple[str, ...]:
    """A sentence or two on each thing that makes perplexities on these parts say little: words
    outside the vocabulary's `words`, and parts that have the same lines. `max_words` None: the
    words were given."""
    return (*_unknown(texts, words, max_words), *repeated(_as_tuples(texts)))


def _unknown(texts: Texts, words: Container[str], max_words: int | None) -> Iterator[str]:
    shares = {
        part: sum(word not in words for word in chain.from_iterable(lines)) / count_tokens(lines)
        for part, lines in texts.items()
    }
    if max(shares.values()) < UNKNOWN_SHARE:
        return
    counts = Counter(chain.from_iterable(texts["train"]))
    listed = ", ".join(f"{share:.1%} of {part}" for part, share in shares.items())
    if max_words is None:
        yield f"unknown words are {listed}: they are not in the given vocabulary"
        return
    yield (
        f"unknown words are {listed}: train has {len(counts):,} different words, and "
        f"corpus.max_words={max_words} keeps {min(len(counts), max_words - 2):,}. "
        f"{_advice(counts, texts, max(shares, key=shares.__getitem__))}"
    )


def _advice(counts: Counter[str], texts: Texts, worst: str) -> str:
    """What to do about the unknown words of the part that has the most, by train's counts."""
    letters = sum(len(word) * count for word, count in counts.items())
    if letters > LONG_WORD * counts.total():
        return (
            f"A word is what stands between blanks, {letters / counts.total():.0f} letters on "
            f"average; put blanks between the words of a language that is written without"
        )
    enough = _enough(counts, texts[worst])
    if enough is None:
        return f"Train has too few words of {worst}; give more text, or parts of the same kind"
    return f"With corpus.max_words={enough}, less than {UNKNOWN_SHARE:.0%} of {worst} are unknown"


def _enough(counts: Counter[str], lines: Lines) -> int | None:
    """The least `max_words` that leaves less than UNKNOWN_SHARE of the lines unknown, None where
    none does. Two of `max_words` are marks."""
    there = Counter(chain.from_iterable(lines))
    bearable = UNKNOWN_SHARE * count_tokens(lines)
    known = accumulate(there[word] for word in by_frequency(counts))
    return next((n for n, sum_ in enumerate(known, 3) if there.total() - sum_ < bearable), None)


def _as_tuples(texts: Texts) -> dict[str, list[tuple[str, ...]]]:
    return {part: list(map(tuple, lines)) for part, lines in texts.items()}


def repeated(texts: Mapping[str, Sequence[Hashable]]) -> Iterator[str]:
    """What to say of parts that have the same lines. An empty line is none of them."""
    train = set(texts["train"])
    for part in ("valid", "test"):
        if all(line in train for line in texts[part] if line):
            yield (
                f"every line of {part} is in train, too: perplexity on {part} says what a model "
                f"remembers. Give corpus.{part} a text of its own"
            )
    if texts["valid"] == texts["test"]:
        yield (
            "valid and test are the same text: test says nothing new of a model that valid chose. "
            "Give corpus.test a text of its own"
        )
