"""Hidden units of other networks than language models: what each touches, and their removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from test_bilm import SHAPE as BILM
from test_classified import DATA
from test_hidden_units import units_settings
from test_reading import made
from test_tagger import sentences
from torch import Tensor

from lmcore import bundle
from lmcore.compress.hidden_units import remove_units, with_fewer_units
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.letters import LetterSettings
from lmcore.looped_cells import RHN
from lmcore.network import Network, random_network
from lmcore.network_settings import NetworkSettings
from lmcore.networks.classifier_settings import ClassifierSettings
from lmcore.networks.matcher_settings import MatcherSettings
from lmcore.networks.reader_settings import ReaderSettings
from lmcore.networks.sentence_settings import SentenceSettings
from lmcore.networks.tagger_settings import TaggerSettings
from lmcore.questions import question_data
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.tagged import tagged_data
from lmcore.training_settings import TrainingSettings
from lmcore.units import ROWS, Units
from lmcore.vocabulary import Vocabulary
from lmcore.word_settings import WordSettings

WORDS = WordSettings(embedding=5, letters=LetterSettings(size=2, filters=3, width=2))
FIXED = WordSettings(embedding=4, vectors=3)
SHAPES: dict[str, NetworkSettings] = {
    "tagger": TaggerSettings(hidden=4, layers=2, words=WORDS),
    "highway tagger": TaggerSettings(hidden=4, words=WORDS, cell=RHN(depth=2)),
    "classifier": ClassifierSettings(hidden=4, pooled=5, words=FIXED),
    "matcher": MatcherSettings(hidden=4, words=WORDS),
    "reader": ReaderSettings(hidden=4, words=FIXED),
    "bilm": BILM,
}
REMOVABLE = {
    "tagger": "encoder_forward.0 encoder_backward.0 encoder_forward.1 encoder_backward.1 embedding",
    "highway tagger": "encoder_forward.0 encoder_backward.0 embedding",
    "classifier": "encoder_forward.0 encoder_backward.0 embedding",
    "matcher": "composer_forward.0 composer_backward.0 embedding",
    "reader": "modelling_forward.0 modelling_backward.0 modelling_forward.1 modelling_backward.1 "
    "ending_forward.0 ending_backward.0",
    "bilm": "forward.0 backward.0",
}
STRENGTH = dict.fromkeys(SHAPES, 60.0) | {"bilm": 6.0}
every_kind = pytest.mark.parametrize("kind", list(SHAPES))


class Case(NamedTuple):
    """A dense network, and what it learns from."""

    network: Network
    vocabulary: Vocabulary
    examples: Any

    def losses(self, network: Network) -> Tensor:
        """What a network of the same kind says of the examples, in numbers."""
        with torch.no_grad():
            return torch.stack([loss for loss, _ in network.sampled_losses(self.examples, 5)])


@pytest.fixture
def case(kind: str, corpus: Corpus) -> Case:
    data: Any
    name = kind.split()[-1]
    if name == "tagger":
        splits = {"train": sentences(60, 0), "valid": sentences(9, 1), "test": sentences(9, 2)}
        data = tagged_data("tiny", splits, {split: split for split in splits}, None)
    elif name == "reader":
        read = {"train": made(30, 0), "valid": made(5, 1), "test": made(5, 2)}
        data = question_data("tiny", read, longest=400)
    else:
        data = corpus if name == "bilm" else DATA[name]
    shape, words = SHAPES[kind].completed(data), len(data.vocabulary)
    network = random_network(shape, words, 0.4, torch.Generator().manual_seed(1)).eval()
    return Case(network, data.vocabulary, data.train)


def groups_of(network: Network) -> list[Units]:
    found: list[Units] = network.settings.removable(embedding=True)
    return found


@torch.no_grad()
def kill(network: Network, units: Units, *which: int) -> None:
    matrices: dict[str, Tensor] = {
        site: weight.leaves["matrix"].data for site, weight in network.sites.items()
    }
    factors = torch.ones(units.count)
    factors[list(which)] = 0.0
    units.scale_(matrices, factors)


@every_kind
def test_removal_leaves_the_answers_as_they_are(kind: str, case: Case, tmp_path: Path) -> None:
    network = case.network
    groups = groups_of(network)
    assert [units.name for units in groups] == REMOVABLE[kind].split()
    before = case.losses(network)
    for number, units in enumerate(groups):
        kill(network, units, *(1, 3)[: 1 + number % 2])
    killed = case.losses(network)
    assert not torch.allclose(killed, before)
    smaller = remove_units(network, embedding=True)
    left = {units.name: units.count for units in groups_of(smaller)}
    assert left == {units.name: units.count - 1 - n % 2 for n, units in enumerate(groups)}
    torch.testing.assert_close(case.losses(smaller), killed)
    words = len(case.vocabulary)
    assert {s: w.shape for s, w in smaller.sites.items()} == smaller.settings.site_shapes(words)
    shapes = {name: leaf.shape for name, leaf in smaller.biases.items()}
    assert shapes == smaller.settings.bias_shapes(words)
    bundle.save(tmp_path / "smaller.lmb", smaller, case.vocabulary)
    again = bundle.load(tmp_path / "smaller.lmb").model
    assert torch.equal(case.losses(again), case.losses(smaller))


@every_kind
@torch.no_grad()
def test_what_a_unit_computes_is_read_by_its_group_alone(kind: str, case: Case) -> None:
    """Where all columns that read a unit are zero, its rows do not matter."""
    network = case.network
    for units in groups_of(network):
        kill(network, units, 2)
        before = case.losses(network)
        for piece in units.slices:
            if piece.axis == ROWS:
                places = piece.places(torch.tensor([2]))
                network.sites[piece.site].leaves["matrix"].data[places] = 0.7
            elif piece.site == units.name:  # the embedding
                network.sites[piece.site].leaves["matrix"].data[:, 2] = 0.7
        torch.testing.assert_close(case.losses(network), before)


@every_kind
def test_training_removes_units_and_leaves_the_dense_network(kind: str, case: Case) -> None:
    given: dict[str, Any] = {"dropout": {"kind": "element", "rate": 0.0}, "clip": 5.0}
    given |= {"batch": 4, "window": 5} if kind == "bilm" else {"batch": 10}
    training = TrainingSettings(epochs=1, optimizer="adam", rate=0.01, **given)
    before = case.losses(case.network)
    strong = units_settings(strength=STRENGTH[kind]).model_copy(update={"training": training})
    smaller = with_fewer_units(case.network, case.examples, strong, seed=0)
    words = len(case.vocabulary)
    assert smaller.settings.weights(words) < case.network.settings.weights(words)
    assert all(0 < units.count <= 6 for units in groups_of(smaller))
    assert torch.equal(case.losses(case.network), before)
    weak = strong.model_copy(update={"strength": 1e-6})
    kept = with_fewer_units(case.network, case.examples, weak, seed=0)
    assert kept.settings == case.network.settings


def test_vectors_that_are_fixed_are_left_alone() -> None:
    data = DATA["classifier"]
    shape = SHAPES["classifier"].completed(data)
    network = random_network(shape, len(data.vocabulary), 0.01, torch.Generator().manual_seed(1))
    drop: Any = {"kind": "element", "rate": 0.0}
    training = TrainingSettings(epochs=1, optimizer="adam", rate=0.001, batch=10, dropout=drop)
    asked = units_settings(method="threshold", threshold=0.005)
    asked = asked.model_copy(update={"training": training})
    smaller = with_fewer_units(network, data.train, asked, seed=0)
    vectors = [one.sites["vectors"].dense() for one in (network, smaller)]
    assert torch.equal(*vectors)
    assert (vectors[0].abs() < 0.005).any()


# weights in millions with so many units, as Wen et al. (2018) print them for SQuAD
BIDAF = [
    ((100, 95, 78, 82, 71, 52), 2.08),
    ((84, 90, 38, 46, 34, 21), 1.48),
    ((54, 47, 22, 30, 18, 12), 1.03),
    ((52, 50, 19, 26, 15, 12), 1.01),
    ((87, 81, 87, 92, 74, 96), 2.29),
    ((51, 33, 42, 58, 37, 26), 1.17),
    ((20, 33, 40, 38, 31, 16), 0.95),
    ((23, 22, 35, 35, 25, 14), 0.88),
]


@pytest.mark.parametrize(("units", "millions"), BIDAF)
def test_weights_that_go_are_those_of_the_paper(units: tuple[int, ...], millions: float) -> None:
    """But for the columns of what the answer's begin has of a unit, which go here, too."""
    letters = LetterSettings(size=8, filters=100)
    dense = ReaderSettings(hidden=100, words=WordSettings(vectors=100, letters=letters))
    names = REMOVABLE["reader"].split()
    fewer = dense.model_copy(update={"hidden_of": dict(zip(names, units, strict=True))})
    gone = dense.weights(0) - fewer.weights(0)
    begun = 4 * sum(units[4:]) * (200 - sum(units[2:4]))
    assert (gone - begun) / 1e6 == pytest.approx(2.69 - millions, abs=0.011)


