"""Networks of texts, pairs and questions as people use them: from Python, and as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_classified import DATA, SHAPES
from test_reading import SHAPE as READER
from test_reading import made

import lmcore
from lmcore import bundle
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.errors import UserError
from lmcore.network import Network, random_network
from lmcore.networks.classifier import Classifier
from lmcore.networks.reader import Reader
from lmcore.networks.tagger import Tagger
from lmcore.networks.tagger_settings import TaggerSettings
from lmcore.onnx import label_scoring, labelling
from lmcore.onnx.classifying import classifying
from lmcore.onnx.scoring import session
from lmcore.onnx.tagging import tagging
from lmcore.questions import LONGEST_QUESTION, question_data
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.tagged import NO_TAG, tagged_data
from lmcore.vocabulary import Vocabulary
from lmcore.word_settings import WordSettings

TEXTS = DATA["classifier"]


def random_of(shape: Any, words: int) -> Network:
    return random_network(shape, words, 0.4, torch.Generator().manual_seed(1)).eval()


def saved(network: Network, vocabulary: Vocabulary, folder: Path) -> Path:
    bundle.save(folder / "model.lmb", network, vocabulary)
    return folder / "model.lmb"


@pytest.fixture
def classifier() -> Classifier:
    network = random_of(SHAPES["classifier"].completed(TEXTS), len(TEXTS.vocabulary))
    assert isinstance(network, Classifier)
    return network


# --- From Python ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classifier", "matcher"])
@torch.no_grad()
def test_texts_are_labelled(kind: str, tmp_path: Path) -> None:
    data = DATA[kind]
    network = random_of(SHAPES[kind].completed(data), len(data.vocabulary))
    loaded = lmcore.load_classifier(saved(network, data.vocabulary, tmp_path))
    assert loaded.labels == data.labels
    texts = data.test.texts
    examples = [
        [
            " ".join(one.forms.words[i] for i in one.words[one.at(torch.tensor([n]))[:, 0]])[:999]
            for one in texts
        ]
        for n in range(30)
    ]
    right = [
        data.labels[int(network(data.test.batch(torch.tensor([n]))).argmax())] for n in range(30)
    ]
    assert loaded.label_all(examples) == right
    assert loaded.label(*examples[3]) == right[3]
    shares = loaded.probabilities(*examples[3])
    assert next(iter(shares)) == right[3]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(shares) == set(data.labels)
    assert loaded.label_all([]) == []
    with pytest.raises(UserError, match="it takes several texts"):
        loaded.label_all("a film")
    wrong: list[Any] = [["one", "two", "three"], [" ", ""][: len(texts)], [3] * len(texts)]
    for example in wrong:
        with pytest.raises(UserError, match=r"text"):
            loaded.label(*example)


@torch.no_grad()
def test_questions_are_answered(tmp_path: Path) -> None:
    splits = {"train": made(60, 0), "valid": made(3, 1), "test": made(10, 2)}
    data = question_data("tiny", splits, longest=400)
    network = random_of(READER.completed(data), len(data.vocabulary))
    assert isinstance(network, Reader)
    loaded = lmcore.load_reader(saved(network, data.vocabulary, tmp_path))
    article = splits["test"][0]
    (paragraph,) = article.paragraphs
    for place, question in enumerate(paragraph.qas):
        (span,) = network.answers(data.test.batch(torch.tensor([place])))[0].tolist()
        found = loaded.answer(question.question, paragraph.context)
        assert found == data.test.answer(place, *span)
    words = ["where", "is", *["rex"] * 60]
    whole, cut = (" ".join(words[:most]) for most in (None, LONGEST_QUESTION))
    assert loaded.answer(whole, paragraph.context) == loaded.answer(cut, paragraph.context)
    for asked, text in (("", "a text"), ("who?", " ")):
        with pytest.raises(UserError, match="have words"):
            loaded.answer(asked, text)
    with pytest.raises(UserError, match=r"^a network for reading is no classifier"):
        lmcore.load_classifier(tmp_path / "model.lmb")


def test_another_network_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    path = saved(classifier, TEXTS.vocabulary, tmp_path)
    for load in (lmcore.load_reader, lmcore.load_tagger):
        with pytest.raises(UserError, match=r"^a network for sentiment is no (reader|tagger)"):
            load(path)


# --- As ONNX --------------------------------------------------------------------------------------

RECIPES: list[dict[str, Any]] = [
    {},
    {"sites": {"*": {"bits": {"kind": "uniform", "step": 0.4}}}},
    {"sites": {"*": {"bits": {"kind": "kmeans", "bits": 4}, "sparsity": 0.3}}},
    {"sites": {"*": {"structure": {"kind": "svd", "rank": 1}}}},
]


@pytest.mark.parametrize("given", RECIPES, ids=str)
@torch.no_grad()
def test_a_classifier_of_onnx_answers_alike(given: dict[str, Any], classifier: Classifier) -> None:
    """With a context, vectors and letters."""
    recipe = resolve(parse(Recipe, given, "recipe"), classifier.settings, len(TEXTS.vocabulary))
    with torch.enable_grad():
        model = build(classifier, recipe, Calibration(classifier, TEXTS.train)).eval()
    batch = TEXTS.test.batch(torch.arange(30))
    (text,) = batch.texts
    words = text.words.masked_fill(text.padding, 5)  # the padding may be anything
    asked = {
        "x": words.T.contiguous().numpy(),
        "letters": text.letters.transpose(0, 1).contiguous().numpy(),
        "x_lens": text.lengths.numpy(),
    }
    written = classifying(model, TEXTS.vocabulary.eos, integer_activations=False)
    (found,) = session(written.data).run(["log_softmax"], asked)
    wanted = model(batch).log_softmax(1)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)
    assert set(written.operators) == set(model.sites)


@torch.no_grad()
def test_a_tagger_reads_by_a_context(tmp_path: Path) -> None:
    """Without letters, which its file does not ask for then."""
    sentences = [[("the", "D"), ("dog", "N"), ("barks", "V")], [("dog", "N")]] * 4
    splits = dict.fromkeys(("train", "valid", "test"), sentences)
    data = tagged_data("tiny", splits, {split: split for split in splits}, None)
    words = parse(WordSettings, {"embedding": 4, "context": {"hidden": 4}})
    shape = TaggerSettings(hidden=3, words=words).completed(data)
    tagger = random_of(shape, len(data.vocabulary))
    assert isinstance(tagger, Tagger)
    batch = data.test.batch(torch.arange(8))
    asked = {
        "x": batch.sentences.words.T.contiguous().numpy(),
        "x_lens": batch.sentences.lengths.numpy(),
    }
    (found,) = session(tagging(tagger, data.vocabulary.eos, False).data).run(None, asked)
    theirs = torch.from_numpy(found).transpose(0, 1)[batch.tags != NO_TAG]
    torch.testing.assert_close(theirs, tagger(batch).log_softmax(1), rtol=1e-4, atol=1e-4)
    loaded = bundle.load(saved(tagger, data.vocabulary, tmp_path))
    record = labelling.export_labelling(loaded, tmp_path / "home", data.test, error=100.0)
    assert set(record.bytes) == {label_scoring.MODEL, "tokens.txt", "tags.txt"}


def test_a_classifiers_file_is_tried_alone(classifier: Classifier, tmp_path: Path) -> None:
    loaded = bundle.load(saved(classifier, TEXTS.vocabulary, tmp_path))
    folder, own = tmp_path / "home", loaded.model.score(TEXTS, "test").value
    record = labelling.export_labelling(loaded, folder, TEXTS.test, own)
    assert record.error == pytest.approx(own)
    assert record.tokens == TEXTS.tokens("test")
    named = {label_scoring.MODEL, "tokens.txt", "letters.txt", "labels.txt"}
    assert {one.name for one in folder.iterdir()} == set(record.bytes) == named
    assert (folder / "labels.txt").read_text().splitlines()[0] == f"{TEXTS.labels[0]} 0"
    assert labelling.export_labelling(loaded, tmp_path / "alone").error == 0.0
