"""Corpora: what is read, what it is counted as, and what is said where it cannot be read."""

from __future__ import annotations

import http.client
import io
import random
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from lmcore.corpus import (
    EOS,
    UNK,
    Corpus,
    CorpusSettings,
    PennTreebank,
    PythonDocs,
    TextFiles,
    Vocabulary,
    load_corpus,
)
from lmcore.errors import UserError
from lmcore.settings import parse


def message(settings: CorpusSettings, cache: Path) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(settings, cache)
    return str(error.value)


def words_of(corpus: Corpus, split: str) -> str:
    return " ".join(corpus.vocabulary.words[i] for i in corpus.split(split).tolist())


# --- Penn Treebank -------------------------------------------------------------------------------


def test_penn_treebank_has_its_known_counts(ptb: Path, tmp_path: Path) -> None:
    corpus = load_corpus(PennTreebank(dir=str(ptb)), tmp_path)
    assert [len(corpus.split(s)) for s in ("train", "valid", "test")] == [929_589, 73_760, 82_430]
    assert len(corpus.vocabulary) == 10_000
    assert words_of(corpus, "train").startswith("aer banknote berlitz calloway centrust")
    assert int((corpus.train == corpus.vocabulary.eos).sum()) == 42_068  # lines
    assert "929,589 / 73,760 / 82,430" in corpus.describe()
    assert "10,000 words" in corpus.describe()
    assert list(tmp_path.iterdir()) == []


def test_penn_treebank_is_found_by_the_environment(
    ptb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMPARETO_DATA", str(ptb.parent))
    assert len(load_corpus(PennTreebank(), tmp_path).train) == 929_589


def test_another_text_in_its_place_is_refused(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("some other text\n" * 100)
    said = message(PennTreebank(dir=str(tmp_path)), tmp_path)
    for part in ("train.txt", "not Mikolov's", "SHA-256", "fcea919f", "corpus=text"):
        assert part in said


def test_a_missing_folder_says_which_files_belong_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMPARETO_DATA", str(tmp_path / "data"))
    for settings in (PennTreebank(dir=str(tmp_path / "none")), PennTreebank()):
        said = message(settings, tmp_path)
        assert str(tmp_path / ("none" if settings.dir else "data/ptb")) in said
        for name in ("train.txt", "valid.txt", "test.txt"):
            assert name in said


class CutShort(io.BytesIO):
    """An answer whose connection breaks."""

    def read(self, *_: Any) -> bytes:
        raise http.client.IncompleteRead(b"half", 5_000_000)


def offline(*_: Any, **__: Any) -> io.BytesIO:
    raise urllib.error.URLError("Name or service not known")


def timed_out(*_: Any, **__: Any) -> io.BytesIO:
    raise TimeoutError("timed out")


@pytest.mark.parametrize("answer", [offline, timed_out, lambda *_, **__: CutShort()])
def test_a_failed_download_says_what_to_put_where(
    answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMPARETO_DATA", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    said = message(PennTreebank(), tmp_path)
    places = ("train.txt, valid.txt and test.txt", "corpus.dir=", "LMPARETO_DATA=", "https://")
    for part in (*places, "study=NAME", "corpus=text corpus.file=FILE"):
        assert part in said
    assert not list(tmp_path.rglob("*.txt"))


def test_a_download_of_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMPARETO_DATA", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html>Log in"))
    assert "SHA-256" in message(PennTreebank(), tmp_path)
    assert not list(tmp_path.rglob("*.txt"))


# --- Anybody's text ------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_three_files(tmp_path: Path) -> None:
    paths = {
        "train": write(tmp_path, "a.txt", "der Hund bellt\nder Bär   brüllt\n" * 50),
        "valid": write(tmp_path, "b.txt", "der Hund singt\n" * 40),
        "test": write(tmp_path, "c.txt", "Bär der\n\n" * 30),
    }
    corpus = load_corpus(parse(TextFiles, paths), tmp_path)
    assert corpus.vocabulary.words == tuple(
        sorted([EOS, UNK, "der", "Hund", "bellt", "Bär", "brüllt"])
    )
    assert [len(corpus.split(s)) for s in ("train", "valid", "test")] == [400, 160, 120]
    assert words_of(corpus, "train").startswith(f"der Hund bellt {EOS} der Bär brüllt {EOS} der")
    assert words_of(corpus, "valid").startswith(f"der Hund {UNK} {EOS} der")
    assert words_of(corpus, "test").startswith(f"Bär der {EOS} {EOS} Bär")


def test_one_file_is_split_by_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "one.txt", "".join(f"line {i % 10} here\n" for i in range(400)))
    corpus = load_corpus(TextFiles(file=path), tmp_path)
    assert [len(corpus.split(s)) for s in ("train", "valid", "test")] == [1280, 160, 160]
    assert words_of(corpus, "train").startswith(f"line 0 here {EOS} line 1 here")
    assert words_of(corpus, "valid").startswith(f"line {UNK} here")  # 8 is no word of train


