"""Phrases with a grade each: trees, and what a training learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcore.classified import LabelledText
from lmcore.errors import UserError
from lmcore.treebank import phrases_of

TREE = "(3 (2 The) (3 (5 (4 lovely) (2 film)) (2 .)))"


def test_a_tree_is_its_phrases() -> None:
    assert [tuple(one) for one in phrases_of(TREE, "here")] == [
        ("2", "The"),
        ("4", "lovely"),
        ("2", "film"),
        ("5", "lovely film"),
        ("2", "."),
        ("3", "lovely film ."),
        ("3", "The lovely film ."),
    ]
    found = phrases_of("(2 (2 -LRB-) (2 (2 1\\/2) (2 ``)))", "here")
    assert found[-1].text == "-LRB- 1\\/2 ``"  # as the files of sentences spell them, too


@pytest.mark.parametrize(
    "tree",
    [
        "",
        "a film",
        "(3 film",
        "(3 (2 a) (2 film)",
        "(3 a) (2 film)",
        "(3 (2) (2 film))",
        "()",
        "3)",
    ],
)
def test_what_is_no_tree_is_told(tree: str) -> None:
    with pytest.raises(UserError, match=r"line 7 is .*; a line is a tree: \(3 "):
        phrases_of(tree, "line 7")


@pytest.fixture
def treebank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sst"
    folder.mkdir()
    lines = "3 the lovely film .\n2 a dull film .\n4 lovely .\n"
    for split in ("train", "dev", "test"):
        (folder / f"sst5-{split}.txt").write_text(lines)
    (folder / "trees-fiveclass-train.txt").write_text(f"{TREE}\n\n{TREE}\n")
    monkeypatch.setenv("LMPARETO_DATA", str(tmp_path))
    return folder


def test_each_phrase_is_learned_once_and_whole_sentences_are_measured(
    treebank: Path, tmp_path: Path
) -> None:
    sentences, phrases = (LabelledText(phrases=one).load(tmp_path) for one in (False, True))
    assert len(phrases.train.labels) == 7
    grades = [phrases.labels[label] for label in phrases.train.labels.tolist()]
    assert grades == ["2", "4", "2", "4", "2", "3", "3"]  # 5 is the best grade, 4, in the trees
    assert phrases.vocabulary.words == sentences.vocabulary.words
    assert phrases.labels == sentences.labels == ("2", "3", "4")
    for split in ("valid", "test"):
        assert phrases.split(split).content == sentences.split(split).content
    assert phrases.key != sentences.key


def test_a_file_of_ones_own_has_no_trees(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a file of your own may have phrases among its lines"):
        LabelledText(train="mine.tsv", phrases=True).load(tmp_path)


def test_a_broken_tree_is_named_with_its_file(treebank: Path, tmp_path: Path) -> None:
    (treebank / "trees-fiveclass-train.txt").write_text(f"{TREE}\n(3 film\n")
    with pytest.raises(UserError, match=r"trees-fiveclass-train.txt, line 2 is '\(3 film'"):
        LabelledText(phrases=True).load(tmp_path)
