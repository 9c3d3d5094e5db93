"""The contract of every cell, each found by existing; a cell needs its equations in EQUATIONS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmcore import bundle, training
from lmcore.building import build
from lmcore.cells import LSTM, Cell, State
from lmcore.corpus import Corpus, Vocabulary
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.looped_cells import RHN, RNN, Peephole
from lmcore.model import LanguageModel, dense_model, random_model
from lmcore.model_settings import ModelSettings
from lmcore.network import parameters
from lmcore.progress import TrainingRecord
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.training import train
from lmcore.training_settings import TrainingSettings
from lmcore.weight import Weight

WORDS = 60
CELLS = [LSTM(), Peephole(), RNN(), RHN(depth=1), RHN(depth=3)]
WIDTHS = {"plain": (8, 8), "unequal": (8, 6), "projected": (8, 6)}

Values = dict[str, Tensor]  # the matrices and vectors of a layer, by name


def model_of(cell: Cell, kind: str, tied: bool = False) -> LanguageModel:
    """Two layers; of equal and unequal sizes, or projected to widths of 5 and 4."""
    settings = ModelSettings(
        layers=2,
        hidden=WIDTHS[kind],
        embedding=7,
        tied=tied,
        projection=(5, 4) if kind == "projected" else (),
        cell=cell,
    )
    return random_model(settings, WORDS, 0.5, torch.Generator().manual_seed(0)).eval()


every_cell = pytest.mark.parametrize(
    "cell", CELLS, ids=lambda cell: "-".join(map(str, cell.plain().values()))
)
every_width = pytest.mark.parametrize("kind", WIDTHS)


def ids_of(time: int, batch: int, seed: int = 0) -> Tensor:
    return torch.randint(WORDS, (time, batch), generator=torch.Generator().manual_seed(seed))


def state_of(layer: Layer, batch: int) -> State:
    """A random one."""
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(value.shape, generator=generator) for value in layer.zero_state(batch))


def keep(matrix: Tensor) -> Tensor:
    """Drop nothing."""
    return matrix


def logits_of(model: LanguageModel, ids: Tensor, state: list[State] | None = None) -> Tensor:
    with torch.no_grad():
        hidden, _ = model(ids, state or model.zero_state(ids.shape[1]))
        z, matrix, bias = model.head(hidden)
        return z @ matrix.T + bias


# --- The equations, one step, as the papers have them ---------------------------------------------


def _lstm(v: Values, x: Tensor, m: Tensor, state: State) -> State:
    _, c = state
    i, f, g, o = (x @ v["input"].T + m @ v["recurrent"].T + v["bias"]).chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _peephole(v: Values, x: Tensor, m: Tensor, state: State) -> State:
    _, c = state
    w_i, w_f, w_g, w_o = v["input"].chunk(4)
    u_i, u_f, u_g, u_o = v["recurrent"].chunk(4)
    b_i, b_f, b_g, b_o = v["bias"].chunk(4)
    v_i, v_f, v_o = (torch.diag(vector) for vector in v["peephole"].chunk(3))
    i = torch.sigmoid(x @ w_i.T + m @ u_i.T + b_i + c @ v_i)
    f = torch.sigmoid(x @ w_f.T + m @ u_f.T + b_f + c @ v_f)
    o = torch.sigmoid(x @ w_o.T + m @ u_o.T + b_o + c @ v_o)
    c = f * c + i * torch.tanh(x @ w_g.T + m @ u_g.T + b_g)
    return o * torch.tanh(c), c


def _rnn(v: Values, x: Tensor, m: Tensor, state: State) -> State:
    return (torch.sigmoid(x @ v["input"].T + m @ v["recurrent"].T + v["bias"]),)


def _rhn(v: Values, x: Tensor, m: Tensor, state: State) -> State:
    (s,) = state
    depth = sum(name.startswith("bias_") for name in v)
    w_h, w_t = v["input"].chunk(2)
    for level in range(1, depth + 1):
        r_h, r_t = v[f"recurrent_{level}"].chunk(2)
        b_h, b_t = v[f"bias_{level}"].chunk(2)
        m = s @ v["projection"].T if "projection" in v else s
        first = 1.0 if level == 1 else 0.0
        h = torch.tanh(first * (x @ w_h.T) + m @ r_h.T + b_h)
        t = torch.sigmoid(first * (x @ w_t.T) + m @ r_t.T + b_t)
        s = h * t + s * (1 - t)
    return (s,)


EQUATIONS: dict[str, Callable[[Values, Tensor, Tensor, State], State]] = {
    "lstm": _lstm,
    "peephole": _peephole,
    "rnn": _rnn,
    "rhn": _rhn,
}


def by_hand(cell: Cell, v: Values, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """(time, batch, in) -> h (time, batch, hidden), the output, and the state, step by step."""
    projection = v.get("projection", torch.eye(state[0].shape[1]))
    steps = []
    for step in x:
        state = EQUATIONS[cell.kind](v, step, state[0] @ projection.T, state)
        steps.append(state[0])
    h = torch.stack(steps)
    return h, h @ projection.T, state


def test_every_cell_is_tested() -> None:
    assert set(Cell.members) == set(EQUATIONS) == {cell.kind for cell in CELLS}


@every_cell
@every_width
def test_values_and_gradients_are_those_of_the_equations(cell: Cell, kind: str) -> None:
    model = model_of(cell, kind)
    for layer in model.layers:
        values = {name: weight.dense() for name, weight in layer.weights.items()}
        values |= {name: leaf.value() for name, leaf in layer.vectors.items()}
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(6, 3, layer.weights["input"].shape[1], generator=generator)
        state = state_of(layer, 3)
        for value in (x, *state):
            value.requires_grad_()
        output, after = layer(x, state, keep)
        _, expected, expected_after = by_hand(cell, values, x, state)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(after, expected_after)
        upstream = torch.randn(output.shape, generator=generator)
        leaves = [x, *state, *layer.parameters()]
        ours, theirs = (
            torch.autograd.grad((o * upstream).sum() + sum(a.square().sum() for a in s), leaves)
            for o, s in ((output, after), (expected, expected_after))
        )
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_lstm_is_torch_s_and_peepholes_of_zero_are_none() -> None:
    torch.manual_seed(0)
    reference = nn.LSTM(7, 8)
    x, h, c = torch.randn(6, 3, 7), torch.randn(3, 8), torch.randn(3, 8)
    expected, (last_h, last_c) = reference(x, (h.unsqueeze(0), c.unsqueeze(0)))
    theirs = {name: value.detach() for name, value in reference.named_parameters()}
    matrices = {"input": theirs["weight_ih_l0"], "recurrent": theirs["weight_hh_l0"]}
    bias = theirs["bias_ih_l0"] + theirs["bias_hh_l0"]
    for cell in (LSTM(), Peephole()):
        weights = {name: Weight.of(matrix) for name, matrix in matrices.items()}
        vectors = {"bias": Leaf(bias)}
        if "peephole" in cell.vectors(8):
            vectors["peephole"] = Leaf(torch.zeros(24))
        output, after = Layer(cell, weights, vectors)(x, (h, c), keep)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(after, (last_h[0], last_c[0]))


# --- What the interface promises ------------------------------------------------------------------


@every_cell
@every_width
def test_shapes_are_the_ones_that_the_settings_say(cell: Cell, kind: str) -> None:
    model = model_of(cell, kind)
    settings = model.settings
    assert {n: w.shape for n, w in model.sites.items()} == settings.site_shapes(WORDS)
    assert {n: leaf.shape for n, leaf in model.biases.items()} == settings.bias_shapes(WORDS)
    assert sum(p.numel() for p in parameters(model).values()) == settings.weights(WORDS)
    for layer, units, width in zip(model.layers, settings.units, settings.widths, strict=True):
        assert layer.hidden == units
        assert {value.shape for value in layer.zero_state(3)} == {(3, units)}
        x = torch.zeros(5, 3, layer.weights["input"].shape[1])
        output, state = layer(x, layer.zero_state(3), keep)
        assert output.shape == (5, 3, width)
        assert {value.shape for value in state} == {(3, units)}
    assert parse(ModelSettings, settings.plain()) == settings


@every_cell
@every_width
def test_state_carries_across_windows(cell: Cell, kind: str) -> None:
    model = model_of(cell, kind)
    ids = ids_of(12, 3)
    whole, last = model(ids, model.zero_state(3))
    first, state = model(ids[:5], model.zero_state(3))
    second, state = model(ids[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, last)


@every_cell
@every_width
def test_training_without_dropout_sees_what_evaluation_sees(cell: Cell, kind: str) -> None:
    model = model_of(cell, kind)
    ids = ids_of(6, 3)
    outputs = [model.train(mode)(ids, model.zero_state(3))[0] for mode in (True, False)]
    assert torch.equal(*outputs)


@every_cell
def test_drop_acts_on_every_recurrent_matrix(cell: Cell) -> None:
    (layer, _) = model_of(cell, "projected").layers
    seen = []

    def drop(matrix: Tensor) -> Tensor:
        seen.append(matrix.shape)
        return matrix * 0

    x = torch.randn(4, 3, 7)
    dropped, _ = layer(x, state_of(layer, 3), drop)
    recurrent = [name for name in layer.weights if name.startswith("recurrent")]
    assert seen == [(cell.gates * 8, 8)] * len(recurrent)
    with torch.no_grad():
        for name in recurrent:
            layer.weights[name].leaves["matrix"].data.zero_()
    torch.testing.assert_close(dropped, layer(x, state_of(layer, 3), keep)[0])


@every_cell
@every_width
def test_inputs_of_a_site_are_what_its_matrix_is_multiplied_with(cell: Cell, kind: str) -> None:
    """For W in z = W a the gradient is the sum of (dz) a^T, and that of a bias in z is dz."""
    model = model_of(cell, kind)
    for layer in model.layers:
        names = [name for name in layer.weights if name != "projection"]
        x = torch.randn(6, 1, layer.weights["input"].shape[1])
        before = state_of(layer, 1)
        h, _ = cell.run(layer, x, before, keep)
        inputs = cell.site_inputs(layer, x, before, h)
        assert set(inputs) == set(layer.weights)
        values = {name: weight.dense() for name, weight in layer.weights.items()}
        values |= {name: leaf.value() for name, leaf in layer.vectors.items()}
        values = {name: value.detach().requires_grad_() for name, value in values.items()}
        biases = [name for name in values if name.startswith("bias")]
        for step, single in enumerate(x):
            hidden, _, after = by_hand(cell, values, single.unsqueeze(0), before)
            total = (hidden * torch.randn(hidden.shape)).sum()
            gradients = torch.autograd.grad(total, [values[name] for name in [*names, *biases]])
            first, *deeper = gradients[len(names) :]
            slopes = [first, first, *deeper]  # W x and the first recurrent product share a sum
            for name, gradient, slope in zip(names, gradients[: len(names)], slopes, strict=True):
                expected = torch.outer(slope, inputs[name][step, 0])
                torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
            before = tuple(value.detach() for value in after)
        if "projection" in inputs:
            assert torch.equal(inputs["projection"], h)


# --- Units: the rule in the docstring of Cell -----------------------------------------------------


def rows_of(unit: int, size: int, hidden: int) -> Tensor:
    """The entries k, H + k, ... among `size`."""
    return torch.arange(unit, size, hidden)


def readers(model: LanguageModel, layer: int) -> list[str]:
    """The sites that act on h of the layer."""
    prefix = f"{model.settings.cell.prefix}.{layer}."
    own = [site for site in model.sites if site.startswith(prefix)]
    if f"{prefix}projection" in own:
        return [f"{prefix}projection"]
    if layer + 1 < model.settings.layers:
        after = f"{model.settings.cell.prefix}.{layer + 1}.input"
    elif not model.settings.tied:
        after = "decoder"
    else:
        after = "decoder.projection"
    return [*(site for site in own if not site.endswith(".input")), after]


def writers(model: LanguageModel, layer: int) -> dict[str, Leaf]:
    """The matrices and vectors whose entries k, H + k, ... are of the layer's unit k."""
    prefix = f"{model.settings.cell.prefix}.{layer}."
    named = {site: weight.leaves["matrix"] for site, weight in model.sites.items()}
    named |= model.biases
    return {n: v for n, v in named.items() if n.startswith(prefix) and "projection" not in n}