def test_rare_words_are_unknown(tmp_path: Path) -> None:
    """Of ten equally frequent words the first two fit beside the marks."""
    path = write(tmp_path, "one.txt", "a b c d e f g h i j\n" * 200)
    corpus = load_corpus(TextFiles(file=path, max_words=4), tmp_path)
    assert corpus.vocabulary.words == tuple(sorted([EOS, UNK, "a", "b"]))
    share = float((corpus.train == corpus.vocabulary.ids[UNK]).float().mean())
    assert share == pytest.approx(8 / 11)
    assert f"{share:.1%} {UNK}" in corpus.describe()


def test_key_tells_texts_apart(tmp_path: Path) -> None:
    texts = ["a b c\n" * 400, "a b c\n" * 400, "a c b\n" * 400]
    first, same, other = (
        load_corpus(TextFiles(file=write(tmp_path, f"{i}.txt", text)), tmp_path).key
        for i, text in enumerate(texts)
    )
    assert first == same != other


@pytest.mark.parametrize(
    "given", [{}, {"train": "a"}, {"train": "a", "valid": "b"}, {"train": "a", "file": "b"}]
)
def test_which_files_are_needed_is_said(given: dict[str, str], tmp_path: Path) -> None:
    said = message(parse(TextFiles, given), tmp_path)
    for part in ("corpus.train", "corpus.valid", "corpus.test", "corpus.file"):
        assert part in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; give a text with one sentence a line"),
        ("\n \n" * 100, "has only blank lines; give a text with one sentence a line"),
        ("a b c\n" * 4, "has 4 lines and 16 tokens; split by lines, its train has 4 lines and 16 "),
        (
            "a b " * 5000,
            "has 1 line and 10,001 tokens; split by lines, its valid has 0 lines and 0 ",
        ),
        (
            "a b\n" * 200,
            "has 200 lines and 600 tokens; split by lines, its valid has 20 lines and ",
        ),
    ],
)
def test_a_text_that_is_too_short_says_what_was_found(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "mine.txt", text)
    found = message(TextFiles(file=path), tmp_path)
    assert found.startswith(f"corpus.file {path} {said}")
    assert found.endswith("one sentence a line")
    if text.strip():
        assert "needs 100 tokens. Give a longer text" in found


def test_a_part_that_is_too_short_is_named(tmp_path: Path) -> None:
    good, short = write(tmp_path, "a.txt", "a b\n" * 50), write(tmp_path, "b.txt", "a b\n")
    given = {"train": good, "valid": short, "test": good}
    assert message(parse(TextFiles, given), tmp_path) == (
        f"corpus.valid {short} has 1 line and 3 tokens, and needs 100 tokens. "
        f"Give a longer text, with one sentence a line"
    )


def remarks(settings: CorpusSettings, cache: Path) -> list[str]:
    return list(load_corpus(settings, cache).remarks)


def as_lines(words: Iterable[str], each: int = 19) -> str:
    """The words, so many of them a line."""
    listed = list(words)
    return "".join(" ".join(listed[i : i + each]) + "\n" for i in range(0, len(listed), each))


