"""Byte-level pairs: every text comes back, and `tokenizers` gives the same ids."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from lmcore.errors import UserError
from lmcore.subword import BYTES, LETTERS, LONGEST, STRETCH, SubwordVocabulary, learn

SYLLABLES = [
    *(
        "für",
        "die",
        "Ka",
        "tze",
        " the",
        "er",
        "ing",
        "12",
        "日本",
        "語の",
        "🎉",
        "👩‍👩‍👧",
        "é",
        "e\u0301",
    ),
    *(
        "שָׁ",
        "हिन्दी",
        "。",
        "<eos>",
        "<unk>",
        "\t",
        "  ",
        "--",
        "ĠĊ",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x0b",
    ),
]
TEXTS = [
    "",
    "\n",
    "\n\n\n",
    "a",
    "  leading and trailing  \n",
    "der Hund\r\nbellt\r\n\r\n",
    "a\rb\r\r\nc",
    "日本語のテキスト、空白なし。" * 20,
    "👩‍👩‍👧‍👦 🇩🇪 é e\u0301 \u0d15\u0d4d\u0d37 \u202eabc",
    "\ufeffa\ufffd\x00\x7f\x80\u2028\u2029\x85\x1c\x0b\x0c",
    "x" * 500 + " " * 500 + "!" * 500 + "0" * 500,
]


def text_of(lines: int = 300) -> str:
    draw = random.Random(0)
    made = ("".join(draw.choices(SYLLABLES, k=draw.randint(0, 12))) for _ in range(lines))
    return "\n".join(made) + "\n"


@pytest.fixture(scope="module")
def vocabulary() -> SubwordVocabulary:
    return learn(text_of().split("\n"), 330)


@pytest.fixture(scope="module")
def peer(vocabulary: SubwordVocabulary) -> Tokenizer:
    """`tokenizers` with the same merges."""
    shown = ["".join(LETTERS[byte] for byte in one) for one in vocabulary.spelled]
    merges = [(shown[left], shown[right]) for left, right in vocabulary.merges]
    tokenizer = Tokenizer(BPE({word: i for i, word in enumerate(shown)}, merges))
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(STRETCH), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def assert_comes_back(vocabulary: SubwordVocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert vocabulary.bytes_of(ids.tolist()) == text.encode()
    assert vocabulary.decode(ids.tolist()) == text
    assert int((ids == vocabulary.eos).sum()) == text.count("\n")


@pytest.mark.parametrize("text", [*TEXTS, text_of()])
def test_a_text_comes_back_to_the_byte(text: str, vocabulary: SubwordVocabulary) -> None:
    assert_comes_back(vocabulary, text)
    assert_comes_back(SubwordVocabulary(()), text)


PIECES = st.lists(st.one_of(st.sampled_from([*SYLLABLES, "\n", "\r\n"]), st.text(max_size=8)))


@settings(max_examples=150)
@given(pieces=PIECES)
@example(pieces=["   a", "  \n  ", "b   "])
@example(pieces=["Katzenkatze" * 9])
def test_tokenizers_gives_the_same_ids(
    vocabulary: SubwordVocabulary, peer: Tokenizer, pieces: list[str]
) -> None:
    text = "".join(pieces)
    assert_comes_back(vocabulary, text)
    lines = [peer.encode(line).ids for line in text.split("\n")]
    wanted = lines[0] + [i for line in lines[1:] for i in (vocabulary.eos, *line)]
    assert vocabulary.encode(text).tolist() == wanted


def test_merges_are_used_and_never_hold_a_newline(vocabulary: SubwordVocabulary) -> None:
    text = text_of()
    ids = vocabulary.encode(text)
    assert len(vocabulary) == 330
    assert len(ids) < 0.6 * len(text.encode())
    assert int((ids >= BYTES).sum()) > 1000
    assert all(b"\n" not in one for one in vocabulary.spelled[BYTES:])
    assert max(map(len, vocabulary.spelled)) <= LONGEST
    assert vocabulary.words[vocabulary.eos] == "<eos>"
    assert vocabulary.words[ord(" ")] == "Ġ"
    assert vocabulary.unknown is None


def test_what_is_asked_for_in_between_is_a_letter_cut(vocabulary: SubwordVocabulary) -> None:
    ids = vocabulary.encode("日").tolist()
    assert vocabulary.decode([*SubwordVocabulary(()).encode("日").tolist()[:2]]) == "\ufffd"
    assert vocabulary.decode(ids) == "日"


def test_half_a_surrogate_pair_is_refused(vocabulary: SubwordVocabulary) -> None:
    with pytest.raises(UserError, match="surrogate"):
        vocabulary.encode("a \ud800")


LEARN = """
import sys
from pathlib import Path
from lmcore.subword import learn
text = Path(sys.argv[1]).read_bytes().decode()
print(learn(text.split("\\n"), 330).merges)
"""


def test_two_processes_learn_the_same(vocabulary: SubwordVocabulary, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(text_of().encode())
    command = [sys.executable, "-c", LEARN, str(tmp_path / "text")]
    found = [subprocess.check_output(command, text=True, timeout=60) for _ in range(2)]
    assert found == [f"{vocabulary.merges}\n"] * 2


def test_the_most_frequent_pairs_come_first() -> None:
    vocabulary = learn(["abab ab", "cd"] * 3, 400)
    assert [vocabulary.words[i] for i in range(BYTES, len(vocabulary))][:1] == ["ab"]
    assert "cd" in vocabulary.words
    assert len(vocabulary) < 400  # the text has no more pairs


@pytest.mark.parametrize(
    ("merges", "said"),
    [
        ([(97, 256)], "no earlier pieces"),
        ([(-1, 97)], "no earlier pieces"),
        ([(97, 10)], "no earlier pieces"),
        ([(97, 98), (97, 98)], "each word once"),
        ([(97, 97), *((i, i) for i in range(256, 300))], "more than"),
    ],
)
def test_merges_that_are_none_are_refused(merges: list[tuple[int, int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SubwordVocabulary(merges)