def test_the_groups_are_those_of_the_paper() -> None:
    dense = ReaderSettings(hidden=100, words=WordSettings(vectors=200))
    shapes = dense.site_shapes(1)
    sizes = [
        sum(len(piece.starts) * shapes[piece.site][1 - piece.axis] for piece in units.slices)
        for units in dense.removable(embedding=False)
    ]
    of_begin = 2 * 4 * 100  # columns of what the answer's begin has of a unit: not in the paper's
    assert sizes == [4800, 4800, 3201 + of_begin, 3201 + of_begin, 6401, 6401]


def test_a_context_keeps_its_units() -> None:
    """Its layers are mixed, so that a unit is one of all of them."""
    data = DATA["matcher"]
    words = parse(WordSettings, {"embedding": 4, "context": {"hidden": 4}})
    shape = MatcherSettings(hidden=3, words=words).completed(data)
    names = [units.name for units in shape.removable(embedding=True)]
    assert names == ["composer_forward.0", "composer_backward.0"]


def test_a_network_without_such_layers_is_told() -> None:
    one = BILM.model_copy(update={"layers": 1})
    training = {"epochs": 1, "rate": 1.0, "dropout": {"kind": "element", "rate": 0.0}}
    asked = {"layers": {"units": {"strength": 0.1, "training": training}}}
    with pytest.raises(UserError, match="of the kind bilm no layer loses units"):
        resolve(parse(Recipe, asked, "recipe"), one, 20)


@pytest.mark.parametrize("kind", ["reader", "bilm"])
def test_columns_that_cannot_be_removed_make_no_other_recipe(kind: str) -> None:
    training = {"epochs": 1, "rate": 1.0, "dropout": {"kind": "element", "rate": 0.0}}

    def key(embedding: bool) -> str:
        units = {"strength": 0.1, "embedding": embedding, "training": training}
        recipe = parse(Recipe, {"layers": {"units": units}}, "recipe")
        return resolve(recipe, SHAPES[kind], 20).key

    assert key(False) == key(True)


@pytest.mark.parametrize("prefix", ["encoder_forward.1", "lstm.0"])
def test_a_file_that_speaks_of_no_layer_is_damaged(prefix: str) -> None:
    shape = SHAPES["classifier"].completed(DATA["classifier"])
    assert isinstance(shape, SentenceSettings)
    with pytest.raises(ValueError, match=f"it has no layer '{prefix}'"):
        shape.model_copy(update={"hidden_of": {prefix: 3}}).check()
