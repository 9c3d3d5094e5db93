"""What `export_onnx` writes, how large it is, and that it is verified before it is there."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_onnx import Streamed, built, difference, lstm, words_of

from lmcore.bundle import Bundle, load, save
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.onnx import export, scoring
from lmcore.onnx.export import OnnxRecord, export_onnx, sentence_perplexity
from lmcore.onnx.networks import streaming
from lmcore.onnx.speed import relative_speed
from lmcore.onnx.storage import fewest_bits, packed, smallest_floats

UNIFORM = {"kind": "uniform", "step": 0.5, "rounding": 0.0}
PTB = ROOT.parent / "shared" / "data" / "ptb" / "test.txt"


@pytest.fixture(scope="module")
def bundle(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "model.lmb"
    model = built(lstm(60, 40), {"sites": {"*": {"bits": UNIFORM}}})
    save(path, model, corpus.vocabulary)
    return load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def record(bundle: Bundle, corpus: Corpus, folder: Path) -> OnnxRecord:
    return export_onnx(bundle, folder, corpus.test)


def test_the_record_is_of_the_files(
    record: OnnxRecord, bundle: Bundle, corpus: Corpus, folder: Path
) -> None:
    assert sorted(record.bytes) == sorted(path.name for path in folder.iterdir())
    for name, size in record.bytes.items():
        assert (folder / name).stat().st_size == size > record.compressed_bytes[name]
    assert (record.words, record.tokens) == (60, len(corpus.test))
    own = score(bundle.language, corpus.test, corpus.vocabulary.eos).value
    assert record.bundle_perplexity == own
    assert record.perplexity == pytest.approx(own, rel=0.005)
    assert record.sentence_perplexity == pytest.approx(record.bundle_sentence_perplexity, rel=0.005)
    assert record.integer_activations
    assert record.operators["lstm.0.input"] == "DynamicQuantizeLSTM"
    assert record.plain()["words"] == 60


def test_the_files_are_scored_without_torch(
    record: OnnxRecord, corpus: Corpus, folder: Path
) -> None:
    np.savez(folder / "text.npz", ids=corpus.test.numpy(), eos=np.int64(corpus.vocabulary.eos))
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = [{str(folder)!r}, {str(folder / 'text.npz')!r}]\n"
        f"runpy.run_path({scoring.__file__!r}, run_name='__main__')\n"
        "assert not {'torch', 'lmcore', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    (folder / "text.npz").unlink()
    assert done.returncode == 0, done.stderr
    assert f'"perplexity": {record.perplexity}' in done.stdout


def test_files_that_predict_otherwise_are_not_written(
    bundle: Bundle, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: Any) -> Any:
        return streaming(lstm(60, 200), corpus.vocabulary)

    monkeypatch.setattr(export, "streaming", other)
    with pytest.raises(UserError, match=r"not predict as the bundle does: perplexity .* 300"):
        export_onnx(bundle, tmp_path / "to", corpus.test)
    assert not (tmp_path / "to").exists()


def test_floats_are_multiplied_where_integers_lose_too_much(
    bundle: Bundle, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, turns = export._scored, []

    def first_is_worse(*given: Any) -> dict[str, float]:
        found = scored(*given)
        turns.append(found)
        return found if len(turns) > 1 else found | {"perplexity": math.inf}

    monkeypatch.setattr(export, "_scored", first_is_worse)
    record = export_onnx(bundle, tmp_path, corpus.test)
    assert not record.integer_activations
    assert record.operators["decoder"] == "MatMul"
    assert record.perplexity == pytest.approx(record.bundle_perplexity, rel=1e-5)


def test_sentences_are_what_stands_between_ends() -> None:
    found = scoring.sentences_of(np.array([3, 4, 0, 0, 5]), 0)
    assert [one.tolist() for one in found] == [[3, 4], [], [5]]
    long = scoring.sentences_of(np.arange(1, 600), 0)
    assert [len(one) for one in long] == [256, 256, 87]
    batches = list(scoring.batches_of(found))
    assert [(x.shape, lengths.tolist()) for x, lengths in batches] == [((3, 2), [0, 1, 2])]


def test_the_sentences_of_a_bundle_are_scored_one_by_one(bundle: Bundle, corpus: Corpus) -> None:
    eos, total, tokens = corpus.vocabulary.eos, 0.0, 0
    for piece in scoring.sentences_of(corpus.test.numpy(), eos):
        ids = torch.tensor([*piece.tolist(), eos])
        total += math.log(score(bundle.language, ids, eos).value) * len(ids)
        tokens += len(ids)
    found = sentence_perplexity(bundle.language, corpus.test, eos)
    assert found == pytest.approx(math.exp(total / tokens), rel=1e-5)


# --- Sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "each"),
    [
        ({"kind": "linear", "bits": 8}, 1.0),
        ({"kind": "linear", "bits": 4}, 0.5),
        ({"kind": "kmeans", "bits": 4}, 0.5),
        ({"kind": "uniform", "step": 0.05, "rounding": 0.0}, 1.0),
        ({"kind": "uniform", "step": 0.4, "rounding": 0.0}, 0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_code_takes_a_byte_or_half_of_one(bits: dict[str, Any], each: float, tied: bool) -> None:
    model, vocabulary = lstm(1000, 200, tied=tied), words_of(1000)
    model = built(model, {"sites": {"*": {"bits": bits}}})
    codes = sum(leaf.data.numel() for site in model.sites.values() for leaf in site.leaves.values())
    words = len("\n".join(vocabulary.words))
    biases = sum(leaf.data.numel() for leaf in model.biases.values())
    rows = sum(site.shape[0] for site in model.sites.values())
    tables = 4 * rows if bits["kind"] == "linear" else 0  # a step and an offset a row, as bundles
    size = len(streaming(model, vocabulary).data)
    assert size <= 1.05 * (each * codes + biases + tables + words)


def test_many_words_one_layer_and_an_odd_number_of_codes() -> None:
    vocabulary = words_of(50_001)
    model = built(lstm(50_001, 9, 1, tied=True), {"sites": {"*": {"bits": UNIFORM}}})
    network = streaming(model, vocabulary)
    assert len(network.data) < 0.6 * 50_001 * 9 + 2 * 50_001  # with the biases in float16
    assert difference(model, vocabulary) < 1e-4
    assert difference(model, vocabulary, integers=True) < 0.3
    assert Streamed(network).layers == 1


def test_codes_are_packed_from_the_lowest_bits_on() -> None:
    bits = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 16: 4, 17: 8, 256: 8}
    assert {count: fewest_bits(count) for count in bits} == bits
    assert packed(np.array([1, 2, 15]), 4).tolist() == [0x21, 0x0F]
    assert packed(np.array([1, 0, 1, 1, 0, 0, 0, 0, 1]), 1).tolist() == [0b1101, 1]
    assert packed(np.array([200]), 8).tolist() == [200]
    assert smallest_floats(np.array([0.5, np.nan], np.float32)).dtype == np.float16
    assert smallest_floats(np.array([1e-9, 1e9], np.float32)).dtype == np.float32


# --- A published model ---------------------------------------------------------------------------


def published(name: str) -> Bundle:
    return load(ROOT / "studies" / "ptb_small" / name)


@pytest.mark.slow
@pytest.mark.skipif(not PTB.exists(), reason=f"no Penn Treebank at {PTB}")
def test_a_published_model_predicts_the_same_text(tmp_path: Path) -> None:
    bundle = published("bundles/49.lmb")
    text = bundle.vocabulary.encode("\n".join(PTB.read_text().splitlines()[:60]))
    record = export_onnx(bundle, tmp_path, text)
    assert record.integer_activations
    assert record.perplexity <= 1.005 * record.bundle_perplexity


@pytest.mark.slow
def test_a_published_model_is_faster_than_its_dense_model() -> None:
    assert relative_speed(published("bundles/49.lmb"), published("dense.lmb"), seconds=0.5) > 2


def test_lmcore_loads_without_onnx() -> None:
    modules = "lmcore.onnx.export, lmcore.onnx.speed, sys"
    code = f"import {modules}; assert not {{'onnx', 'onnxruntime'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
