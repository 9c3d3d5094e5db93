"""A bidirectional language model: two language models over one embedding, trained, measured and
stored as one network; and the paragraphs that it learns from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compositions import VOCABULARY, WORDS

from lmcore import bundle
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.network import parameters, random_network
from lmcore.networks.bilm import BiLM
from lmcore.networks.bilm_settings import BiLMSettings
from lmcore.paragraphs import articles_by_split
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.squad import read_squad
from lmcore.training import train
from lmcore.training_settings import DropoutSettings, SampledSoftmaxSettings, TrainingSettings

SHAPE = BiLMSettings(layers=2, hidden=6, embedding=5)


def bilm_of(words: int = WORDS, seed: int = 0) -> BiLM:
    made = random_network(SHAPE, words, 0.4, torch.Generator().manual_seed(seed))
    assert isinstance(made, BiLM)
    return made.eval()


def test_its_parts_are_those_of_both_directions() -> None:
    shapes = SHAPE.site_shapes(20)
    assert list(shapes) == [
        *(f"forward.{layer}.{name}" for layer in (0, 1) for name in ("input", "recurrent")),
        *(f"backward.{layer}.{name}" for layer in (0, 1) for name in ("input", "recurrent")),
        "embedding",
        "decoder.projection",
    ]
    model = bilm_of()
    assert model.ahead.embedding is model.back.embedding is model.ahead.decoder
    assert model.ahead.decoder_projection is model.back.decoder_projection
    count = sum(value.numel() for value in parameters(model).values())
    assert count == SHAPE.weights(WORDS)


def test_its_perplexity_is_of_both_readings(corpus: Corpus) -> None:
    model, eos = bilm_of(len(corpus.vocabulary)), corpus.vocabulary.eos
    ahead = score(model.ahead, corpus.valid, eos).value
    back = score(model.back, corpus.valid.flip(0), eos).value
    found = model.score(corpus, "valid")
    assert found.value == pytest.approx(math.sqrt(ahead * back))
    assert found.tokens == len(corpus.valid)
    lost, read = model.comparison(corpus)(bilm_of(len(corpus.vocabulary), seed=1))
    other = bilm_of(len(corpus.vocabulary), seed=1).score(corpus, "valid").value
    assert lost == pytest.approx(math.log(other / found.value), abs=0.05)
    assert read > 0


TRAINING = TrainingSettings(
    epochs=8,
    batch=4,
    window=10,
    optimizer="adam",
    rate=0.02,
    dropout=DropoutSettings(kind="sequence", rate=0.1, rows=0.1),
)


@pytest.mark.parametrize("sampled", [None, SampledSoftmaxSettings(negatives=15, full=0.3)])
def test_it_learns_in_both_directions_and_goes_on_to_the_bit(
    sampled: SampledSoftmaxSettings | None, corpus: Corpus, tmp_path: Path
) -> None:
    words, settings = len(corpus.vocabulary), TRAINING.model_copy(update={"sampled": sampled})
    model, path = bilm_of(words), tmp_path / "state.safetensors"
    before = [score(one, text, corpus.vocabulary.eos).value for one, text in both(model, corpus)]

    def stop(record: Any, updates: int) -> None:
        if record.updates == updates // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(bilm_of(words), corpus.train, settings, 1, None, stop, path)
    train(model, corpus.train, settings, 1, checkpoint=path)
    after = [score(one, text, corpus.vocabulary.eos).value for one, text in both(model, corpus)]
    assert all(new < 0.9 * old for old, new in zip(before, after, strict=True))
    straight = bilm_of(words)
    train(straight, corpus.train, settings, 1)
    for name, value in parameters(straight).items():
        assert torch.equal(value, parameters(model)[name]), name


def both(model: BiLM, corpus: Corpus) -> Any:
    return model.readers(corpus.valid)


def test_shared_matrices_are_seen_from_both_sides() -> None:
    model = bilm_of()
    text = torch.randint(WORDS, (400,), generator=torch.Generator().manual_seed(0))
    found = Calibration(model, text).inputs
    ahead = Calibration(model.ahead, text).inputs
    back = Calibration(model.back, text.flip(0)).inputs
    for site in ("embedding", "decoder.projection"):
        torch.testing.assert_close(found[site], (ahead[site] + back[site]) / 2)
    torch.testing.assert_close(found["forward.1.input"], ahead["lstm.1.input"])
    torch.testing.assert_close(found["backward.1.recurrent"], back["lstm.1.recurrent"])


RECIPES: list[dict[str, Any]] = [
    {},
    {"sites": {"*": {"bits": {"kind": "uniform", "step": 0.5, "feedback": True}}}},
    {"sites": {"*.recurrent": {"structure": {"kind": "semi_nmf", "rank": 2}}}},
    {"sites": {"*.input": {"structure": {"kind": "activation_svd", "rank": 3, "rows": "fisher"}}}},
    {"sites": {"*": {"sparsity": 0.5}}, "pruning": {"scope": "all"}},
]


@pytest.mark.parametrize("given", RECIPES, ids=str)
def test_its_recipes_are_their_files(given: dict[str, Any], tmp_path: Path) -> None:
    dense = bilm_of()
    text = torch.randint(WORDS, (400,), generator=torch.Generator().manual_seed(0))
    recipe = resolve(parse(Recipe, given, "recipe"), SHAPE, WORDS)
    model = build(dense, recipe, Calibration(dense, text)).eval()
    size = bundle.save(tmp_path / "one.lmb", model, VOCABULARY)
    assert size <= bundle.packed_size(recipe, SHAPE, VOCABULARY)
    loaded = bundle.load(tmp_path / "one.lmb").model
    assert isinstance(loaded, BiLM)
    assert isinstance(model, BiLM)
    for ours, theirs in ((model.ahead, loaded.ahead), (model.back, loaded.back)):
        assert score(ours, text, 0).value == score(theirs, text, 0).value


# --- Paragraphs -----------------------------------------------------------------------------------


def test_articles_are_parted_as_wholes() -> None:
    found = articles_by_split(list(range(45)))
    assert found["valid"] == [18, 38]
    assert found["test"] == [19, 39]
    assert len(found["train"]) == 41


def test_squad_is_read_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    answer = {"text": "a dog", "answer_start": 4}
    question = {"id": "7", "question": "Who?", "answers": [answer]}
    paragraph = {"context": "It: a dog.", "qas": [question]}
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": [paragraph]}]}))
    (article,) = read_squad(path, "mine")
    assert article.paragraphs[0].context == "It: a dog."
    assert article.paragraphs[0].qas[0].answers[0].answer_start == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "mine is no file of SQuAD 1.1, .*Invalid JSON"),
        ("[]", "mine is no file of SQuAD 1.1"),
        ('{"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}', "data.0.paragraphs.0.context"),
        (None, "cannot read .*mine.json: No such file"),
    ],
)
def test_what_is_no_squad_is_told(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_squad(path, "mine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_of": {"forward.9": 3}}, "it has no layer 'forward.9'"),
        ({"hidden_of": {"backward.1": 5}}, "it has no layer 'backward.1' but the last ones"),
        ({"projection_of": {"forward.0": 6}}, "the projection of forward.0 is not narrower"),
    ],
)
def test_a_shape_that_cannot_be_is_told(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SHAPE.model_copy(update=change).check()
    SHAPE.model_copy(update={"hidden_of": {"forward.0": 3}}).check()