@every_cell
@every_width
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_unit_that_nothing_reads_is_as_good_as_deleted(
    cell: Cell, kind: str, tied: bool, layer: int
) -> None:
    unit, ids = 2, ids_of(9, 3)
    model = model_of(cell, kind, tied)
    hidden = model.layers[layer].hidden
    state = [state_of(each, 3) for each in model.layers]
    with torch.no_grad():
        for name, leaf in writers(model, layer).items():
            if name in model.sites:
                leaf.data[rows_of(unit, len(leaf.data), hidden)] = 0
        for site in readers(model, layer):
            model.sites[site].leaves["matrix"].data[:, unit] = 0
    before = logits_of(model, ids, state)

    with torch.no_grad():  # the output does not depend on it, whatever it does
        for leaf in writers(model, layer).values():
            rows = rows_of(unit, len(leaf.data), hidden)
            leaf.data[rows] = torch.randn(leaf.data[rows].shape)
    other = [tuple(value.clone() for value in each) for each in state]
    for value in other[layer]:
        value[:, unit] = 3.0
    torch.testing.assert_close(logits_of(model, ids, other), before)

    kept = torch.arange(hidden) != unit
    smaller = [tuple(v[:, kept] for v in s) if i == layer else s for i, s in enumerate(state)]
    deleted = without(model, layer, unit)
    assert deleted.layers[layer].hidden == hidden - 1
    torch.testing.assert_close(logits_of(deleted, ids, smaller), before)


