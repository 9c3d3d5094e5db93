"""Corpora whose tokens spell the text: subwords, characters, a recogniser's pieces."""

from __future__ import annotations

import builtins
import io
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from lmcore import bundle
from lmcore.building import build
from lmcore.corpus import CharacterText, Corpus, PieceText, SubwordText, load_corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.spelling import HIDDEN_BITS, Spelling
from lmcore.vocabulary import CharacterVocabulary, PieceVocabulary, Vocabulary, read_tokens

SPLITS = ("train", "valid", "test")
WORDS = ["THE", "CAT", "SAT", "ON", "A", "MAT", "WITH", "ANOTHER", "HAT", "ÜBER", "日本", "é"]


def text_of(seed: int, lines: int) -> str:
    draw = random.Random(seed)
    made = (" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(lines))
    return "\n".join(made) + "\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    found = {}
    for seed, (split, lines) in enumerate(zip(SPLITS, (600, 100, 100), strict=True)):
        found[split] = folder / f"{split}.txt"
        found[split].write_bytes(text_of(seed, lines).encode())
    return found


@pytest.fixture(scope="module")
def model(texts: dict[str, Path]) -> Path:
    """A SentencePiece model as icefall makes them: blank 0, sos = eos = 1, unk 2."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts["train"].read_text().splitlines()),
        model_writer=written,
        vocab_size=60,
        model_type="bpe",
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        minloglevel=2,
    )
    path = texts["train"].with_name("bpe.model")
    path.write_bytes(written.getvalue())
    return path


def given(texts: dict[str, Path], **more: Any) -> dict[str, Any]:
    return {split: str(path) for split, path in texts.items()} | more


def refused(settings: Any, cache: Path) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(settings, cache)
    return str(error.value)


def written(vocabulary: Vocabulary, folder: Path) -> bundle.Bundle:
    """The vocabulary in a bundle, written and read; its packed size holds."""
    settings = ModelSettings(layers=1, hidden=2, embedding=2, tied=False)
    dense = random_model(settings, len(vocabulary), 0.1, torch.Generator().manual_seed(0))
    recipe = resolve(Recipe(), settings, len(vocabulary))
    path = folder / "model.lmb"
    size = bundle.save(path, build(dense, recipe).eval(), vocabulary)
    assert size <= bundle.packed_size(recipe, settings, vocabulary)
    assert path.read_bytes()[4] == 2  # the version of all that are no words
    loaded = bundle.load(path)
    assert loaded.vocabulary.is_same(vocabulary)
    assert loaded.vocabulary.words == vocabulary.words
    assert bundle.pack(loaded.model, loaded.vocabulary) == path.read_bytes()
    return loaded


@pytest.mark.parametrize("kind", ["subword", "characters"])
def test_streams_spell_the_text_and_so_do_those_of_the_bundle(
    kind: str, texts: dict[str, Path], tmp_path: Path
) -> None:
    settings: Any = (
        parse(SubwordText, given(texts, vocabulary_size=290))
        if kind == "subword"
        else parse(CharacterText, given(texts))
    )
    corpus = load_corpus(settings, tmp_path)
    loaded = written(corpus.vocabulary, tmp_path).vocabulary
    for split, path in texts.items():
        text = path.read_bytes().decode()
        ids = corpus.split(split)
        assert corpus.vocabulary.decode(ids.tolist()) == loaded.decode(ids.tolist()) == text
        assert torch.equal(loaded.encode(text), ids)
        assert corpus.spellings[split] == Spelling(len(ids), len(text.encode()))
    assert "bytes a token" in corpus.describe()
    assert load_corpus(settings, tmp_path).key == corpus.key  # learned, and from the cache
    assert load_corpus(settings, tmp_path / "other").key == corpus.key


def test_the_three_kinds_have_other_keys(texts: dict[str, Path], tmp_path: Path) -> None:
    kinds: list[Any] = [
        parse(SubwordText, given(texts, vocabulary_size=size)) for size in (256, 280, 290)
    ]
    kinds += [parse(CharacterText, given(texts))]
    assert len({load_corpus(one, tmp_path).key for one in kinds}) == 4


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "  \n\n \n"])
def test_one_file_is_split_by_its_lines_and_stays_whole(ending: str, tmp_path: Path) -> None:
    lines = [f"  línea {i} \r" if i % 3 else "" for i in range(400)]
    text = "\n".join(lines) + ending
    (tmp_path / "one.txt").write_bytes(text.encode())
    settings = SubwordText(file=str(tmp_path / "one.txt"), vocabulary_size=260)
    corpus = load_corpus(settings, tmp_path)
    parts = [corpus.vocabulary.decode(corpus.split(split).tolist()) for split in SPLITS]
    assert sum(map(len, parts)) == len(text)
    assert sum((Counter(part) for part in parts), Counter()) == Counter(text)
    assert parts[0].startswith("\n  línea 1 \r\n  línea 2 \r\n\n")
    assert parts[1].startswith("  línea 8 \r\n")


# --- bits per byte -------------------------------------------------------------------------------


def test_bits_per_byte_are_those_of_the_text_whatever_the_vocabulary(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    """A model that knows nothing needs log2(vocabulary) bits a token."""
    for size in (256, 290):
        corpus = load_corpus(parse(SubwordText, given(texts, vocabulary_size=size)), tmp_path)
        bits = corpus.bits_per_byte("valid", float(size))
        size_bytes = texts["valid"].stat().st_size
        assert bits == pytest.approx(len(corpus.valid) * math.log2(size) / size_bytes)
        if size == 256:
            assert bits == pytest.approx(8.0)


def test_bits_per_byte_are_the_sum_of_the_losses(texts: dict[str, Path], tmp_path: Path) -> None:
    corpus = load_corpus(parse(CharacterText, given(texts)), tmp_path)
    model = written(corpus.vocabulary, tmp_path).language
    measured = score(model, corpus.valid, corpus.vocabulary.eos)
    bits = measured.tokens * math.log2(measured.value)
    assert corpus.bits_per_byte("valid", measured.value) == pytest.approx(
        bits / texts["valid"].stat().st_size
    )
    assert Spelling(10, 20).bits_per_byte(math.inf) == math.inf
    assert Spelling(10, 20).bits_per_byte(math.nan) == math.inf


def test_hidden_characters_are_paid_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("ab" * 60 + "\n")
    (tmp_path / "b").write_text("abc日" * 30 + "\n")
    paths = {"train": tmp_path / "a", "valid": tmp_path / "b", "test": tmp_path / "a"}
    corpus = load_corpus(parse(CharacterText, given(paths)), tmp_path)
    assert corpus.spellings["valid"] == Spelling(121, 30 * 6 + 1, 60)
    assert corpus.bits_per_byte("valid", 2.0) == pytest.approx((121 + 60 * HIDDEN_BITS) / 181)
    assert corpus.vocabulary.decode(corpus.valid[:4].tolist()) == "ab\ufffd\ufffd"
    assert "unknown characters are 0.0% of train, 49.6% of valid" in corpus.remarks[0]


def test_plain_spellings_come_back() -> None:
    spelling = Spelling(5, 7, 1)
    assert Spelling.of(spelling.plain()) == spelling
    for other in (None, {}, {"tokens": 1}, {"tokens": 1, "size_bytes": 0}, {"size_bytes": "x"}, 3):
        assert Spelling.of(other) is None


# --- characters ----------------------------------------------------------------------------------


def test_rare_characters_are_unknown(texts: dict[str, Path], tmp_path: Path) -> None:
    corpus = load_corpus(parse(CharacterText, given(texts, max_characters=4)), tmp_path)
    assert set(corpus.vocabulary.words) == {"<eos>", "<unk>", " ", "T"}
    assert corpus.spellings["train"].hidden > 0
    assert any("corpus.max_characters=4 keeps 2" in one for one in corpus.remarks)


def test_a_vocabulary_of_characters_holds_characters() -> None:
    vocabulary = CharacterVocabulary(["b", "<eos>", "a"])  # in any order, without <unk>
    assert vocabulary.encode("ab\nb").tolist() == [2, 0, 1, 0]
    with pytest.raises(UserError, match="the text holds characters that the vocabulary"):
        vocabulary.encode("abc")
    for words in (["ab", "<eos>"], ["\n", "<eos>"], ["a"]):
        with pytest.raises(ValueError):
            CharacterVocabulary(words)


# --- pieces --------------------------------------------------------------------------------------


def piece_corpus(texts: dict[str, Path], cache: Path, **more: Any) -> Corpus:
    return load_corpus(parse(PieceText, given(texts, **more)), cache)


def test_pieces_have_the_recognisers_ids(
    texts: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    corpus = piece_corpus(texts, tmp_path, pieces=str(model))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    vocabulary = corpus.vocabulary
    assert vocabulary.words[:3] == ("<blk>", "<sos/eos>", "<unk>")
    assert (vocabulary.eos, vocabulary.sos, vocabulary.unknown) == (1, 1, 2)
    for split, path in texts.items():
        lines = path.read_text().splitlines()
        wanted = [i for line in lines for i in (*processor.encode(line), 1)]
        assert corpus.split(split).tolist() == wanted
        assert vocabulary.decode(wanted) == path.read_text()
        assert corpus.spellings[split] == Spelling(len(wanted), path.stat().st_size)


def test_a_bundle_keeps_the_pieces_and_takes_their_model(
    texts: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    corpus = piece_corpus(texts, tmp_path, pieces=str(model))
    kept = written(corpus.vocabulary, tmp_path).vocabulary
    assert isinstance(kept, PieceVocabulary)
    text = texts["valid"].read_text()
    in_pieces = " ".join(corpus.vocabulary.split(text)).replace(" <sos/eos>", "\n")
    assert torch.equal(kept.encode(in_pieces), corpus.valid)
    assert torch.equal(kept.with_model(model).encode(text), corpus.valid)
    with pytest.raises(UserError, match="has other pieces"):
        PieceVocabulary(["<sos/eos>", "a"]).with_model(model)


def test_tokens_alone_take_a_text_in_pieces(
    texts: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    whole = piece_corpus(texts, tmp_path, pieces=str(model))
    listed = [f"{word} {i}" for i, word in enumerate(whole.vocabulary.words)]
    listed += [f"#0 {len(listed)}", f"#1 {len(listed) + 1}"]
    random.Random(0).shuffle(listed)
    (tmp_path / "tokens.txt").write_text("\n".join(listed) + "\n")
    paths = {}
    for split, path in texts.items():
        pieces = " ".join(whole.vocabulary.split(path.read_text())).replace(" <sos/eos>", "\n")
        paths[split] = tmp_path / split
        paths[split].write_text(pieces)
    corpus = piece_corpus(paths, tmp_path, tokens=str(tmp_path / "tokens.txt"))
    assert corpus.key == whole.key
    assert corpus.spellings == whole.spellings
    said = refused(parse(PieceText, given(texts, tokens=str(tmp_path / "tokens.txt"))), tmp_path)
    assert "of the training text's tokens are not in" in said
    assert "corpus.pieces=bpe.model" in said


def test_a_text_that_the_model_does_not_know_is_refused(
    texts: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    paths = {}
    for split, path in texts.items():
        paths[split] = tmp_path / split
        paths[split].write_text(path.read_text().lower())
    said = refused(parse(PieceText, given(paths, pieces=str(model))), tmp_path)
    assert "knows too little of the text" in said


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("", "has no tokens"),
        ("a 0\nb 2\n", "there is no token of the id 1, but one of 2"),
        ("a 1\nb 2\n", "there is no token of the id 0"),
        ("a 0\nb 0\n", "line 2: the id 0 was given before"),
        ("a 0\na 1\n", "the token a is there twice"),
        ("a 0\nb\n", "line 2: got 'b'; it takes a token, a blank and its id"),
        ("a 0\nb x\n", "line 2: got 'b x'"),
    ],
)
def test_a_list_of_tokens_that_is_none(listed: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text(listed)
    with pytest.raises(UserError) as error:
        read_tokens(tmp_path / "tokens.txt")
    assert said in str(error.value)


def test_files_that_are_no_pieces_are_named(
    texts: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens.txt").write_text("a 0\nb 1\n")
    (tmp_path / "none.model").write_bytes(b"\x0a\xff no model")
    for more, said in (
        ({}, "takes corpus.pieces"),
        ({"pieces": str(model), "tokens": str(model)}, "takes corpus.pieces"),
        ({"pieces": str(tmp_path / "tokens.txt")}, "is no SentencePiece model"),
        ({"pieces": str(tmp_path / "none.model")}, "is no SentencePiece model"),
        ({"pieces": str(tmp_path / "none")}, "cannot read"),
        ({"tokens": str(model)}, "a SentencePiece model is given by corpus.pieces"),
        ({"tokens": str(tmp_path / "tokens.txt")}, "no end of a sentence"),
    ):
        assert said in refused(parse(PieceText, given(texts, **more)), tmp_path)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "sentencepiece":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refused(parse(PieceText, given(texts, pieces=str(model))), tmp_path)
    assert "pip install 'lmpareto[pieces]'" in said


# --- what is too small or too large --------------------------------------------------------------


def test_a_vocabulary_that_the_text_does_not_give_says_what_it_gives(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    said = refused(parse(SubwordText, given(texts, vocabulary_size=5000)), tmp_path)
    most = int(said.split("at most corpus.vocabulary_size=")[1].split(",")[0])
    settings = parse(SubwordText, given(texts, vocabulary_size=most))
    assert len(load_corpus(settings, tmp_path).vocabulary) == most
    with pytest.raises(UserError, match=r"vocabulary_size: got 255; .* 256"):
        parse(SubwordText, given(texts, vocabulary_size=255))
    with pytest.raises(UserError, match="vocabulary_size: got 65537"):
        parse(SubwordText, given(texts, vocabulary_size=65537))


@pytest.mark.parametrize("text", ["", " \n\r\n", "short\n"])
def test_a_text_with_too_little_in_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    for settings in (SubwordText, CharacterText):
        said = refused(parse(settings, {"file": str(tmp_path / "a")}), tmp_path)
        wanted = "needs 100" if text.strip() else "blank lines" if text else "is empty"
        if text.strip() and settings is SubwordText:
            wanted = "vocabulary_size=4000 is too large"
        assert wanted in said
        assert str(tmp_path / "a") in said or settings is SubwordText