def test_many_unknown_words_are_said_with_what_to_do(tmp_path: Path) -> None:
    """200 words, each as frequent as the others: a vocabulary of 190 makes 12 of them unknown."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(200)] * 40
    draw.shuffle(words)
    path = write(tmp_path, "one.txt", as_lines(words))
    (said,) = remarks(TextFiles(file=path, max_words=190), tmp_path)
    corpus = load_corpus(TextFiles(file=path, max_words=190), tmp_path)
    for split in ("train", "valid", "test"):
        share = float((corpus.split(split) == corpus.vocabulary.ids[UNK]).float().mean())
        assert f"{share:.1%} of {split}" in said
    assert "train has 200 different words, and corpus.max_words=190 keeps 188." in said
    found = re.search(r"With corpus.max_words=(\d+), less than 5% of (\w+) are unknown$", said)
    assert found
    enough, worst = int(found[1]), found[2]

    def unknown(max_words: int) -> float:
        corpus = load_corpus(TextFiles(file=path, max_words=max_words), tmp_path)
        ids = corpus.split(worst)
        return float((ids == corpus.vocabulary.ids[UNK]).float().mean())

    assert unknown(enough) < 0.05 <= unknown(enough - 1)
    assert remarks(TextFiles(file=path), tmp_path) == []


def test_words_that_train_has_not_are_said(tmp_path: Path) -> None:
    given = {
        "train": write(tmp_path, "a.txt", "a b c\n" * 100),
        "valid": write(tmp_path, "b.txt", "a b d\n" * 100),
        "test": write(tmp_path, "c.txt", "a c b\n" * 100),
    }
    (said,) = remarks(parse(TextFiles, given), tmp_path)
    assert "0.0% of train, 25.0% of valid, 0.0% of test" in said
    assert "Train has too few words of valid; give more text" in said


def test_a_language_without_blanks_is_said(tmp_path: Path) -> None:
    draw = random.Random(0)
    lines = ["".join(draw.choices("春夏秋冬山川日月", k=20)) + "。\n" for _ in range(2000)]
    (said,) = remarks(TextFiles(file=write(tmp_path, "zh.txt", "".join(lines))), tmp_path)
    assert "21 letters on average; put blanks between the words" in said
    assert "50.0% of valid" in said


def test_unknown_words_that_the_text_itself_marks_are_not_counted(tmp_path: Path) -> None:
    texts = {"train": "a <unk> b\n", "valid": "b <unk> a\n", "test": "<unk> a b\n"}
    given = {split: write(tmp_path, split, line * 50) for split, line in texts.items()}
    assert remarks(parse(TextFiles, given), tmp_path) == []


def test_parts_that_hold_the_same_lines_are_said(tmp_path: Path) -> None:
    one = write(tmp_path, "a.txt", "a b c\nc b a\n" * 50)
    other = write(tmp_path, "b.txt", "b a c\n" * 50)
    same = remarks(TextFiles(train=one, valid=one, test=other), tmp_path)
    assert same == [
        "every line of valid is in train, too: perplexity on valid says what a model remembers. "
        "Give corpus.valid a text of its own"
    ]
    (said,) = remarks(TextFiles(train=one, valid=other, test=other), tmp_path)
    assert said.startswith("valid and test are the same text")
    assert said.endswith("Give corpus.test a text of its own")


def test_vocabulary_refuses_what_it_cannot_say() -> None:
    vocabulary = Vocabulary(["a", EOS])
    assert torch.equal(vocabulary.ids_of(["a", EOS, "a"]), torch.tensor([0, 1, 0]))
    assert torch.equal(vocabulary.encode("a\na"), torch.tensor([0, 1, 0]))
    with pytest.raises(UserError, match=UNK):
        vocabulary.ids_of(["a", "b"])
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a", EOS])
    with pytest.raises(ValueError, match=EOS):
        Vocabulary(["a"])


# --- Python's own documentation ------------------------------------------------------------------


def test_python_docs_are_the_same_for_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, and in every version of Python: studies are begun with this key."""
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    corpus = load_corpus(PythonDocs(), tmp_path)
    assert corpus.key == "9ce511b31d0319e3"
    assert [len(corpus.split(s)) for s in ("train", "valid", "test")] == [41_226, 5_011, 5_545]
    assert len(corpus.vocabulary) == 1_500
    assert f"the {UNK}" in words_of(corpus, "valid")


def test_the_licence_of_the_python_docs_is_beside_them() -> None:
    licence = (ROOT / "lmcore" / "data" / "pydoc.LICENSE").read_text()
    assert "pydoc.txt is a derivative work of the documentation of Python 3.11" in licence
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence
