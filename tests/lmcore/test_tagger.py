"""A network of sentences: what it reads and computes, that it learns, and what becomes of its
recipes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from test_compositions import assert_explained, codecs, site_settings
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lmcore import bundle
from lmcore.bidirectional import Bidirectional, reversed_within
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.cells import LSTM
from lmcore.data import SPLITS
from lmcore.dropout import Dropout
from lmcore.errors import UserError
from lmcore.examples import Batches, _spread
from lmcore.letters import LETTERS, LetterSettings
from lmcore.loaded_tagger import LoadedTagger
from lmcore.network import parameters, random_network
from lmcore.networks.tagger import Tagger
from lmcore.networks.tagger_settings import TaggerSettings
from lmcore.onnx import label_scoring, labelling, tagging
from lmcore.onnx.scoring import session
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.tagged import NO_TAG, TaggedData, TaggedText, read_tagged, tagged_data
from lmcore.training import train
from lmcore.training_settings import (
    DropoutSettings,
    TrainingSettings,
)
from lmcore.word_settings import WordSettings

WORDS = ("the", "a", "dog", "cat", "sees", "hears", "Rex", "!")
TAGS = {"the": "D", "a": "D", "dog": "N", "cat": "N", "sees": "V", "hears": "V", "Rex": "P"}
WORDS_READ = WordSettings(embedding=5, letters=LetterSettings(size=3, filters=4, width=3))
SHAPE = TaggerSettings(hidden=6, words=WORDS_READ)


def sentences(count: int, seed: int) -> list[list[tuple[str, str]]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(1, 7, (), generator=generator))
        words = [WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator)]
        found.append([(word, TAGS.get(word, "X")) for word in words])
    return found


@pytest.fixture(scope="module")
def data() -> TaggedData:
    splits = {"train": sentences(60, 0), "valid": sentences(20, 1), "test": sentences(20, 2)}
    return tagged_data("tiny", splits, {split: split for split in splits}, None)


def tagger_of(data: TaggedData, shape: TaggerSettings = SHAPE, seed: int = 0) -> Tagger:
    generator = torch.Generator().manual_seed(seed)
    made = random_network(shape.completed(data), len(data.vocabulary), 0.4, generator)
    assert isinstance(made, Tagger)
    return made.eval()


@pytest.fixture(scope="module")
def tagger(data: TaggedData) -> Tagger:
    return tagger_of(data)


@torch.no_grad()
def answers(tagger: Tagger, data: TaggedData, place: int) -> Tensor:
    """The logits of a sentence of the test split, read alone: (tokens, tags)."""
    logits: Tensor = tagger(data.test.batch(torch.tensor([place])))
    return logits


# --- Data -----------------------------------------------------------------------------------------


def test_a_file_is_a_word_and_its_tags_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("The\tDET\tDT\ndog\tNOUN\tNN\n\n\n Hi \tINTJ\tUH\r\n\n", encoding="utf-8")
    assert read_tagged(path, "mine", 1) == [
        [("The", "DET"), ("dog", "NOUN")],
        [(" Hi ", "INTJ")],
    ]
    assert read_tagged(path, "mine", 2)[0] == [("The", "DT"), ("dog", "NN")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\tX\nb\n", "mine, line 2 is 'b'; a line is a word, a tab and its tag"),
        ("a\tX\n\tX\n", r"line 2 is '\\tX'"),
        ("a\t\n", "line 1"),
        ("\n\n", "mine has no sentence"),
        ("a\tX\n" * 60, "mine has no empty line, so that it is one sentence"),
        ("", "mine has no sentence"),
        (b"a\xff\tX\n", "is not UTF-8 text: line 1"),
    ],
)
def test_what_is_no_such_file_is_told(text: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        read_tagged(path, "mine", 1)
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_tagged(tmp_path / "none.tsv", "mine", 1)


def test_a_missing_column_and_too_many_tags_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("\ufeffa\tX \n")
    assert read_tagged(path, "mine", 1) == [[("a", "X")]]
    with pytest.raises(UserError, match=r"has 1 column.* corpus.column=2 asks for another"):
        read_tagged(path, "mine", 2)
    splits = {key: [[("a", str(n)) for n in range(1001)]] for key in SPLITS}
    with pytest.raises(UserError, match="my train has 1,001 labels, and more than 1,000 are none"):
        tagged_data("mine", splits, {split: f"my {split}" for split in splits}, None)


def test_one_tag_alone_is_told() -> None:
    splits = {key: [[("a", "X")]] for key in SPLITS}
    with pytest.raises(UserError, match=r"^my train has the tag 'X' alone; give at least two"):
        tagged_data("mine", splits, {split: f"my {split}" for split in splits}, None)


def test_one_file_is_split_and_three_are_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    lines = [f"w{number}\t{number % 3}\n\n" for number in range(20)]
    path.write_text("".join(lines))
    found = TaggedText(train=str(path)).load(tmp_path)
    sizes = [len(found.split(split).lengths) for split in ("train", "valid", "test")]
    assert sizes == [16, 2, 2]
    assert found.valid.sentences.forms.words == ("w17", "w8")
    whole = TaggedText(train=str(path), valid=str(path), test=str(path)).load(tmp_path)
    assert len(whole.test.lengths) == 20
    assert whole.key != found.key
    assert TaggedText(train=str(path)).load(tmp_path).key == found.key
    with pytest.raises(UserError, match=r"corpus.train, corpus.valid and corpus.test, or"):
        TaggedText(train=str(path), test=str(path)).load(tmp_path)
    path.write_text("".join(lines[:9]))
    with pytest.raises(UserError, match="has 9 examples; to be split 80/10/10 it needs 10"):
        TaggedText(train=str(path)).load(tmp_path)


def test_words_seen_once_are_unknown_but_not_their_letters() -> None:
    splits = {
        "train": [[("dog", "N"), ("dog", "N"), ("rare", "J")]],
        "valid": [[("dog", "N"), ("Ω", "N")]],
        "test": [[("rare", "J")]],
    }
    found = tagged_data("mine", splits, {split: split for split in splits}, None)
    assert found.vocabulary.words == ("<eos>", "<unk>", "dog")
    batch = found.valid.batch(torch.tensor([0]))
    assert batch.sentences.words.flatten().tolist() == [2, 1]
    assert found.alphabet == "".join(sorted(set("dograre")))
    assert batch.sentences.letters[1, 0, :2].tolist() == [1, 0], (
        "a letter of no alphabet, then none"
    )
    one = tagged_data("mine", splits, {split: split for split in splits}, most=3)
    assert len(one.vocabulary) == 3


def test_a_tag_that_train_has_not_is_always_wrong_and_told() -> None:
    splits = {"train": [[("a", "X"), ("b", "Y")]], "valid": [[("a", "Z")]], "test": [[("a", "X")]]}
    found = tagged_data("mine", splits, {split: f"my {split}" for split in splits}, None)
    assert found.remarks == (
        "my valid has tags that my train has not, as 'Z': any answer to their words is wrong",
    )
    assert tagger_of(found).score(found, "valid").value == 100.0
    assert found.naive == 100.0


def test_a_naive_answer_without_a_mistake_is_half_wrong() -> None:
    splits = {key: [[("a", "X"), ("b", "X")]] for key in SPLITS}
    splits["train"] = [*splits["train"], [("c", "Y")]]
    found = tagged_data("mine", splits, {split: split for split in splits}, None)
    assert found.naive == 25.0  # half of a mistake in two tags


# --- What it computes -----------------------------------------------------------------------------


def test_each_sentence_is_turned_and_its_padding_is_not() -> None:
    x = torch.arange(8).view(4, 2)
    turned = reversed_within(x, torch.tensor([3, 1]))
    assert turned.tolist() == [[4, 1], [2, 3], [0, 5], [6, 7]]
    assert torch.equal(reversed_within(turned, torch.tensor([3, 1])), x)


def test_two_directions_are_those_of_pytorch(tagger: Tagger) -> None:
    layer = tagger.layers[0]
    assert isinstance(layer, Bidirectional)
    lstm = nn.LSTM(9, 6, bidirectional=True)
    with torch.no_grad():
        for one, suffix in ((layer.ahead, ""), (layer.back, "_reverse")):
            weights = one.weights
            getattr(lstm, f"weight_ih_l0{suffix}").copy_(weights["input"].dense())
            getattr(lstm, f"weight_hh_l0{suffix}").copy_(weights["recurrent"].dense())
            getattr(lstm, f"bias_ih_l0{suffix}").copy_(one.vectors["bias"].value())
            getattr(lstm, f"bias_hh_l0{suffix}").zero_()
    x, lengths = torch.randn(7, 3, 9), torch.tensor([7, 4, 1])
    packed, _ = lstm(pack_padded_sequence(x, lengths))
    theirs, _ = pad_packed_sequence(packed)
    ours = layer(x, lengths, Dropout("element", 0.0, 0.0).weights)
    for column, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[:length, column], theirs[:length, column])


def test_a_pattern_of_letters_counts_where_it_fits_best(tagger: Tagger, data: TaggedData) -> None:
    spelling, ids = tagger.read.spelling, data.test.sentences.forms.letters
    assert spelling
    letters, filters = spelling.letters.dense(), spelling.filters.dense()
    for word, found in zip(ids, spelling(ids), strict=True):
        at = letters[word]  # (LETTERS, size)
        fits = [filters @ at[first : first + 3].flatten() for first in range(LETTERS - 2)]
        best = torch.stack(fits).amax(0) + spelling.bias.value()
        torch.testing.assert_close(found, best.tanh())


def test_what_stands_beside_a_sentence_does_not_matter(tagger: Tagger, data: TaggedData) -> None:
    every = data.test.batch(torch.arange(len(data.test.lengths)))
    logits = every.tags.unsqueeze(2).expand(-1, -1, len(data.labels)).float().clone()
    with torch.no_grad():
        logits[every.tags != NO_TAG] = tagger(every)
    for place, length in enumerate(every.sentences.lengths.tolist()):
        torch.testing.assert_close(logits[:length, place], answers(tagger, data, place))


def test_its_score_is_the_share_of_wrong_answers(tagger: Tagger, data: TaggedData) -> None:
    wrong = tokens = 0
    for place in range(len(data.test.lengths)):
        right = data.test.batch(torch.tensor([place])).tags.flatten()
        wrong += int((answers(tagger, data, place).argmax(1) != right).sum())
        tokens += len(right)
    found = tagger.score(data, "test")
    assert found.value == pytest.approx(100 * wrong / tokens)
    assert found.tokens == tokens == data.tokens("test")
    usual = data.train.tags.bincount().argmax()
    assert data.naive == pytest.approx(100 * float((data.valid.tags != usual).float().mean()))


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_the_error_of_no_numbers_is_infinite(
    spoiled: float, tagger: Tagger, data: TaggedData
) -> None:
    with torch.no_grad():
        tagger.biases["output.bias"].data[0] = spoiled
    assert tagger.broken == ["output.bias"]
    found = tagger.score(data, "test")
    assert (found.value, found.more["accuracy"]) == (math.inf, 0)


def test_moments_are_of_what_its_matrices_multiply(tagger: Tagger, data: TaggedData) -> None:
    found = Calibration(tagger, data.train).inputs
    shapes = tagger.settings.site_shapes(len(data.vocabulary))
    multiplied = {site for site in shapes if site not in tagger.settings.looked_up}
    hidden = {f"encoder_{one}.0.projection" for one in ("forward", "backward")}
    assert set(found) == multiplied | hidden
    for site in multiplied:
        assert found[site].shape == (shapes[site][1],) * 2
    batch = data.train.batch(torch.arange(len(data.train.lengths)))
    hiddens: list[Tensor] = []
    with torch.no_grad():
        tagger.output.watch = hiddens.append
        tagger(batch)
        tagger.output.watch = None
    expected = hiddens[0].double().T @ hiddens[0].double() / len(hiddens[0])
    torch.testing.assert_close(found["output"], expected.float())


def test_counts_are_those_of_the_words(tagger: Tagger, data: TaggedData) -> None:
    counts = Calibration(tagger, data.train).counts
    assert int(counts.sum()) == data.tokens("train")
    read = data.train.sentences
    ids = read.forms.ids[read.words]
    assert int(counts[data.vocabulary.ids["dog"]]) == int((ids == data.vocabulary.ids["dog"]).sum())


# --- Training -------------------------------------------------------------------------------------

ADAM = TrainingSettings(
    epochs=12,
    batch=8,
    optimizer="adam",
    rate=0.02,
    clip=5.0,
    dropout=DropoutSettings(kind="element", rate=0.1, rows=0.1),
    average=0.2,
)


def test_an_epoch_has_every_example_once(tagger: Tagger, data: TaggedData) -> None:
    lessons = Batches(tagger, data.train, ADAM, seed=3)
    assert lessons.updates == 8  # of 60 sentences
    orders = [torch.cat(lessons._batches(epoch)) for epoch in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert all(torch.equal(order.sort().values, torch.arange(60)) for order in orders)


def test_any_seed_orders_an_epoch(tagger: Tagger, data: TaggedData) -> None:
    assert Batches(tagger, data.train, ADAM, seed=2**63 - 1)._batches(5)


def test_samples_are_spread_over_all_lengths(data: TaggedData) -> None:
    lengths = data.train.lengths.sort().values
    for most in (1, 2, 3, 4):
        taken = _spread(data.train, most, 13)  # of five batches
        assert len(taken) == most
        seen = torch.cat([data.train.lengths[places] for places in taken])
        if most > 1:
            assert seen.max() >= lengths[-len(lengths) // 3]


def test_it_learns_and_goes_on_to_the_bit(data: TaggedData, tmp_path: Path) -> None:
    whole = tagger_of(data)
    record = train(whole, data.train, ADAM, 1, lambda model: model.score(data, "valid").value)
    assert record.valid_measures[-1] < 5.0 < record.valid_measures[0]
    again, path = tagger_of(data), tmp_path / "state.safetensors"

    def stop(record: Any, updates: int) -> None:
        if record.updates == 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(again, data.train, ADAM, 1, None, stop, path)
    resumed = tagger_of(data)
    train(resumed, data.train, ADAM, 1, None, checkpoint=path)
    straight = tagger_of(data)
    train(straight, data.train, ADAM, 1)
    for name, value in parameters(straight).items():
        assert torch.equal(value, parameters(resumed)[name]), name


# --- Recipes and files ----------------------------------------------------------------------------

patterns = st.sampled_from(
    ["*", "*", "embedding", "letters", "letters*", "output", "*.input", "encoder_f*", "*.recurrent"]
)
tagger_recipes = st.fixed_dictionaries(
    {
        "sites": st.dictionaries(patterns, site_settings, max_size=4),
        "biases": codecs,
        "pruning": st.sampled_from([{}, {"scope": "all"}]),
    }
)


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(given=tagger_recipes, layers=st.sampled_from([1, 2]))
def test_a_composition_is_its_file_or_is_refused(
    given: dict[str, Any],
    layers: int,
    data: TaggedData,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dense = tagger_of(data, SHAPE.model_copy(update={"layers": layers}))
    words, path = len(data.vocabulary), tmp_path_factory.getbasetemp() / "tagger.lmb"
    try:
        recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, words)
    except UserError as error:
        assert_explained(error)
        return
    assert resolve(recipe, dense.settings, words) == recipe
    model = build(dense, recipe, Calibration(dense, data.train)).eval()
    size = bundle.save(path, model, data.vocabulary)
    assert size <= bundle.packed_size(recipe, dense.settings, data.vocabulary)
    loaded = bundle.load(path).model
    assert isinstance(loaded, Tagger)
    assert isinstance(model, Tagger)
    assert torch.equal(answers(loaded, data, 0), answers(model, data, 0))
    assert bundle.pack(loaded, data.vocabulary) == path.read_bytes()


@pytest.mark.parametrize(
    "change", [{"labels": ()}, {"labels": ("A", "A")}, {"alphabet": "aa"}], ids=str
)
def test_a_file_that_no_data_can_have_made_is_damaged(
    change: dict[str, Any], data: TaggedData, tmp_path: Path
) -> None:
    shape = SHAPE.completed(data).model_copy(update=change)
    model = random_network(shape, len(data.vocabulary), 0.1, torch.Generator())
    bundle.save(tmp_path / "odd.lmb", model, data.vocabulary)
    with pytest.raises(UserError, match=r"is damaged: its (labels|alphabet)"):
        bundle.load(tmp_path / "odd.lmb")


def test_a_file_is_used_in_words(data: TaggedData, tmp_path: Path) -> None:
    model = tagger_of(data)
    train(model, data.train, ADAM, 1)
    bundle.save(tmp_path / "tagger.lmb", model, data.vocabulary)
    tagger = LoadedTagger(bundle.load(tmp_path / "tagger.lmb"))
    assert tagger.tags == data.labels
    assert tagger.tag(["the", "dog", "sees", "Rex", "!"]) == ["D", "N", "V", "P", "X"]
    some = [["a", "cat"], [], ["Rex"], ["never-seen-before", "Ω"]]
    assert tagger.tag_all(some) == [tagger.tag(words) for words in some]
    assert [len(tags) for tags in tagger.tag_all(some)] == [2, 0, 1, 2]
    assert tagger.tag_all([]) == []
    assert tagger.tag_all(iter([iter(["the"])])) == [["D"]]
    for wrong in ([1], [None], "text"):
        with pytest.raises(UserError, match="a list of its words"):
            tagger.tag(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a list of its words"):
        tagger.tag("the dog")
    with pytest.raises(UserError, match=r"this needs a language model; .* kind tagger"):
        assert tagger.bundle.language


ONNX_RECIPES: list[dict[str, Any]] = [
    {},
    {"sites": {"*": {"bits": {"kind": "uniform", "step": 0.4}}}},
    {"sites": {"*": {"bits": {"kind": "kmeans", "bits": 4}, "sparsity": 0.3}}},
    {"sites": {"*": {"structure": {"kind": "svd", "rank": 3}}}},
    {"sites": {"*.input": {"structure": {"kind": "tensor_train", "rank": 3, "cores": 2}}}},
]


@pytest.mark.parametrize("given", ONNX_RECIPES, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_of_onnx_answers_alike(
    given: dict[str, Any], layers: int, data: TaggedData
) -> None:
    dense = tagger_of(data, SHAPE.model_copy(update={"layers": layers}))
    recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, len(data.vocabulary))
    model = build(dense, recipe, Calibration(dense, data.train)).eval()
    assert isinstance(model, Tagger)
    batch = data.test.batch(torch.arange(len(data.test.lengths)))
    asked = {
        "x": batch.sentences.words.T.contiguous().numpy(),
        "letters": batch.sentences.letters.transpose(0, 1).contiguous().numpy(),
        "x_lens": batch.sentences.lengths.numpy(),
    }
    written = tagging.tagging(model, data.vocabulary.eos, integer_activations=False)
    (found,) = session(written.data).run(["log_softmax"], asked)
    theirs = torch.from_numpy(found).transpose(0, 1)[batch.tags != NO_TAG]
    with torch.no_grad():
        torch.testing.assert_close(theirs, model(batch).log_softmax(1), rtol=1e-4, atol=1e-4)
    assert set(written.operators) == set(model.sites)


def test_what_is_exported_is_tried_alone(data: TaggedData, tmp_path: Path) -> None:
    path = tmp_path / "tagger.lmb"
    bundle.save(path, tagger_of(data), data.vocabulary)
    loaded, folder = bundle.load(path), tmp_path / "home"
    own = loaded.model.score(data, "test").value
    record = labelling.export_labelling(loaded, folder, data.test, own)
    assert record.error == pytest.approx(own)
    assert record.tokens == data.tokens("test")
    named = {label_scoring.MODEL, "tokens.txt", "letters.txt", "tags.txt"}
    assert {one.name for one in folder.iterdir()} == set(record.bytes) == named
    assert (folder / "tags.txt").read_text().splitlines()[0] == f"{data.labels[0]} 0"
    assert (folder / "letters.txt").read_text().splitlines()[0] == f"{data.alphabet[0]} 2"
    assert labelling.export_labelling(loaded, tmp_path / "alone").error == 0.0


def test_what_answers_otherwise_is_not_written(data: TaggedData, tmp_path: Path) -> None:
    path = tmp_path / "tagger.lmb"
    bundle.save(path, tagger_of(data), data.vocabulary)
    loaded = bundle.load(path)
    own = loaded.model.score(data, "test").value
    with pytest.raises(UserError, match="does not answer as the bundle does"):
        labelling.export_labelling(loaded, tmp_path / "home", data.test, own - 0.2)
    assert not (tmp_path / "home").exists()


def test_the_cells_of_a_tagger_are_those_of_language_models(data: TaggedData) -> None:
    shape = SHAPE.model_copy(update={"cell": LSTM()})
    assert shape.completed(data).plain() == SHAPE.completed(data).plain()
