"""Hidden units: their groups against the paper's definition, the group Lasso, and their removal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_cells import WORDS, every_cell, ids_of, logits_of
from torch import Tensor

from lmcore import bundle, training
from lmcore.cells import Cell
from lmcore.compress.hidden_units import (
    EPSILON,
    GroupLasso,
    UnitsSettings,
    remove_units,
    with_fewer_units,
)
from lmcore.corpus import Corpus, Vocabulary
from lmcore.errors import UserError
from lmcore.looped_cells import RHN
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.network import parameters
from lmcore.progress import TrainingRecord
from lmcore.settings import parse
from lmcore.training import train
from lmcore.training_settings import TrainingSettings

Entry = tuple[str, int, int]  # site, row, column

SHAPES: dict[str, dict[str, Any]] = {
    "untied": {"hidden": 6, "embedding": 5, "tied": False},
    "tied": {"hidden": 6, "embedding": 6, "tied": True},
    "tied-narrower": {"hidden": 6, "embedding": 4, "tied": True},
    "unequal": {"hidden": (6, 4), "embedding": 5, "tied": False},
    "tied-unequal": {"hidden": (5, 6), "embedding": 6, "tied": True},
    "projected": {"hidden": 6, "embedding": 5, "tied": False, "projection": (3, 4)},
    "tied-projected": {"hidden": 6, "embedding": 5, "tied": True, "projection": (3, 4)},
    "tied-first-projected": {"hidden": 6, "embedding": 6, "tied": True, "projection": (3, 0)},
    "tied-to-projection": {"hidden": (5, 6), "embedding": 4, "tied": True, "projection": (0, 4)},
    "one-layer": {"layers": 1, "hidden": 5, "embedding": 5, "tied": True},
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
with_and_without_embedding = pytest.mark.parametrize(
    "embedding", [False, True], ids=["layers", "embedding"]
)


def settings_of(shape: str, cell: Cell) -> ModelSettings:
    return ModelSettings.model_validate({"layers": 2, **SHAPES[shape], "cell": cell})


def model_of(settings: ModelSettings) -> LanguageModel:
    return random_model(settings, WORDS, 0.5, torch.Generator().manual_seed(0)).eval()


def units_settings(**given: Any) -> UnitsSettings:
    default = {"epochs": 2, "batch": 5, "window": 15, "optimizer": "adam", "rate": 0.02}
    dropout = {"kind": "sequence", "rate": 0.1}
    data = {"strength": 1e-3, "training": {**default, "dropout": dropout}}
    return UnitsSettings.model_validate({**data, **given})


# --- The groups, entry by entry ------------------------------------------------------------------


def by_definition(settings: ModelSettings, embedding: bool) -> dict[str, list[set[Entry]]]:
    """Group name -> the entries of each unit, word for word from the papers."""
    cell, shapes = settings.cell, settings.site_shapes(WORDS)
    gates = {"lstm": 4, "peephole": 4, "rnn": 1, "rhn": 2}[cell.kind]
    depths = range(cell.depth) if isinstance(cell, RHN) else ()
    recurrent = [f"recurrent_{depth + 1}" for depth in depths] or ["recurrent"]

    def row(site: str, index: int) -> set[Entry]:
        return {(site, index, column) for column in range(shapes[site][1])}

    def column(site: str, index: int) -> set[Entry]:
        return {(site, row, index) for row in range(shapes[site][0])}

    groups: dict[str, list[set[Entry]]] = {}
    last = settings.layers - 1
    first_input = f"{cell.prefix}.0.input"
    for layer, hidden in enumerate(settings.units):
        own = f"{cell.prefix}.{layer}."
        groups[own[:-1]] = []
        for k in range(hidden):
            group: set[Entry] = set()
            for gate in range(gates):
                for name in ["input", *recurrent]:
                    group |= row(own + name, gate * hidden + k)
            if own + "projection" in shapes:
                group |= column(own + "projection", k)
            else:
                for name in recurrent:
                    group |= column(own + name, k)
                if layer < last:
                    group |= column(f"{cell.prefix}.{layer + 1}.input", k)
                elif "decoder" in shapes:
                    group |= column("decoder", k)
                elif "decoder.projection" in shapes:
                    group |= column("decoder.projection", k)
                else:
                    group |= column("embedding", k) | column(first_input, k)
            groups[own[:-1]].append(group)
    if embedding:
        groups["embedding"] = []
        for k in range(settings.embedding):
            group = column("embedding", k) | column(first_input, k)
            if "decoder.projection" in shapes:
                group |= row("decoder.projection", k)
            elif settings.tied and f"{cell.prefix}.{last}.projection" in shapes:
                group |= row(f"{cell.prefix}.{last}.projection", k)
                for name in recurrent:
                    group |= column(f"{cell.prefix}.{last}.{name}", k)
            elif settings.tied:
                del groups["embedding"]  # they are those of the last layer's units
                break
            groups["embedding"].append(group)
    return groups


def matrices_of(model: LanguageModel) -> dict[str, Tensor]:
    return {site: weight.leaves["matrix"].data for site, weight in model.sites.items()}


def values_of(group: set[Entry], matrices: dict[str, Tensor]) -> Tensor:
    return torch.stack([matrices[site][row, column] for site, row, column in sorted(group)])


def kill(model: LanguageModel, group: set[Entry]) -> None:
    matrices = matrices_of(model)
    with torch.no_grad():
        for site, row, column in group:
            matrices[site][row, column] = 0


@every_cell
@every_shape
@with_and_without_embedding
def test_groups_are_those_of_the_definition(cell: Cell, shape: str, embedding: bool) -> None:
    settings = settings_of(shape, cell)
    groups = by_definition(settings, embedding)
    found = {units.name: units for units in settings.removable(embedding)}
    assert list(found) == list(groups)
    matrices = {site: value.detach() for site, value in matrices_of(model_of(settings)).items()}
    for name, units in found.items():
        assert units.count == len(groups[name])
        expected = torch.stack([values_of(one, matrices).square().sum() for one in groups[name]])
        torch.testing.assert_close(units.squares(matrices), expected)
        for k, group in enumerate(groups[name]):
            ones = {site: torch.ones_like(value) for site, value in matrices.items()}
            units.scale_(ones, torch.ones(units.count).index_fill(0, torch.tensor(k), 3.0))
            changed = {(s, *at) for s, one in ones.items() for at in (one != 1).nonzero().tolist()}
            assert changed == group
            assert all(float(ones[site][row, column]) == 3 for site, row, column in group)


# --- The group Lasso -----------------------------------------------------------------------------


@every_shape
@with_and_without_embedding
def test_penalty_and_gradient_are_those_of_the_formula(shape: str, embedding: bool) -> None:
    model = model_of(settings_of(shape, RHN(depth=2)))
    groups = by_definition(model.settings, embedding)
    kill(model, groups["rhn.0"][2])
    settings = units_settings(method="threshold", strength=0.3, embedding=embedding)
    penalty = GroupLasso(model, settings).penalty()
    assert penalty is not None
    values = matrices_of(model)
    every = [values_of(group, values) for units in groups.values() for group in units]
    expected = 0.3 * torch.stack([(one.square().sum() + EPSILON).sqrt() for one in every]).sum()
    torch.testing.assert_close(penalty, expected)
    ours_all, theirs_all = (
        torch.autograd.grad(total, list(values.values()), materialize_grads=True)
        for total in (penalty, expected)
    )
    for ours, theirs in zip(ours_all, theirs_all, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs)


def test_threshold_zeroes_what_is_small_and_leaves_the_rest() -> None:
    model = model_of(settings_of("tied-narrower", RHN(depth=2)))
    before = {site: value.detach().clone() for site, value in matrices_of(model).items()}
    lasso = GroupLasso(model, units_settings(method="threshold", threshold=0.2))
    lasso.penalty()
    lasso.after_update(rate=5.0, progress=0.5)
    for site, value in matrices_of(model).items():
        small = before[site].abs() < 0.2
        assert small.any()
        assert not value[small].any()
        assert torch.equal(value[~small], before[site][~small])


def test_a_proximal_step_shortens_groups_apart_by_rate_times_strength() -> None:
    """One untied layer without recurrence: no entry is in two groups."""
    settings = ModelSettings(layers=1, hidden=6, embedding=5, tied=False)
    model = model_of(settings)
    with torch.no_grad():
        matrices_of(model)["lstm.0.recurrent"].zero_()
        matrices_of(model)["lstm.0.input"][2::6] *= 1e-3
        matrices_of(model)["decoder"][:, 2] *= 1e-3
    groups = by_definition(settings, embedding=False)["lstm.0"]
    before = torch.stack([values_of(group, matrices_of(model)).norm() for group in groups])
    others = matrices_of(model)["embedding"].clone()
    lasso = GroupLasso(model, units_settings(strength=0.1))
    assert lasso.penalty() is None
    lasso.after_update(rate=2.0, progress=0.5)
    after = torch.stack([values_of(group, matrices_of(model)).norm() for group in groups])
    torch.testing.assert_close(after, (before - 0.2).clamp(min=0))
    assert after[2] == 0  # it was shorter than that
    assert torch.equal(matrices_of(model)["embedding"], others)


def test_what_lies_in_two_groups_is_shortened_by_both() -> None:
    """Row k and column j of U: the factors of k and j; on the diagonal that of k alone."""
    settings = ModelSettings(layers=1, hidden=6, embedding=5, tied=False)
    model = model_of(settings)
    before = matrices_of(model)["lstm.0.recurrent"].detach().clone().view(4, 6, 6)
    groups = by_definition(settings, embedding=False)["lstm.0"]
    norms = torch.stack([values_of(group, matrices_of(model)).norm() for group in groups])
    lasso = GroupLasso(model, units_settings(strength=0.1))
    lasso.penalty()
    lasso.after_update(rate=2.0, progress=0.5)
    factors = (1 - 0.2 / norms).detach()
    both = torch.outer(factors, factors)
    both.diagonal().copy_(factors)
    after = matrices_of(model)["lstm.0.recurrent"].view(4, 6, 6)
    torch.testing.assert_close(after, before * both)
    shorter = torch.stack([values_of(group, matrices_of(model)).norm() for group in groups])
    assert (shorter <= norms - 0.2 + 1e-6).all()


@pytest.mark.parametrize("method", ["proximal", "threshold"])
@pytest.mark.parametrize(
    "optimizer", [{"optimizer": "adam", "rate": 0.02}, {"optimizer": "sgd", "rate": 5.0}]
)
@pytest.mark.parametrize("shape", ["untied", "tied", "tied-narrower", "tied-to-projection"])
def test_groups_that_are_zero_stay_zero(
    method: str, optimizer: dict[str, Any], shape: str, corpus: Corpus
) -> None:
    """Though columns get a gradient: a unit without weights still says its bias."""
    settings = settings_of(shape, RHN(depth=2))
    lasso = units_settings(method=method, strength=1e-6, threshold=1e-30, embedding=True)
    given = lasso.training.model_copy(update={**optimizer, "epochs": 0.5})
    for with_lasso in (True, False):
        model = model_of(settings)
        groups = by_definition(settings, embedding=True)
        dead = [units[k] for units in groups.values() for k in (1, 3)]
        for group in dead:
            kill(model, group)
        regularizer = GroupLasso(model, lasso) if with_lasso else None
        train(model, corpus.train, given, seed=0, regularizer=regularizer)
        revived = [bool(values_of(group, matrices_of(model)).any()) for group in dead]
        assert any(revived) != with_lasso
        alive = [one for units in groups.values() for one in units if one not in dead]
        assert all(values_of(group, matrices_of(model)).any() for group in alive)


# --- Removal -------------------------------------------------------------------------------------


def removed(groups: dict[str, list[set[Entry]]]) -> Iterator[tuple[str, int]]:
    """A unit or two of each kind of group; with embedding columns, others of them."""
    for name, units in groups.items():
        yield name, 1
        if len(units) > 5:
            yield name, 4


@every_cell
@every_shape
@with_and_without_embedding
def test_removal_leaves_the_output_as_it_is(
    cell: Cell, shape: str, embedding: bool, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    settings = settings_of(shape, cell)
    model = model_of(settings)
    groups = by_definition(settings, embedding)
    gone = list(removed(groups))
    for name, k in gone:
        kill(model, groups[name][k])
    before = logits_of(model, ids_of(8, 3))
    parameters_before = [value.clone() for value in model.parameters()]
    smaller = remove_units(model, embedding)
    torch.testing.assert_close(logits_of(smaller, ids_of(8, 3)), before)
    assert all(map(torch.equal, parameters_before, model.parameters()))
    assert smaller.settings.weights(WORDS) < settings.weights(WORDS)
    assert {s: w.shape for s, w in smaller.sites.items()} == smaller.settings.site_shapes(WORDS)
    shapes = {name: leaf.shape for name, leaf in smaller.biases.items()}
    assert shapes == smaller.settings.bias_shapes(WORDS)
    bundle.save(tmp_path / "smaller.lmb", smaller, vocabulary)
    again = bundle.load(tmp_path / "smaller.lmb").language
    assert torch.equal(logits_of(again, ids_of(8, 3)), logits_of(smaller, ids_of(8, 3)))
    assert parse(ModelSettings, smaller.settings.plain()) == smaller.settings


def test_settings_say_what_is_left() -> None:
    def left(shape: str, embedding: bool, *gone: tuple[str, int]) -> ModelSettings:
        model = model_of(settings_of(shape, RHN(depth=1)))
        groups = by_definition(model.settings, embedding)
        for name, k in gone:
            kill(model, groups[name][k])
        return remove_units(model, embedding).settings

    first, last = ("rhn.0", 3), ("rhn.1", 2)
    assert left("untied", False).hidden == 6
    assert left("untied", False, first).hidden == (5, 6)
    assert left("untied", False, first, last).hidden == 5
    assert left("untied", True, ("embedding", 0)).embedding == 4
    assert left("untied", False, ("rhn.1", 0)).embedding == 5
    tied = left("tied", False, last)
    assert (tied.hidden, tied.embedding) == ((6, 5), 5)
    assert left("tied-unequal", True, first).hidden == (4, 6)
    projected = left("tied-to-projection", True, ("embedding", 1))
    assert (projected.hidden, projected.embedding, projected.projection) == ((5, 6), 3, (0, 3))


@pytest.mark.parametrize("shape", ["untied", "tied", "projected", "tied-to-projection"])
def test_a_layer_that_is_all_zero_keeps_a_unit(shape: str) -> None:
    """And one with a projection more than that is wide, or it would not be one."""
    model = model_of(settings_of(shape, RHN(depth=2)))
    for units in by_definition(model.settings, True).values():
        for group in units:
            kill(model, group)
    before = logits_of(model, ids_of(8, 3))
    smaller = remove_units(model, embedding=True)
    torch.testing.assert_close(logits_of(smaller, ids_of(8, 3)), before)
    projection = model.settings.projection or (0, 0)
    assert smaller.settings.units == tuple(width + 1 for width in projection)
    assert smaller.settings.embedding == 1


@pytest.mark.parametrize("gone", [{"rhn.1": 2}, {"embedding": 1, "rhn.1": 3}, {"embedding": 0}])
def test_a_decoder_projection_never_becomes_square(gone: dict[str, int]) -> None:
    """4 columns, 6 units: a model as wide as its tied embedding has no decoder.projection."""
    model = model_of(settings_of("tied-narrower", RHN(depth=2)))
    groups = by_definition(model.settings, True)
    for name, count in gone.items():
        for group in groups[name][:count]:
            kill(model, group)
    before = logits_of(model, ids_of(8, 3))
    smaller = remove_units(model, embedding=True)
    assert "decoder.projection" in smaller.settings.site_shapes(WORDS)
    torch.testing.assert_close(logits_of(smaller, ids_of(8, 3)), before)


# --- From the dense model to the smaller one -----------------------------------------------------


STRONG = {
    "proximal": {"method": "proximal", "strength": 4.0},
    "threshold": {"method": "threshold", "strength": 0.003, "threshold": 0.02},
}


@pytest.mark.parametrize("method", STRONG)
@with_and_without_embedding
def test_training_removes_units_and_leaves_the_dense_model(
    method: str, embedding: bool, make_model: MakeModel, corpus: Corpus
) -> None:
    dense = make_model(hidden=12)
    before = {name: value.clone() for name, value in parameters(dense).items()}
    settings = units_settings(**STRONG[method], embedding=embedding)
    smaller = with_fewer_units(dense, corpus.train, settings, seed=0)
    assert sum(smaller.settings.units) < 24
    assert max(smaller.settings.units) > 1
    assert (smaller.settings.embedding < 12) == embedding
    assert not smaller.training
    for name, value in parameters(dense).items():
        assert torch.equal(value, before[name])
    weak = units_settings(method=method, strength=1e-9, threshold=1e-30, embedding=embedding)
    assert with_fewer_units(dense, corpus.train, weak, seed=0).settings == dense.settings


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("method", STRONG)
def test_an_interrupted_training_goes_on_to_the_bit(
    method: str,
    make_model: MakeModel,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    file = tmp_path / "stage.safetensors"
    settings = units_settings(**STRONG[method])

    def run(stop: bool, checkpoint: Path | None) -> tuple[LanguageModel, int]:
        seen = 0

        def observe(record: TrainingRecord, updates: int) -> None:
            nonlocal seen
            seen += 1
            if stop and record.updates == updates // 2:
                raise StoppedError

        dense = make_model(hidden=12)
        model = with_fewer_units(dense, corpus.train, settings, 3, observe, checkpoint)
        return model, seen

    whole, updates = run(False, None)
    with pytest.raises(StoppedError):
        run(True, file)
    resumed, rest = run(False, file)
    assert rest == updates - updates // 2
    assert resumed.settings == whole.settings
    assert whole.settings.units != (12, 12)
    for name, value in parameters(whole).items():
        assert torch.equal(parameters(resumed)[name], value)


def test_an_average_is_refused() -> None:
    given = {**units_settings().plain()["training"], "average": 0.2}
    with pytest.raises(UserError, match=r"units\.training: .*average"):
        parse(UnitsSettings, {"strength": 0.1, "training": given}, "units")
    assert TrainingSettings.model_validate(given).average == 0.2
