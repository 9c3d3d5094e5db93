"""Networks of texts and of pairs: what they read, compute and begin with, and what is left as it
is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from test_compositions import assert_explained, codecs, site_settings
from torch import Tensor

from lmcore import bundle
from lmcore.begun_with import begin_with, beginning_of, set_vectors
from lmcore.bidirectional import reversed_within
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.classified import (
    ClassifiedData,
    Labelled,
    LabelledPairs,
    LabelledText,
    classified_data,
    read_labelled,
)
from lmcore.errors import UserError
from lmcore.examples import ExampleNetwork
from lmcore.frame import Parts
from lmcore.frozen import frozen
from lmcore.labelled import words_in
from lmcore.letters import LetterSettings
from lmcore.looped_cells import Peephole
from lmcore.network import Network, parameters, random_network
from lmcore.networks.bilm import BiLM
from lmcore.networks.bilm_settings import BiLMSettings
from lmcore.networks.classifier import Classifier
from lmcore.networks.classifier_settings import ClassifierSettings
from lmcore.networks.matcher import Matcher
from lmcore.networks.matcher_settings import MatcherSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.tokens import tokens_of, words_of
from lmcore.training import train
from lmcore.training_settings import (
    DenseTrainingSettings,
    DropoutSettings,
    SampledSoftmaxSettings,
    TrainingSettings,
)
from lmcore.vocabulary import EOS, UNK, CharacterVocabulary, Vocabulary
from lmcore.word_settings import ContextSettings, WordSettings

GOOD, BAD = ("fine", "lovely", "good"), ("bad", "dull", "poor")
OTHERS = ("the", "film", "is", "a", "plot", "and", "cast")
READ = WordSettings(
    embedding=4,
    vectors=3,
    letters=LetterSettings(size=2, filters=3, width=2),
    context=ContextSettings(layers=2, hidden=4),
)
SHAPES: dict[str, Any] = {
    "classifier": ClassifierSettings(words=READ, hidden=5, pooled=6),
    "matcher": MatcherSettings(words=READ, hidden=5),
}
ADAM = TrainingSettings(
    epochs=12,
    batch=8,
    optimizer="adam",
    rate=0.01,
    clip=5.0,
    dropout=DropoutSettings(kind="element", rate=0.0),
)


def examples(count: int, seed: int, texts: int) -> list[Labelled]:
    """Texts that are good or bad by one word, and pairs of them."""
    generator = torch.Generator().manual_seed(seed)

    def number(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    found = []
    for _ in range(count):
        every, sides = [], []
        for _ in range(texts):
            words = [OTHERS[number(len(OTHERS))] for _ in range(1 + number(6))]
            sides.append(number(2))
            kind = (BAD, GOOD)[sides[-1]]
            words.insert(number(len(words) + 1), kind[number(len(kind))])
            every.append(words)
        label = " ".join(("bad", "good")[side] for side in sides)
        found.append(Labelled(label, tuple(every)))
    return found


def data_of(texts: int) -> ClassifiedData:
    counts = {"train": 160, "valid": 40, "test": 30}
    splits = {split: examples(n, seed, texts) for seed, (split, n) in enumerate(counts.items())}
    return classified_data("tiny", splits, {split: split for split in splits})


DATA = {"classifier": data_of(1), "matcher": data_of(2)}
every_kind = pytest.mark.parametrize("kind", list(SHAPES))


def network_of(kind: str, seed: int = 0) -> ExampleNetwork:
    data, generator = DATA[kind], torch.Generator().manual_seed(seed)
    made = random_network(SHAPES[kind].completed(data), len(data.vocabulary), 0.4, generator)
    assert isinstance(made, ExampleNetwork)
    return made.eval()


@torch.no_grad()
def logits_of(network: Network, data: ClassifiedData, *places: int) -> Tensor:
    found: Tensor = network(data.test.batch(torch.tensor(places)))
    return found


# --- Text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't, it's the U.S.", ["do", "n't", ",", "it", "'s", "the", "u", ".", "s", "."]),
        ("won’t ‘quote’", ["wo", "n't", "'", "quote", "'"]),
        ("K-19 costs 12,000", ["k", "-", "19", "costs", "12", ",", "000"]),
        ("wo n't moore 's", ["wo", "n't", "moore", "'s"]),
        (" \t", []),
    ],
)
def test_text_is_tokens(text: str, words: list[str]) -> None:
    assert words_of(text) == words
    for token in tokens_of(text):
        assert len(token.word) == token.end - token.start
        assert words_of(text[token.start : token.end]) == [token.word]


def test_letters_stay_where_they_are() -> None:
    text = "aİb İstanbul's end"
    (last,) = (token for token in tokens_of(text) if token.word == "end")
    assert text[last.start : last.end] == "end"


# --- Data -----------------------------------------------------------------------------------------


def test_a_line_is_a_label_and_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("very good\tI like it.\n\nbad\tNo\tmore\r\n", encoding="utf-8")
    assert read_labelled(path, "mine", 1, "\t") == [
        Labelled("very good", (["i", "like", "it", "."],)),
        Labelled("bad", (["no", "more"],)),
    ]
    path.write_text("yes\tA b\tC\n")
    assert read_labelled(path, "mine", 2, "\t") == [Labelled("yes", (["a", "b"], ["c"]))]


@pytest.mark.parametrize(
    ("text", "texts", "said"),
    [
        ("a text\n", 1, "mine, line 1 is 'a text'; a line is a label, a tab and a text$"),
        ("x\t \n", 1, "line 1"),
        ("\tx\n", 1, "line 1"),
        ("x\ta\n", 2, "a label, a tab and a text, a tab and another text$"),
        ("x\ta\tb\tc\n", 2, "line 1"),
        ("\n", 1, "mine has no line"),
    ],
)
def test_what_is_no_such_file_is_told(text: str, texts: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_labelled(path, "mine", texts, "\t")


def test_one_file_is_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("".join(f"{n % 2}\tword{n} text\n" for n in range(20)))
    found = LabelledText(train=str(path)).load(tmp_path)
    assert [len(found.split(split).labels) for split in ("train", "valid", "test")] == [16, 2, 2]
    assert found.labels == ("0", "1")
    assert LabelledText(train=str(path)).load(tmp_path).key == found.key
    with pytest.raises(UserError, match="a tab and another text"):
        LabelledPairs(train=str(path)).load(tmp_path)


def test_labels_that_take_turns_are_in_every_part(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    for labels in (2, 5, 10):
        path.write_text("".join(f"{n % labels}\ta text\n" for n in range(500)))
        found = LabelledText(train=str(path)).load(tmp_path)
        for split in ("train", "valid", "test"):
            assert len(set(found.split(split).labels.tolist())) == labels


@pytest.mark.parametrize("labels", [["x" * 201, "y"], [chr(20_000 + n) * 40 for n in range(600)]])
def test_labels_that_no_file_holds_are_told_before_any_training(labels: list[str]) -> None:
    every = [Labelled(label, (["a"],)) for label in labels]
    splits = dict.fromkeys(("train", "valid", "test"), every)
    with pytest.raises(UserError, match=r"^my train has labels that are texts, as '.*column\?$"):
        classified_data("mine", splits, {split: f"my {split}" for split in splits})


def test_letters_that_no_file_holds_are_told_before_any_training() -> None:
    words = [chr(0x20000 + n) for n in range(20_000)]
    every = [Labelled(label, (words,)) for label in "ab"]
    splits = dict.fromkeys(("train", "valid", "test"), every)
    with pytest.raises(UserError, match="have 20,000 letters, more than a bundle holds"):
        classified_data("mine", splits, {split: split for split in splits})


def test_words_are_those_of_a_bundle_of_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("good\ta zebra\nbad\tno zebra\n" * 10)
    generator = torch.Generator()
    for made, said in (
        (
            CharacterVocabulary(["a", "b", EOS, UNK]),
            "has characters, and the texts of a task are words",
        ),
        (Vocabulary(["gnu", EOS, UNK]), ""),
    ):
        shape = BiLMSettings(layers=1, hidden=2, embedding=2)
        bilm = random_network(shape, len(made), 0.4, generator)
        bundle.save(tmp_path / "bilm.lmb", bilm.eval(), made)
        given = LabelledText(train=str(path), vocabulary=str(tmp_path / "bilm.lmb"))
        if said:
            with pytest.raises(UserError, match=said):
                given.load(tmp_path)
        else:
            assert "gnu" in given.load(tmp_path).vocabulary.ids


@pytest.mark.parametrize("name", ["x" * 300, "folder", "no\nfile"])
def test_a_name_of_no_file_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / name)
    settings = {"epochs": 1, "rate": 1, "init": 0.1, "dropout": {"kind": "element", "rate": 0}}
    for setting in ("start", "vectors"):
        given = parse(DenseTrainingSettings, {**settings, setting: path})
        with pytest.raises(UserError, match=f"^training.{setting}: there is no file"):
            beginning_of(given)
    with pytest.raises(UserError):
        words_in(path)


def test_labels_are_those_of_train() -> None:
    one, other = Labelled("x", (["a"],)), Labelled("y", (["b"],))
    splits = {"train": [one, other], "valid": [Labelled("z", (["a"],))], "test": [one]}
    found = classified_data("mine", splits, {split: f"my {split}" for split in splits})
    assert "my valid has labels that my train has not, as 'z'" in found.remarks[0]
    assert found.naive == 100.0
    with pytest.raises(UserError, match="my train has the label 'x' alone"):
        classified_data("mine", {**splits, "train": [one]}, {s: f"my {s}" for s in splits})


def test_words_of_another_model_are_known_too() -> None:
    splits = {split: examples(20, 0, 1) for split in ("train", "valid", "test")}
    found = classified_data("mine", splits, {s: s for s in splits}, more=("zebra", "the"))
    assert "zebra" in found.vocabulary.ids


# --- What it computes -----------------------------------------------------------------------------


@every_kind
def test_what_stands_beside_a_text_does_not_matter(kind: str) -> None:
    network, data = network_of(kind), DATA[kind]
    every = logits_of(network, data, *range(30))
    for place in range(30):
        torch.testing.assert_close(every[place], logits_of(network, data, place)[0])


@every_kind
def test_its_score_is_the_share_of_wrong_answers(kind: str) -> None:
    network, data = network_of(kind), DATA[kind]
    wrong = logits_of(network, data, *range(30)).argmax(1) != data.test.labels
    found = network.score(data, "test")
    assert found.value == pytest.approx(100 * max(0.5, float(wrong.sum())) / 30)
    assert found.tokens == data.tokens("test")


def test_nothing_wrong_counts_as_half_a_mistake() -> None:
    network, data = network_of("classifier"), DATA["classifier"]
    record = train(network, data.train, ADAM, 0, lambda one: one.score(data, "valid").value)
    assert record.valid_measures[-1] == min(record.valid_measures) == 100 * 0.5 / 40


def test_pairs_are_learned() -> None:
    network, data = network_of("matcher"), DATA["matcher"]
    record = train(network, data.train, ADAM, 0, lambda one: one.score(data, "valid").value)
    assert record.valid_measures[-1] < 30 < 60 < data.naive


@every_kind
def test_a_context_is_a_language_model_that_reads_each_text(kind: str) -> None:
    """The mixture, computed from the two language models of a bilm with the same parts."""
    network, data = network_of(kind), DATA[kind]
    shape = BiLMSettings(layers=2, hidden=4, embedding=4)
    generator = torch.Generator().manual_seed(5)
    bilm = random_network(shape, len(data.vocabulary), 0.4, generator)
    assert isinstance(bilm, BiLM)
    taken = begin_with(network, data.vocabulary, made_of(bilm, data.vocabulary))
    assert "forward.1.input" in taken
    assert isinstance(network, Classifier | Matcher)
    context = network.read.context
    assert context
    text = data.test.batch(torch.tensor([3, 4])).texts[0]
    rows = bilm.ahead.embedding.rows
    end, x = rows(torch.tensor([text.eos]))[0], rows(text.words)
    with torch.no_grad():
        found = context(x, end, text.lengths, network.dropout)
        hidden = []
        for model, turn in ((bilm.ahead, False), (bilm.back, True)):
            words = reversed_within(text.words, text.lengths) if turn else text.words
            read = torch.cat([torch.full((1, 2), text.eos), words])
            states, layers, y = model.zero_state(2), [rows(words)], rows(read)
            for layer, state in zip(model.layers, states, strict=True):
                y, _ = layer(y, state, lambda matrix: matrix)
                layers.append(y[1:])
            hidden.append([reversed_within(one, text.lengths) if turn else one for one in layers])
        shares = context.weights.value().softmax(0)
        wanted = sum(
            share * torch.cat([one, other], 2)
            for share, one, other in zip(shares, *hidden, strict=True)
        )
        wanted = wanted * (1 + context.scale.value())
    own = ~text.padding
    torch.testing.assert_close(found[own], wanted[own])


def made_of(network: Network, vocabulary: Vocabulary) -> bundle.Bundle:
    return bundle.Bundle(network, vocabulary, 0, "", Parts(0, {}, 0))


# --- What it begins with --------------------------------------------------------------------------


def test_rows_go_to_their_words() -> None:
    data = DATA["classifier"]
    words = ["<eos>", "<unk>", "good", "zebra"]
    shape = BiLMSettings(layers=2, hidden=4, embedding=4)
    bilm = random_network(shape, 4, 0.4, torch.Generator().manual_seed(1))
    network = network_of("classifier")
    untouched = network.sites["encoder_forward.0.input"].dense().clone()
    begin_with(network, data.vocabulary, made_of(bilm, Vocabulary(words)))
    theirs, ours = bilm.sites["embedding"].dense(), network.sites["embedding"].dense()
    assert torch.equal(ours[data.vocabulary.ids["good"]], theirs[2])
    assert torch.equal(ours[data.vocabulary.ids["bad"]], theirs[1])
    assert torch.equal(network.sites["encoder_forward.0.input"].dense(), untouched)


def test_another_size_is_refused() -> None:
    data, network = DATA["classifier"], network_of("classifier")
    shape = BiLMSettings(layers=2, hidden=6, embedding=6)
    bilm = random_network(shape, len(data.vocabulary), 0.4, torch.Generator())
    with pytest.raises(UserError, match=r"embedding is \d+ x 6 there and \d+ x 4 in this model"):
        begin_with(network, data.vocabulary, made_of(bilm, data.vocabulary))


def test_words_are_sampled_where_a_network_predicts_them() -> None:
    sampled = ADAM.model_copy(update={"sampled": SampledSoftmaxSettings(negatives=5)})
    DATA["classifier"].check(ADAM, "training")
    with pytest.raises(UserError, match=r"^training.sampled: a network of this task"):
        DATA["classifier"].check(sampled, "training")


def test_vectors_are_those_of_a_file(tmp_path: Path) -> None:
    data, network = DATA["classifier"], network_of("classifier")
    (tmp_path / "mine.txt").write_text("good 1 2 3\nzebra 4 5 6\nbad -1 0 0.5\n")
    share = set_vectors(network, data.vocabulary, tmp_path / "mine.txt")
    assert share == pytest.approx(2 / len(data.vocabulary))
    found = network.sites["vectors"].dense()
    assert found[data.vocabulary.ids["good"]].tolist() == [1, 2, 3]
    assert found[data.vocabulary.ids["film"]].tolist() == [0, 0, 0]
    np.save(tmp_path / "other.f16.npy", np.array([[1, 2, 3], [7, 8, 9]], np.float16))
    (tmp_path / "other.words.txt").write_text("zebra\ngood\n")
    set_vectors(network, data.vocabulary, tmp_path / "other.f16.npy")
    assert network.sites["vectors"].dense()[data.vocabulary.ids["good"]].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("good 1 2\n", "line 1 has 2 numbers, and the model takes vectors of 3"),
        ("good 1 x 3\n", "has no vectors of words"),
        ("zebra 1 2 3\n", "has none of the words of the training text"),
        ("", "has none of the words"),
        ("good 1 2 3 4 5 6 7\n", "line 1 has 7 numbers, and the model takes vectors of 3"),
        ("good 1 nan 3\n", "has numbers that are not finite"),
        (None, "cannot read"),
    ],
)
def test_what_are_no_vectors_is_told(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        set_vectors(network_of("classifier"), DATA["classifier"].vocabulary, path)


@pytest.mark.parametrize(
    "array", [np.array(["a b c"]), np.zeros((1, 2)), np.zeros((1, 3), int), None], ids=str
)
def test_an_array_of_no_vectors_is_told(array: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.npy").write_bytes(b"")
    if array is not None:
        np.save(tmp_path / "mine.npy", array)
    (tmp_path / "mine.words.txt").write_text("good\n")
    network, vocabulary = network_of("classifier"), DATA["classifier"].vocabulary
    with pytest.raises(UserError, match=r"training.vectors: .*mine.npy"):
        set_vectors(network, vocabulary, tmp_path / "mine.npy")
    (tmp_path / "mine.words.txt").unlink()
    np.save(tmp_path / "mine.npy", np.zeros((1, 3)))
    with pytest.raises(UserError, match=r"cannot read .*mine.words.txt"):
        set_vectors(network, vocabulary, tmp_path / "mine.npy")


HUGE = f"{{'descr': '<f4', 'shape': ({10**31}, 4)}}"


@pytest.mark.parametrize("header", ["{[]: 1}", "-" * 9000 + "1", HUGE, "[" * 500])
def test_an_array_with_another_header_is_told(header: str, tmp_path: Path) -> None:
    text = header.encode()
    (tmp_path / "mine.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    )
    (tmp_path / "mine.words.txt").write_text("good\n")
    network, vocabulary = network_of("classifier"), DATA["classifier"].vocabulary
    with pytest.raises(UserError, match=r"training.vectors: .*mine.npy"):
        set_vectors(network, vocabulary, tmp_path / "mine.npy")


def test_words_of_an_array_end_with_a_newline_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    (tmp_path / "mine.words.txt").write_text("a\u2028b\x85c\ngood", encoding="utf-8")
    network, vocabulary = network_of("classifier"), DATA["classifier"].vocabulary
    set_vectors(network, vocabulary, tmp_path / "mine.npy")
    assert network.sites["vectors"].dense()[vocabulary.ids["good"]].tolist() == [4, 5, 6]


def test_lines_may_have_words_of_several_parts_and_a_head(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("2 3\n. . . 1 2 3\ngood 1 2 3 \n")
    network, vocabulary = network_of("classifier"), DATA["classifier"].vocabulary
    set_vectors(network, vocabulary, tmp_path / "mine.txt")
    assert network.sites["vectors"].dense()[vocabulary.ids["good"]].tolist() == [1, 2, 3]


def test_what_has_a_row_a_letter_or_a_label_is_taken_where_these_are_the_same() -> None:
    data, other = DATA["classifier"], network_of("classifier", seed=7)
    network = network_of("classifier")
    vectors = other.sites["vectors"].dense()
    words = [*reversed(data.vocabulary.words)]
    taken = begin_with(network, data.vocabulary, made_of(other, Vocabulary(words)))
    assert {"letters", "output", "output.bias", "vectors"} <= set(taken)
    assert torch.equal(network.sites["vectors"].dense(), vectors.flip(0))
    shape = other.settings.model_copy(
        update={"labels": ("x", "y"), "alphabet": data.alphabet[::-1]}
    )
    odd = shape.network(other.sites, other.biases)
    taken = begin_with(network, data.vocabulary, made_of(odd, data.vocabulary))
    assert not {"letters", "output", "output.bias"} & set(taken)
    assert "letters.filters" in taken


# --- What is left as it is ------------------------------------------------------------------------


@every_kind
def test_frozen_parts_and_vectors_stay(kind: str) -> None:
    network, data = network_of(kind), DATA[kind]
    before = {name: value.clone() for name, value in parameters(network).items()}
    patterns = ("embedding", "forward.*", "backward.*")
    settings = ADAM.model_copy(update={"epochs": 1, "frozen": patterns, "average": 0.5})
    train(network, data.train, settings, 0)
    same = {name for name, value in parameters(network).items() if torch.equal(value, before[name])}
    kept = {
        name
        for name, part in {**network.sites, **network.biases}.items()
        if name == "vectors" or any(name.startswith(one.rstrip("*")) for one in patterns)
        for one in [id(value) for value in part.parameters()]
        for name, value in parameters(network).items()
        if id(value) == one
    }
    assert same == kept
    assert all(value.requires_grad for value in network.parameters())


def test_a_price_of_bits_does_not_move_what_is_fixed() -> None:
    dense, data = network_of("classifier"), DATA["classifier"]
    bits = {"kind": "uniform", "step": 0.2, "rate_penalty": 1e-3}
    given = parse(Recipe, {"sites": {"*": {"bits": bits}}}, "recipe")
    recipe = resolve(given, dense.settings, len(data.vocabulary))
    network = build(dense, recipe, Calibration(dense, data.train))
    before = network.sites["vectors"].leaves["matrix"].data.clone()
    settings = ADAM.model_copy(update={"epochs": 2})
    train(network, data.train, settings, 0)
    assert torch.equal(network.sites["vectors"].leaves["matrix"].data, before)
    frozen_once = settings.model_copy(update={"frozen": ("output",)})
    train(network, data.train, frozen_once, 0)
    train(network, data.train, settings, 0)  # with gradients for all again


def test_a_pattern_of_nothing_is_told() -> None:
    network = network_of("classifier")
    said = r"frozen: decoder is none of .*: embedding, vectors"
    with pytest.raises(UserError, match=said), frozen(network, ["decoder"]):
        pass
    said = r"frozen: \* leaves nothing to train"
    with pytest.raises(UserError, match=said), frozen(network, ["*"]):
        pass
    assert all(value.requires_grad for value in network.parameters())


# --- Recipes and files ----------------------------------------------------------------------------

patterns = st.sampled_from(
    ["*", "*", "embedding", "vectors", "letters*", "output", "*.input", "encoder*", "forward*"]
)
recipes = st.fixed_dictionaries(
    {
        "sites": st.dictionaries(patterns, site_settings, max_size=4),
        "biases": codecs,
        "pruning": st.sampled_from([{}, {"scope": "all"}]),
    }
)


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(given=recipes, kind=st.sampled_from(list(SHAPES)))
def test_a_composition_is_its_file_or_is_refused(
    given: dict[str, Any], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dense, data = network_of(kind), DATA[kind]
    words, path = len(data.vocabulary), tmp_path_factory.getbasetemp() / "one.lmb"
    try:
        recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, words)
    except UserError as error:
        assert_explained(error)
        return
    model = build(dense, recipe, Calibration(dense, data.train)).eval()
    size = bundle.save(path, model, data.vocabulary)
    assert size <= bundle.packed_size(recipe, dense.settings, data.vocabulary)
    loaded = bundle.load(path).model
    assert torch.equal(logits_of(loaded, data, 0, 1), logits_of(model, data, 0, 1))
    assert bundle.pack(loaded, data.vocabulary) == path.read_bytes()


@every_kind
def test_moments_are_of_what_its_matrices_multiply(kind: str) -> None:
    network, data = network_of(kind), DATA[kind]
    found = Calibration(network, data.train).inputs
    shapes = network.settings.site_shapes(len(data.vocabulary))
    for site, (_, inputs) in shapes.items():
        if site in network.settings.looked_up:
            assert site not in found
        else:
            assert found[site].shape == (inputs, inputs)


@pytest.mark.parametrize("change", [{"layers": 1}, {"cell": Peephole()}])
def test_a_context_begins_with_one_of_its_own_shape(change: dict[str, Any]) -> None:
    data = DATA["classifier"]
    shape = BiLMSettings(layers=2, hidden=4, embedding=4).model_copy(update=change)
    other = random_network(shape, len(data.vocabulary), 0.4, torch.Generator())
    with pytest.raises(UserError, match="layers and cells must be the same"):
        begin_with(network_of("classifier"), data.vocabulary, made_of(other, data.vocabulary))
