"""Sampled softmax: which words are drawn, and the loss and gradients of these words alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from test_cells import CELLS
from test_loss import assert_same_gradients, case
from torch import Tensor

from lmcore.building import build
from lmcore.cells import Cell
from lmcore.errors import UserError
from lmcore.leaf import Leaf
from lmcore.loss import cross_entropy, sampled_cross_entropy
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.network import parameters
from lmcore.recipe import Recipe, resolve
from lmcore.sampling import Negatives
from lmcore.settings import parse
from lmcore.training_settings import FineTuningSettings, SampledSoftmaxSettings

PROPOSALS = ["unigram", "log_uniform"]
TEXT = torch.arange(50).repeat_interleave(
    torch.arange(50) ** 2 // 20
)  # the last words are frequent


def negatives(count: int, proposal: str = "unigram", words: int = 50) -> Negatives:
    settings = {"negatives": count, "proposal": proposal}
    return Negatives(SampledSoftmaxSettings.model_validate(settings), TEXT, words)


# --- The draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("count", [1, 7, 30, 49])
def test_so_many_words_in_the_mean_the_frequent_ones_first(proposal: str, count: int) -> None:
    inclusion = negatives(count, proposal).inclusion
    assert float(inclusion.sum()) == pytest.approx(count, rel=1e-5)
    assert 0 < float(inclusion.min()) <= float(inclusion.max()) <= 1
    by_count = inclusion[torch.bincount(TEXT, minlength=50).argsort(stable=True)]
    assert proposal != "unigram" or (by_count.diff() >= 0).all()
    assert float(by_count[-1]) == float(inclusion.max())


def test_below_one_the_chances_are_as_the_proposal() -> None:
    inclusion = negatives(30).inclusion
    ratio = inclusion / (torch.bincount(TEXT, minlength=50) + 1)
    below = inclusion < 1
    assert 5 < int(below.sum()) < 50
    torch.testing.assert_close(ratio[below], ratio[below][:1].expand(int(below.sum())))


def test_log_uniform_goes_by_the_rank_in_the_text() -> None:
    """log((rank + 2) / (rank + 1)), rank 0 being the most frequent word, here the last."""
    inclusion = negatives(1, "log_uniform").inclusion
    wanted = torch.tensor([(r + 2) / (r + 1) for r in range(50)]).log()
    torch.testing.assert_close(inclusion[-20:].flip(0) / inclusion[-1], wanted[:20] / wanted[0])


def test_words_are_drawn_as_often_as_they_say() -> None:
    torch.manual_seed(0)
    sampler, seen = negatives(20), torch.zeros(50)
    for _ in range(2000):
        drawn, log_inclusion = sampler.draw()
        assert (drawn.diff() > 0).all()
        torch.testing.assert_close(log_inclusion.exp(), sampler.inclusion[drawn])
        seen[drawn] += 1
    error = (sampler.inclusion * (1 - sampler.inclusion) / 2000).sqrt()
    assert ((seen / 2000 - sampler.inclusion).abs() <= 4 * error).all()


@pytest.mark.parametrize("count", [50, 1000])
def test_as_many_negatives_as_words_are_all_words(count: int) -> None:
    drawn, log_inclusion = negatives(count).draw()
    assert torch.equal(drawn, torch.arange(50))
    assert not log_inclusion.any()


# --- The loss ------------------------------------------------------------------------------------


def brute_force(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor], drawn: Tensor, inclusion: Tensor
) -> Tensor:
    """A prediction at a time: -log of exp(s_target) over the estimated sum."""
    z, matrix, bias, targets = inputs
    terms = []
    for row, target in zip(z, targets, strict=True):
        logits = matrix @ row + bias
        total = logits[target].exp()
        for word, chance in zip(drawn, inclusion, strict=True):
            if word != target:
                total = total + logits[word].exp() / chance
        terms.append(total.log() - logits[target])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("count", [0, 1, 12, 50])
def test_value_and_gradients(count: int) -> None:
    inputs = case()
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randperm(50, generator=generator)[:count].sort().values
    inclusion = torch.rand(count, generator=generator) * 0.9 + 0.1
    expected = [x.double().requires_grad_() for x in inputs[:3]]
    z, matrix, bias = expected
    wanted = brute_force((z, matrix, bias, inputs[3]), drawn, inclusion.double())
    torch.autograd.backward(wanted * -2.5)
    ours = z, matrix, bias = [x.clone().requires_grad_() for x in inputs[:3]]
    loss = sampled_cross_entropy(z, matrix, bias, inputs[3], drawn, inclusion.log())
    torch.autograd.backward(loss * -2.5)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5, abs=1e-6)
    assert_same_gradients(ours, expected)


def test_gradcheck() -> None:
    z, matrix, bias, targets = case(count=5, rank=3, words=7)
    drawn, log_inclusion = torch.tensor([0, 2, 3, 6]), torch.tensor([0.0, -0.5, -1.0, -2.0])

    def loss(z: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        return sampled_cross_entropy(z, matrix, bias, targets, drawn, log_inclusion.double())

    assert torch.autograd.gradcheck(loss, [x.double().requires_grad_() for x in (z, matrix, bias)])


def test_all_words_are_the_full_softmax() -> None:
    for scale in (1.0, 3e3):
        z, matrix, bias, targets = case(scale=scale)
        full = cross_entropy(z, matrix, bias, targets)
        loss = sampled_cross_entropy(z, matrix, bias, targets, torch.arange(50), torch.zeros(50))
        torch.testing.assert_close(loss, full)


def test_the_estimated_sum_is_right_in_the_mean() -> None:
    """Over all draws of 6 words, each weighted by its probability."""
    z, matrix, bias, targets = (x.double() for x in case(count=1, rank=3, words=6))
    inclusion = torch.tensor([1.0, 0.9, 0.5, 0.4, 0.2, 0.1]).double()
    logits, target = matrix @ z[0] + bias, targets.long()
    mean = 0.0
    for chosen in itertools.product([False, True], repeat=6):
        kept = torch.tensor(chosen)
        chance = torch.where(kept, inclusion, 1 - inclusion).prod()
        drawn = kept.nonzero().squeeze(1)
        loss = sampled_cross_entropy(z, matrix, bias, target, drawn, inclusion[drawn].log())
        mean += float(chance * (loss + logits[target[0]]).exp())
    assert mean == pytest.approx(float(logits.exp().sum()), rel=1e-9)


# --- Models --------------------------------------------------------------------------------------

ALL = (torch.arange(60), torch.zeros(60))
BITS: dict[str, Any] = {"kind": "uniform", "step": 0.5}
FORMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "codes": {"*": {"bits": BITS}},
    "zeros and codes": {"*": {"bits": {"kind": "kmeans", "bits": 3}, "sparsity": 0.5}},
    "svd": {"*": {"structure": {"kind": "svd", "rank": 6}, "bits": BITS, "sparsity": 0.3}},
    "tensor train": {"*": {"structure": {"kind": "tensor_train", "rank": 5}, "bits": BITS}},
}


def compressed(dense: LanguageModel, sites: dict[str, Any]) -> LanguageModel:
    recipe = Recipe.model_validate({"sites": sites})
    return build(dense, resolve(recipe, dense.settings, dense.words)).train()


def window() -> tuple[Tensor, Tensor]:
    text = torch.randint(30, (8, 3), generator=torch.Generator().manual_seed(5))
    return text[:-1], text[1:]


def each_once(*ids: Tensor) -> Tensor:
    """Ascending."""
    return torch.tensor(sorted(set(torch.cat(ids).flatten().tolist())))


def gradients_of(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    named = parameters(model)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_all_words_are_the_full_softmax(model: LanguageModel) -> None:
    ids, targets = window()
    full, after = model.loss(ids, targets, model.zero_state(3))
    sampled, also = model.sampled_loss(ids, targets, model.zero_state(3), *ALL)
    torch.testing.assert_close(sampled, full)
    torch.testing.assert_close(also, after)
    ours, theirs = gradients_of(model, sampled), gradients_of(model, full)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name].to_dense(), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sites", FORMS.values(), ids=FORMS.keys())
def test_every_form(sites: dict[str, Any], dense: LanguageModel) -> None:
    assert_all_words_are_the_full_softmax(compressed(dense, sites))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.kind)
def test_every_cell(cell: Cell, tied: bool) -> None:
    """With an embedding that is narrower than the layers, and so a projection before a tied
    decoder."""
    settings = ModelSettings(layers=2, hidden=9, embedding=7, tied=tied, cell=cell)
    model = random_model(settings, 60, 0.5, torch.Generator().manual_seed(0))
    assert_all_words_are_the_full_softmax(model)


@pytest.mark.parametrize("form", ["dense", "codes", "zeros and codes", "svd"])
def test_gradients_are_of_the_rows_that_were_seen(form: str, dense: LanguageModel) -> None:
    model = compressed(dense, FORMS[form])
    ids, targets = window()
    drawn = torch.tensor([2, 31, 47])
    loss, _ = model.sampled_loss(ids, targets, model.zero_state(3), drawn, torch.zeros(3))
    named = {id(value): name for name, value in parameters(model).items()}
    gradients = gradients_of(model, loss)
    said = each_once(targets.flatten(), drawn)
    tied = model.settings.tied
    rows = {"embedding": each_once(ids.flatten(), said) if tied else each_once(ids)}
    rows |= {} if tied else {"decoder": said}
    for site, wanted in rows.items():
        leaf: Leaf = next(iter(model.sites[site].leaves.values()))
        gradient = gradients[named[id(leaf.data)]]
        assert gradient.is_sparse
        assert torch.equal(gradient.coalesce().indices()[0], wanted)
        if leaf.mask is not None:
            assert not gradient.to_dense()[~leaf.mask].any()


# --- Settings ------------------------------------------------------------------------------------

GIVEN: dict[str, Any] = {"epochs": 1, "rate": 1.0, "dropout": {"kind": "element", "rate": 0.0}}


def test_without_it_the_settings_are_as_ever() -> None:
    assert "sampled" not in parse(FineTuningSettings, GIVEN).plain()
    plain = parse(FineTuningSettings, {**GIVEN, "sampled": {"negatives": 5}}).plain()
    assert plain["sampled"] == {"negatives": 5, "proposal": "unigram", "full": 0.1}


def test_not_with_distillation() -> None:
    given = {**GIVEN, "sampled": {"negatives": 5}, "distillation": {}}
    with pytest.raises(UserError, match=r"^finetuning: sampled: a distillation compares"):
        parse(FineTuningSettings, given, "finetuning")
    parse(FineTuningSettings, {**given, "distillation": {"mix": 0}}, "finetuning")
