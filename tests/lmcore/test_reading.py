"""Questions on paragraphs: how answers are judged, what the data are, the network that answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lmcore import bundle
from lmcore.answers import exact, f1, normalised
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.errors import UserError
from lmcore.letters import LetterSettings
from lmcore.network import random_network
from lmcore.networks.reader import LONGEST, Reader
from lmcore.networks.reader_settings import LAST, ReaderSettings
from lmcore.questions import NO_PLACE, QuestionData, QuestionText, question_data
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.squad import Answer, Article, Paragraph, Question
from lmcore.training import train
from lmcore.training_settings import DropoutSettings, TrainingSettings
from lmcore.word_settings import WordSettings

# --- Judging --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The  Cat, a dog and an Ox!", "cat dog and ox"),
        ("U.S.-based", "usbased"),
        ("theatre", "theatre"),
        ("«Été» 1,000", "«été» 1000"),
        ("a an the", ""),
    ],
)
def test_what_does_not_matter_is_left_out(answer: str, plain: str) -> None:
    assert normalised(answer) == plain


@pytest.mark.parametrize(
    ("answer", "right", "overlap", "same"),
    [
        ("the cat", ["Cat."], 1.0, True),
        ("black cat", ["cat"], 2 / 3, False),  # precision 1/2, recall 1
        ("cat", ["the big black cat"], 1 / 2, False),  # precision 1, recall 1/3
        ("big cat sat", ["cat sat down today"], 4 / 7, False),  # 2 of 3, 2 of 4
        ("cat cat dog", ["cat dog dog"], 2 / 3, False),  # as often as both have a word
        ("dog", ["cat", "dog house", "dog"], 1.0, True),
        ("dog", ["cat"], 0.0, False),
        ("the", ["a"], 1.0, True),
        ("the", ["cat"], 0.0, False),
    ],
)
def test_answers_are_judged_as_squad_does(
    answer: str, right: list[str], overlap: float, same: bool
) -> None:
    assert f1(answer, right) == pytest.approx(overlap)
    assert exact(answer, right) is same


# --- Data -----------------------------------------------------------------------------------------


def asked(context: str, *pairs: tuple[str, str]) -> Paragraph:
    questions = tuple(
        Question(question=question, answers=(Answer(text=text, answer_start=context.index(text)),))
        for question, text in pairs
    )
    return Paragraph(context=context, qas=questions)


def data_with(paragraph: Paragraph, longest: int = 400) -> QuestionData:
    articles = [Article(paragraphs=(paragraph,))]
    return question_data("mine", dict.fromkeys(("train", "valid", "test"), articles), longest)


def test_an_answer_is_the_tokens_that_it_covers() -> None:
    context = "In 1,250 B.C. Zoë's dog (Rex) barked."
    pairs = [
        ("when?", "1,250"),
        ("who?", "Rex"),
        ("whose?", "Zoë"),
        ("part?", "arke"),
        ("x", "50 B"),
    ]
    data = data_with(asked(context, *pairs))
    questions = data.train
    for place, wanted in enumerate(["1,250", "Rex", "Zoë", "barked", "250 B"]):
        first, last = int(questions.first[place, 0]), int(questions.last[place, 0])
        assert questions.answer(place, first, last) == wanted
        assert questions.answers[place] == (pairs[place][1],)


def test_all_places_of_an_ambiguous_answer_count() -> None:
    context = "a cat and a cat and a cat"
    answer = Answer(text="cat", answer_start=2, candidates=(2, 12, 22))
    paragraph = Paragraph(context=context, qas=(Question(question="who?", answers=(answer,)),))
    (first,) = data_with(paragraph).train.first
    assert first.tolist() == [1, 4, 7]


def test_what_cannot_be_learned_from_is_left_out_and_told() -> None:
    wrong = Question(question="who?", answers=(Answer(text="dog", answer_start=0),))
    right = Question(question="who?", answers=(Answer(text="cat", answer_start=2),))
    data = data_with(Paragraph(context="a cat", qas=(wrong, right)))
    assert data.remarks == ("1 questions of train have no answer where it is said to be",)
    assert len(data.train.about) == 1
    assert len(data.valid.about) == 2
    with pytest.raises(UserError, match=r"no question to be used; .* longer than corpus.longest=1"):
        data_with(Paragraph(context="a cat", qas=(right,)), longest=1)
    with pytest.raises(UserError, match=r"no question to be used; 1 questions .* said to be"):
        data_with(Paragraph(context="a cat", qas=(wrong,)))
    nothing = Question(question="who?", answers=(Answer(text="", answer_start=2),))
    assert len(data_with(Paragraph(context="a cat", qas=(nothing, right))).train.about) == 1


def test_articles_of_train_are_kept_for_validation(tmp_path: Path) -> None:
    def article(number: int) -> dict[str, Any]:
        answer = {"text": "here", "answer_start": 5}
        question = {"question": f"where {number}?", "answers": [answer]}
        return {"paragraphs": [{"context": f"It's here {number}", "qas": [question]}]}

    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"data": [article(number) for number in range(20)]}))
    found = QuestionText(train=str(path), test=str(path)).load(tmp_path)
    assert [len(found.split(one).about) for one in ("train", "valid", "test")] == [19, 1, 20]
    assert found.valid.texts == ("It's here 18",)
    assert found.key == QuestionText(train=str(path), test=str(path)).load(tmp_path).key
    path.write_text(json.dumps({"data": [article(0)]}))
    with pytest.raises(UserError, match=r"has 1 articles; .* or give corpus.valid"):
        QuestionText(train=str(path), test=str(path)).load(tmp_path)
    with pytest.raises(UserError, match=r"corpus.train and corpus.test alone"):
        QuestionText(train=str(path)).load(tmp_path)


# --- The network ----------------------------------------------------------------------------------

NAMES = ("rex", "tom", "ann", "bob", "eva", "kim")
PLACES = ("park", "house", "river", "shop")


def made(count: int, seed: int) -> list[Article]:
    """Where is one of two who are told of?"""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        one, other = torch.randperm(len(NAMES), generator=generator)[:2].tolist()
        here, there = torch.randperm(len(PLACES), generator=generator)[:2].tolist()
        context = f"{NAMES[one]} is in the {PLACES[here]} , {NAMES[other]} in the {PLACES[there]} ."
        pairs = [
            (f"where is {NAMES[one]}", PLACES[here]),
            (f"where is {NAMES[other]}", PLACES[there]),
        ]
        found.append(Article(paragraphs=(asked(context, *pairs),)))
    return found


@pytest.fixture(scope="module")
def data() -> QuestionData:
    splits = {"train": made(60, 0), "valid": made(10, 1), "test": made(10, 2)}
    return question_data("tiny", splits, longest=400)


SHAPE = ReaderSettings(
    words=WordSettings(embedding=4, vectors=3, letters=LetterSettings(size=2, filters=3, width=2)),
    hidden=5,
)


def reader_of(data: QuestionData, seed: int = 0) -> Reader:
    generator = torch.Generator().manual_seed(seed)
    found = random_network(SHAPE.completed(data), len(data.vocabulary), 0.4, generator)
    assert isinstance(found, Reader)
    return found.eval()


@torch.no_grad()
def test_what_stands_beside_a_question_does_not_matter(data: QuestionData) -> None:
    reader = reader_of(data)
    every = reader(data.test.batch(torch.arange(20)))
    for place in range(20):
        alone = reader(data.test.batch(torch.tensor([place])))
        for many, one in zip(every, alone, strict=True):
            torch.testing.assert_close(many[: len(one), place], one[:, 0])
            assert float(one.exp().sum()) == pytest.approx(1.0)


@torch.no_grad()
def test_the_likeliest_answer_is_found(data: QuestionData) -> None:
    reader = reader_of(data)
    for place in range(5):
        first, last = reader(data.test.batch(torch.tensor([place])))
        spans = [
            (float(first[one, 0] + last[other, 0]), one, other)
            for one in range(len(first))
            for other in range(one, min(len(first), one + LONGEST))
        ]
        best = max(spans)
        found = reader.answers(data.test.batch(torch.tensor([place])))[0][0].tolist()
        assert found == list(best[1:])


@torch.no_grad()
def test_a_paragraph_is_read_once_for_all_its_questions(data: QuestionData) -> None:
    reader, places = reader_of(data), torch.tensor([0, 3, 1, 2, 0])
    apart, once = data.valid.batch(places), data.valid.batch(places, once=True)
    texts = len({int(data.valid.about[place]) for place in places})
    assert once.paragraphs.words.shape[1] == texts < len(places)
    for one, other in zip(reader(apart), reader(once), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_the_loss_sums_over_all_places(data: QuestionData) -> None:
    reader, batch = reader_of(data), data.train.batch(torch.tensor([0, 5, 9]))
    first, last = reader(batch)
    wanted = 0.0
    for scores, places in ((first, batch.first), (last, batch.last)):
        for column, row in enumerate(places.tolist()):
            at = [float(scores[one, column].exp()) for one in row if one != NO_PLACE]
            wanted -= math.log(sum(at)) / 3
    assert float(reader.loss(batch)) == pytest.approx(wanted, rel=1e-5)


def test_its_score_is_that_of_its_answers(data: QuestionData) -> None:
    reader, test = reader_of(data), data.test
    with torch.no_grad():
        spans = reader.answers(test.batch(torch.arange(20)))[0].tolist()
    given = [test.answer(place, *span) for place, span in enumerate(spans)]
    overlap = [f1(one, right) for one, right in zip(given, test.answers, strict=True)]
    same = [exact(one, right) for one, right in zip(given, test.answers, strict=True)]
    found = reader.score(data, "test")
    assert found.value == pytest.approx(100 * (1 - sum(overlap) / 20))
    shares = {"F1": 100 * sum(overlap) / 20, "exact match": 100 * sum(same) / 20}
    assert found.more == pytest.approx(shares)


def test_the_error_of_no_numbers_is_infinite(data: QuestionData) -> None:
    reader = reader_of(data)
    with torch.no_grad():
        next(iter(reader.sites[LAST].leaves.values())).data.fill_(math.nan)
    found = reader.score(data, "test")
    assert (found.value, found.more["F1"]) == (math.inf, 0)


def test_it_learns() -> None:
    splits = {"train": made(120, 0), "valid": made(20, 1), "test": made(2, 2)}
    data = question_data("tiny", splits, longest=400)
    shape = ReaderSettings(words=WordSettings(embedding=8), hidden=10).completed(data)
    generator = torch.Generator().manual_seed(0)
    reader = random_network(shape, len(data.vocabulary), 0.4, generator)
    settings = TrainingSettings(
        epochs=18,
        batch=10,
        optimizer="adam",
        rate=0.01,
        clip=5.0,
        dropout=DropoutSettings(kind="element", rate=0.0),
    )
    record = train(reader, data.train, settings, 0, lambda one: one.score(data, "valid").value)
    assert record.valid_measures[-1] < 30 < 45 < record.valid_measures[0]


RECIPES: list[dict[str, Any]] = [
    {},
    {"sites": {"*": {"bits": {"kind": "uniform", "step": 0.5}}}},
    {"sites": {"*_forward.*": {"structure": {"kind": "svd", "rank": 2}}}},
    {"sites": {"*.input": {"bits": {"kind": "linear", "bits": 4, "feedback": True}}}},
    {"sites": {"highway*": {"structure": {"kind": "activation_svd", "rank": 2, "rows": "fisher"}}}},
]


@pytest.mark.parametrize("given", RECIPES, ids=str)
def test_its_recipes_are_their_files(
    given: dict[str, Any], data: QuestionData, tmp_path: Path
) -> None:
    dense, words = reader_of(data), len(data.vocabulary)
    recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, words)
    model = build(dense, recipe, Calibration(dense, data.train)).eval()
    size = bundle.save(tmp_path / "one.lmb", model, data.vocabulary)
    assert size <= bundle.packed_size(recipe, dense.settings, data.vocabulary)
    loaded = bundle.load(tmp_path / "one.lmb").model
    assert isinstance(model, Reader)
    assert isinstance(loaded, Reader)
    batch = data.test.batch(torch.arange(20))
    with torch.no_grad():
        for ours, theirs in zip(model(batch), loaded(batch), strict=True):
            assert torch.equal(ours, theirs)


def test_what_scales_has_no_errors_to_feed_back(data: QuestionData) -> None:
    given = {"sites": {"match.both": {"bits": {"kind": "linear", "bits": 4, "feedback": True}}}}
    with pytest.raises(UserError, match=r"match\.both\.bits\.feedback: got true"):
        resolve(parse(Recipe, given, "recipe"), SHAPE.completed(data), len(data.vocabulary))
