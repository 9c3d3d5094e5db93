"""Multiples of a step: whose code lengths, which words' steps, and what a training is pulled to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import MakeModel
from torch import Tensor

from lmcore.building import build
from lmcore.bundle import leaf_bytes, pack
from lmcore.calibration import Calibration
from lmcore.codec import Codec, Codes, Evidence
from lmcore.compress.uniform import Uniform, _Rule
from lmcore.corpus import Corpus
from lmcore.leaf import Leaf
from lmcore.recipe import Recipe, resolve
from lmcore.training import train
from lmcore.training_settings import FineTuningSettings


def skewed(rows: int = 300, columns: int = 40) -> Tensor:
    """Rows and columns of very different sizes, as an embedding along its axes has."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(0, -2, rows).unsqueeze(1) * torch.logspace(0, -1.5, columns)
    return torch.randn(rows, columns, generator=generator) * sizes


def test_settings_that_came_later_are_left_out_of_keys() -> None:
    assert Uniform(step=1.0).plain().keys() == {"kind", "step", "rounding", "scope"}


# --- The cheapest codes --------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("contexts", [1, 5])
def test_a_rule_finds_the_cheapest_code(weight: float, contexts: int) -> None:
    generator = torch.Generator().manual_seed(1)
    costs = weight * torch.rand(contexts, 128, generator=generator) * 10
    scaled = torch.randn(500, generator=generator) * 20
    context = torch.randint(contexts, (500,), generator=generator)
    every = torch.arange(-127, 128)
    price = (scaled.unsqueeze(1) - every) ** 2 + costs[context][:, every.abs()]
    found = _Rule(costs)(scaled, context if contexts > 1 else None).long()
    chosen = price.gather(1, (found + 127).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, price.amin(1), rtol=1e-4, atol=1e-4)


def test_a_rule_looks_up_what_a_search_among_all_thresholds_finds() -> None:
    """Also where thresholds are nearly or quite equal, and for values that are none."""
    costs = 0.05 * torch.arange(128.0).unsqueeze(0)
    costs[0, 1::2] += 0.999  # two thresholds in a cell
    rule, scaled = _Rule(costs), torch.linspace(-200, 200, 40_001)
    assert len(rule.thresholds) == 2
    thresholds = rule.thresholds[rule.thresholds.isfinite()].sort().values
    expected = rule.levels[torch.bucketize(scaled.abs(), thresholds)] * scaled.sign()
    assert torch.equal(rule(scaled), expected.short())
    assert rule(torch.tensor([torch.inf, -torch.inf, 0.0])).tolist() == [127, -127, 0]
    assert rule(torch.tensor([torch.nan])).abs() <= 127


def test_lengths_by_context_cost_less_for_the_same_error() -> None:
    """At the step and the rounding where the error is alike, the codes take fewer bits."""
    data, found = skewed(), {}
    for lengths in ("matrix", "context"):
        for rounding in (0.05, 0.1, 0.2):
            codec = Uniform.model_validate({"step": 0.7, "rounding": rounding, "lengths": lengths})
            codes = codec.assign(data, None, None)
            error = float((codec.decode(codes) - data).square().sum())
            found[lengths, rounding] = (_file_bytes(codec, data), error)
    for rounding in (0.05, 0.1, 0.2):
        (size, error), (other_size, other_error) = (
            found[lengths, rounding] for lengths in ("context", "matrix")
        )
        assert size * error < other_size * other_error, rounding


def _file_bytes(codec: Codec, data: Tensor) -> int:
    return leaf_bytes(Leaf(data, codec).eval())


# --- Steps by frequency --------------------------------------------------------------------------


def test_frequent_words_have_finer_steps_in_powers_of_two() -> None:
    data = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    counts = torch.tensor([0, 6, 70, 630, 6390, 0])
    plain, finer = Uniform(step=0.5), Uniform(step=0.5, frequency=1.0)
    (step,) = plain.assign(data, None, None).tables["step"].flatten().tolist()
    codes = finer.assign(data, None, None, Evidence(counts=counts))
    steps = finer.steps(codes.tables).flatten()
    octaves = (steps / step).log2()
    assert torch.equal(octaves, octaves.round())
    exact = (counts + 10.0) ** -0.5
    exact *= step / exact.square().mean().sqrt()
    assert ((steps / exact).log2().abs() <= 0.5).all()
    torch.testing.assert_close(finer.decode(codes) / steps.unsqueeze(1), codes.symbols.float())


