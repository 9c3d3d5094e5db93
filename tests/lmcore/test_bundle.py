"""The bundle is deterministic, and whatever is wrong with a file is said in a sentence."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT, MakeModel

from lmcore import bundle, frame
from lmcore.building import build
from lmcore.coding import encode
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.model import LanguageModel
from lmcore.recipe import Recipe, resolve

RECIPE = Recipe.model_validate(
    {
        "sites": {
            "embedding": {"bits": {"kind": "uniform", "step": 1.2}},
            "lstm.0.*": {"bits": {"kind": "kmeans", "bits": 3}, "sparsity": 0.5},
            "*": {"structure": {"kind": "svd", "rank": 3}, "bits": "float16"},
        },
        "biases": {"kind": "linear", "bits": 8},
    }
)


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> LanguageModel:
    """With sparsity, factors, and every kind of stream."""
    dense = make_model(hidden=8)
    return build(dense, resolve(RECIPE, dense.settings, dense.words)).eval()


@pytest.fixture(scope="module")
def data(model: LanguageModel, vocabulary: Vocabulary) -> bytes:
    return bundle.pack(model, vocabulary)


def refused(path: Path, data: bytes) -> str:
    """The message with which the bytes are refused; any other exception fails the test."""
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        bundle.load(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_same_model_gives_the_same_bytes(
    data: bytes, make_model: MakeModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    dense = make_model(hidden=8)
    other = build(dense, resolve(RECIPE, dense.settings, dense.words)).eval()
    size = bundle.save(tmp_path / "new" / "model.lmpb", other, vocabulary)
    assert (tmp_path / "new" / "model.lmpb").read_bytes() == data
    assert size == len(data)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.lmpb"]


def test_load_returns_what_was_saved(
    model: LanguageModel, data: bytes, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "model.lmpb"
    path.write_bytes(data)
    loaded = bundle.load(path)
    assert loaded.size_bytes == len(data)
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.vocabulary.words == vocabulary.words
    assert loaded.model.settings == model.settings
    assert not loaded.model.training
    for site, weight in model.sites.items():
        assert loaded.model.sites[site].structure == weight.structure
        assert torch.equal(loaded.model.sites[site].dense(), weight.dense())
    for name, leaf in model.biases.items():
        assert torch.equal(loaded.model.biases[name].value(), leaf.value())


def test_every_byte_of_a_file_is_in_a_part(
    model: LanguageModel, data: bytes, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "model.lmpb"
    path.write_bytes(data)
    parts = bundle.load(path).parts
    assert parts.header + sum(map(sum, parts.leaves.values())) + parts.vocabulary == len(data)
    leaves = {
        f"{site}/{name}": x for site, w in model.sites.items() for name, x in w.leaves.items()
    }
    assert list(parts.leaves) == [*leaves, *model.biases]
    for name, leaf in {**leaves, **model.biases}.items():
        streams = zip(leaf.write(), leaf.spec.streams, strict=True)
        coded = [encode(array, stream.low, stream.high) for array, stream in streams]
        assert parts.leaves[name] == tuple(4 + len(one) for one in coded)


def test_what_follows_the_last_stream_is_refused(data: bytes, tmp_path: Path) -> None:
    body = data[:-32] + b"more"
    assert "damaged" in refused(tmp_path / "more", body + hashlib.sha256(body).digest())


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe is a pipe; write what comes from it to a file"):
        bundle.load(tmp_path / "pipe")


def test_a_cut_file_is_refused(data: bytes, tmp_path: Path) -> None:
    for length in [*range(60), *range(60, len(data), 37), len(data) - 1]:
        message = refused(tmp_path / "cut", data[:length])
        assert "damaged" in message or (length < 4 and "not a bundle" in message)


def test_a_longer_file_is_refused(data: bytes, tmp_path: Path) -> None:
    assert "damaged" in refused(tmp_path / "long", data + b"\0")


def test_a_flipped_byte_is_refused(data: bytes, tmp_path: Path) -> None:
    for place in [*range(60), *range(60, len(data), 37), len(data) - 1]:
        altered = bytearray(data)
        altered[place] ^= 0x41
        message = refused(tmp_path / "altered", bytes(altered))
        words = "not a bundle" if place < 4 else "version" if place == 4 else "damaged"
        assert words in message


def test_damage_under_a_right_checksum_never_crashes(data: bytes, tmp_path: Path) -> None:
    """A file that a broken writer made: it is read or refused, nothing else."""
    path, body = tmp_path / "signed", data[:-32]
    for place in range(5, len(body), 41):
        altered = bytearray(body)
        altered[place] ^= 0x15
        path.write_bytes(bytes(altered) + hashlib.sha256(altered).digest())
        with contextlib.suppress(UserError):
            assert bundle.load(path).size_bytes == len(data)


def test_a_newer_version_says_so(data: bytes, tmp_path: Path) -> None:
    newer = bytearray(data[:-32])
    newer[4] = frame.VERSION + 1
    message = refused(tmp_path / "newer", bytes(newer) + hashlib.sha256(newer).digest())
    assert "newer lmpareto" in message
    assert str(newer[4]) in message


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    for content in (b"", b"LM", b"PK\x03\x04 a zip", b"\0" * 1000, "naïve text".encode()):
        assert "not a bundle" in refused(tmp_path / "other", content)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.lmpb", "No such file"), (tmp_path, "directory")):
        with pytest.raises(UserError, match=reason) as error:
            bundle.load(path)
        assert str(path) in str(error.value)


def test_a_folder_that_cannot_be_written_says_so(
    model: LanguageModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        bundle.save(tmp_path / "file" / "model.lmpb", model, vocabulary)


@pytest.mark.parametrize(
    "odd",
    [
        ["é", "e\u0301", "日本語", "日本", "🙂", "🙂🙂", "ß", "\u200b", "\ufeff", "a\u00ad"],
        ["a" * n for n in range(1, 20)],
        ["x" * 300, "x" * 300 + "y", "x" * 299, "x" * 600],
        ['"', "\\", "\\n", "'", "{}", "%s", "\0", "\x7f", "N", "-", "--", "0", "00"],
        sorted(f"pre{i}fix{j}" for i in range(30) for j in range(30)),
    ],
    ids=["unicode", "prefixes", "long", "odd", "many"],
)
@pytest.mark.parametrize("is_sorted", [True, False])
def test_any_vocabulary_comes_back(
    odd: list[str], is_sorted: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    words = ["<unk>", *odd, "<eos>"]
    vocabulary = Vocabulary(sorted(words) if is_sorted else words)
    model = make_model(layers=1, hidden=2, words=len(vocabulary))
    bundle.save(tmp_path / "model.lmpb", model, vocabulary)
    assert bundle.load(tmp_path / "model.lmpb").vocabulary.words == vocabulary.words


def test_nothing_can_unpickle() -> None:
    """A bundle, a checkpoint and a stranger's weights are data; none may run code."""
    forbidden = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
    files = list((ROOT / "lmcore").rglob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name.split(".")[0] for alias in node.names}, file
            if isinstance(node, ast.ImportFrom):
                is_error = [alias.name for alias in node.names] == ["UnpicklingError"]
                assert is_error or (node.module or "").split(".")[0] not in forbidden, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                safe = "weights_only=True" in [ast.unparse(one) for one in node.keywords]
                assert called != "torch.save", file
                assert called != "torch.load" or safe, file
