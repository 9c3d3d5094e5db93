"""Corpora: what is read, what it is counted as, and what is said where it cannot be read."""

from __future__ import annotations

import http.client
import io
import urllib.error
import urllib.request
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
    for part in ("train.txt, valid.txt and test.txt", "corpus.dir=", "LMPARETO_DATA=", "https://"):
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


def test_a_text_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    assert "No such file" in message(TextFiles(file=str(tmp_path / "none.txt")), tmp_path)
    assert "directory" in message(TextFiles(file=str(tmp_path)), tmp_path)
    (tmp_path / "latin.txt").write_bytes("Bär\n".encode("latin-1") * 500)
    said = message(TextFiles(file=str(tmp_path / "latin.txt")), tmp_path)
    assert "latin.txt is not UTF-8" in said
    said = message(TextFiles(file=write(tmp_path, "short.txt", "a b\n" * 200)), tmp_path)
    assert "valid" in said
    assert "60 tokens" in said
    assert "0 tokens" in message(TextFiles(file=write(tmp_path, "empty.txt", "")), tmp_path)


def test_vocabulary_refuses_what_it_cannot_say() -> None:
    vocabulary = Vocabulary(["a", EOS])
    assert torch.equal(vocabulary.encode(["a", EOS, "a"]), torch.tensor([0, 1, 0]))
    with pytest.raises(UserError, match=UNK):
        vocabulary.encode(["a", "b"])
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a", EOS])
    with pytest.raises(ValueError, match=EOS):
        Vocabulary(["a"])


# --- Python's own documentation ------------------------------------------------------------------


def test_python_docs_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    corpus = load_corpus(PythonDocs(), tmp_path)
    assert len(corpus.vocabulary) == 1_500
    assert len(corpus.train) > 30_000
    assert 0.005 < float((corpus.train == corpus.vocabulary.ids[UNK]).float().mean()) < 0.15
    assert 0.08 < len(corpus.valid) / len(corpus.train) < 0.18
    assert f"the {UNK}" in words_of(corpus, "valid")
    assert corpus.key == load_corpus(PythonDocs(), tmp_path).key
    assert not (ROOT / "pydoc").exists()