def without(model: LanguageModel, layer: int, unit: int) -> LanguageModel:
    """The model with a unit of a layer deleted."""
    settings, hidden = model.settings, model.layers[layer].hidden
    matrices = {site: weight.dense().detach() for site, weight in model.sites.items()}
    vectors = {name: leaf.value().detach() for name, leaf in model.biases.items()}
    for name in writers(model, layer):
        values = matrices if name in matrices else vectors
        kept = torch.ones(len(values[name]), dtype=torch.bool)
        kept[rows_of(unit, len(kept), hidden)] = False
        values[name] = values[name][kept]
    for site in readers(model, layer):
        matrices[site] = matrices[site][:, torch.arange(hidden) != unit]
    units = tuple(n - (i == layer) for i, n in enumerate(settings.units))
    biases = {name: Leaf(vector) for name, vector in vectors.items()}
    return dense_model(settings.model_copy(update={"hidden": units}), matrices, biases)


# --- Every compression method at every cell -------------------------------------------------------

RECIPES: dict[str, dict[str, Any]] = {
    "svd": {"structure": {"kind": "svd", "rank": 2}, "bits": "float16"},
    "kmeans": {"bits": {"kind": "kmeans", "bits": 3}},
    "uniform": {"bits": {"kind": "uniform", "step": 0.7}},
    "sparsity": {"sparsity": 0.6, "bits": "float16"},
    "all": {
        "structure": {"kind": "svd", "rank": 2},
        "sparsity": 0.3,
        "bits": {"kind": "uniform", "step": 0.5},
    },
}