def test_without_counts_all_steps_are_alike() -> None:
    data = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    plain, finer = Uniform(step=0.5), Uniform(step=0.5, frequency=1.0)
    assert torch.equal(
        plain.decode(plain.assign(data, None, None)), finer.decode(finer.assign(data, None, None))
    )


@pytest.mark.parametrize("structure", ["dense", {"kind": "svd", "rank": 4}])
def test_words_get_their_steps_where_rows_are_words(
    structure: Any, make_model: MakeModel, corpus: Corpus
) -> None:
    dense, words = make_model(tied=True), len(corpus.vocabulary)
    bits = {"kind": "uniform", "step": 1.0, "frequency": 1.0}
    given = {"sites": {"*": {"structure": structure, "bits": bits}}}
    recipe = resolve(Recipe.model_validate(given), dense.settings, words)
    text = torch.cat([torch.zeros(3000, dtype=torch.int64), torch.arange(words)])
    model = build(dense, recipe, Calibration(dense, text)).eval()
    varied = {
        f"{site}/{name}": bool(leaf.codes().tables["octaves"].any())
        for site, weight in model.sites.items()
        for name, leaf in weight.leaves.items()
    }
    named = "embedding/matrix" if structure == "dense" else "embedding/left"
    assert varied == {name: name == named for name in varied}


# --- Entropy-penalised training ------------------------------------------------------------------


def bits_of(symbols: Tensor) -> dict[int, float]:
    """Magnitude -> bits, by the definition: half a count more of each of 128 magnitudes, a sign."""
    counts = [float((symbols.abs() == k).sum()) + 0.5 for k in range(128)]
    return {
        k: -float(torch.tensor(count / sum(counts)).log2()) + (k > 0)
        for k, count in enumerate(counts)
    }


def test_the_pull_is_the_slope_of_the_bits() -> None:
    data = torch.randn(20, 30, generator=torch.Generator().manual_seed(3))
    codec = Uniform(step=0.8, rate_penalty=2e-3)
    codes: Codes = codec.assign(data, None, None)
    pull, bits = codec.pull(codes), bits_of(codes.symbols)
    assert pull is not None
    step = float(codes.tables["step"])
    for symbol, moved in zip(
        codes.symbols.flatten().tolist(), pull.values.flatten().tolist(), strict=True
    ):
        saved = max(0.0, bits[abs(symbol)] - bits[abs(symbol) - 1]) if symbol else 0.0
        assert moved == pytest.approx(-2e-3 * saved / step * (symbol > 0 or -1), rel=1e-4)
    assert float(pull.values.abs().max()) * pull.most == pytest.approx(step / codec.refresh_updates)
    assert Uniform(step=0.8).pull(codes) is None


@pytest.mark.parametrize("lengths", ["matrix", "context"])
def test_a_penalised_training_gives_a_smaller_file(
    lengths: str, make_model: MakeModel, corpus: Corpus
) -> None:
    dense, sizes = make_model(), []
    for penalty in (0.0, 3e-4, 1.0):
        bits = {"kind": "uniform", "step": 0.5, "rate_penalty": penalty, "lengths": lengths}
        recipe = resolve(
            Recipe.model_validate({"sites": {"*": {"bits": bits}}}),
            dense.settings,
            len(corpus.vocabulary),
        )
        model = build(dense, recipe)
        settings = FineTuningSettings.model_validate(
            {"epochs": 3, "batch": 5, "window": 15, "rate": 1.0, "clip": 1.0}
            | {"dropout": {"kind": "element", "rate": 0.0}}
        )
        train(model, corpus.train, settings, seed=0)
        sizes.append(len(pack(model.eval(), corpus.vocabulary)))
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 0.96 * sizes[0]