def compressed(dense: LanguageModel, name: str) -> LanguageModel:
    recipe = Recipe.model_validate({"sites": {"*": RECIPES[name]}})
    return build(dense, resolve(recipe, dense.settings, dense.words)).eval()


@every_cell
@every_width
@pytest.mark.parametrize("name", RECIPES)
def test_a_compressed_model_comes_back_to_the_bit(
    cell: Cell, kind: str, name: str, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = compressed(model_of(cell, kind), name)
    size = bundle.save(tmp_path / "model.lmb", model, vocabulary)
    loaded = bundle.load(tmp_path / "model.lmb")
    assert loaded.model.settings == model.settings
    recipe = Recipe.model_validate({"sites": {"*": RECIPES[name]}})
    recipe = resolve(recipe, model.settings, model.words)
    assert size <= bundle.packed_size(recipe, model.settings, vocabulary)
    for site, weight in model.sites.items():
        assert torch.equal(loaded.model.sites[site].dense(), weight.dense()), site
    for bias, leaf in model.biases.items():
        assert torch.equal(loaded.model.biases[bias].value(), leaf.value()), bias
    ids = ids_of(6, 3)
    assert torch.equal(logits_of(loaded.language, ids), logits_of(model, ids))


# --- Training -------------------------------------------------------------------------------------


def settings_of(**given: Any) -> TrainingSettings:
    default = {"epochs": 1, "batch": 5, "window": 15, "optimizer": "adam", "rate": 0.01}
    dropout = {"kind": "sequence", "rate": 0.1, "rows": 0.05, "recurrent": 0.1}
    return TrainingSettings.model_validate({**default, "dropout": dropout, **given})


@pytest.mark.slow
@every_cell
def test_every_cell_learns(cell: Cell, corpus: Corpus) -> None:
    settings = ModelSettings(layers=1, hidden=24, embedding=24, tied=True, cell=cell)
    model = random_model(settings, WORDS, 0.2, torch.Generator().manual_seed(0))
    before = score(model, corpus.valid, corpus.vocabulary.eos).value
    train(model, corpus.train, settings_of(epochs=12), seed=0)
    assert score(model, corpus.valid, corpus.vocabulary.eos).value < 0.6 * before


class StoppedError(Exception):
    pass


@pytest.mark.slow
@every_cell
def test_training_goes_on_to_the_bit(
    cell: Cell, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)

    def observe(record: TrainingRecord, updates: int) -> None:
        if record.updates == updates // 2:
            raise StoppedError

    models = [compressed(model_of(cell, "projected"), "all") for _ in range(3)]
    train(models[0], corpus.train, settings_of(), seed=0)
    file = tmp_path / "training.safetensors"
    with pytest.raises(StoppedError):
        train(models[1], corpus.train, settings_of(), 0, observe=observe, checkpoint=file)
    assert file.exists()
    updates: list[int] = []
    train(
        models[2],
        corpus.train,
        settings_of(),
        seed=0,
        observe=lambda record, _: updates.append(record.updates),
        checkpoint=file,
    )
    assert len(updates) == updates[-1] - updates[-1] // 2
    whole, _, resumed = map(parameters, models)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# --- Settings -------------------------------------------------------------------------------------


def model_settings(cell: Any) -> ModelSettings:
    size = {"layers": 1, "hidden": 8, "embedding": 8, "tied": False}
    return parse(ModelSettings, {**size, "cell": cell}, "model")


def test_a_cell_is_named_and_the_lstm_is_the_default() -> None:
    assert model_settings("rhn").cell == RHN(depth=5)
    assert model_settings({"kind": "rhn", "depth": 2}).plain()["cell"] == {
        "kind": "rhn",
        "depth": 2,
    }
    assert "cell" not in model_settings("lstm").plain()
    assert list(model_settings({"kind": "rhn", "depth": 2}).site_shapes(WORDS)) == [
        "embedding",
        *["rhn.0.input", "rhn.0.recurrent_1", "rhn.0.recurrent_2"],
        "decoder",
    ]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("gru", ["model.cell", "lstm, peephole, rhn, rnn"]),
        ({"kind": "rhn", "depth": 0}, ["model.cell.depth", "0"]),
        ({"kind": "lstm", "depth": 2}, ["model.cell.depth"]),
    ],
)
def test_what_is_wrong_with_a_cell_is_said(cell: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        model_settings(cell)
    for word in words:
        assert word in str(error.value)
