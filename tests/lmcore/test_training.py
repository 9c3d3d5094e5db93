"""Training follows its schedule, learns, and goes on where it was interrupted, to the bit."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from safetensors import safe_open
from safetensors.torch import save
from test_loss import plain_distillation
from torch import Tensor

from lmcore import training
from lmcore.building import build
from lmcore.compress.sparsity import magnitude_mask
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.network import Network, parameters
from lmcore.progress import DivergedError, Observer, Regularizer, TrainingRecord, ignore
from lmcore.recipe import Recipe, resolve
from lmcore.training import train
from lmcore.training_settings import FineTuningSettings, Linear, Stepped, TrainingSettings

UPDATES = 19  # windows of 15 tokens in 1500 tokens cut into 5 streams


def make_settings(**given: Any) -> FineTuningSettings:
    default = {"epochs": 2, "batch": 5, "window": 15, "rate": 1.0, "clip": 1.0}
    dropout = {"dropout": {"kind": "element", "rate": 0.2, "rows": 0.1}}
    return FineTuningSettings.model_validate({**default, **dropout, **given})


PLAIN: dict[str, Any] = {"dropout": {"kind": "element", "rate": 0.0}}
SGD = {"optimizer": "sgd", "rate": 20.0}
ADAM = {"optimizer": "adam", "rate": 0.01}


def weights_of(model: LanguageModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters(model).items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, other[name]) for name, value in one.items())


# --- Schedules and steps -------------------------------------------------------------------------


def test_stepped_gives_zaremba_s_rates() -> None:
    """Small: 13 epochs, 4 at full rate, then halved; medium: 39, 6, / 1.2 each."""
    small = Stepped(hold=4, factor=0.5)
    assert [small.scale(e, 13) for e in range(13)] == [1.0] * 4 + [0.5**n for n in range(1, 10)]
    assert small.scale(3.99, 13) == 1
    assert small.scale(4.5, 13) == small.scale(4.99, 13) == 0.5
    medium = Stepped(hold=6, factor=1 / 1.2)
    assert medium.scale(5, 39) == 1
    assert medium.scale(38, 39) == pytest.approx(1.2**-33)


def test_linear_holds_and_then_falls_to_the_final_rate() -> None:
    assert [Linear().scale(e, 4) for e in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    held = Linear(hold=0.5, final=0.2)
    assert [held.scale(e, 4) for e in (0, 1, 2, 3, 4)] == pytest.approx([1, 1, 1, 0.6, 0.2])
    assert Linear(final=1.0).scale(1.7, 2) == 1


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [
        ({"kind": "stepped", "hold": 1, "factor": 0.5}, [1] * UPDATES + [0.5] * UPDATES),
        ({"kind": "linear"}, [1 - update / (2 * UPDATES) for update in range(2 * UPDATES)]),
    ],
)
def test_each_update_is_as_long_as_rate_schedule_and_clip_say(
    schedule: dict[str, Any], scales: list[float], make_model: MakeModel, corpus: Corpus
) -> None:
    model, lengths = make_model(), []
    before = weights_of(model)

    def observe(record: TrainingRecord, updates: int) -> None:
        nonlocal before
        assert updates == 2 * UPDATES
        after = weights_of(model)
        moves = [(after[name] - before[name]).flatten() for name in after]
        lengths.append(float(torch.cat(moves).norm()))
        before = after

    settings = make_settings(schedule=schedule, rate=2.0, clip=0.01)
    train(model, corpus.train, settings, seed=0, observe=observe)
    assert lengths == pytest.approx([0.02 * scale for scale in scales], rel=0.02)


def test_plain_sgd_equals_a_loop_by_hand(make_model: MakeModel, corpus: Corpus) -> None:
    """Two epochs of three windows: the state is carried within an epoch and starts it at zero."""
    model, other = make_model(), make_model()
    settings = make_settings(rate=5.0, clip=1e6, weight_decay=0.01, **PLAIN)
    record = train(model, corpus.train[:230], settings, seed=0)
    assert (record.updates, record.tokens) == (6, 450)
    text = corpus.train[:230].view(5, 46).T
    for update in range(6):
        if update % 3 == 0:
            state = other.zero_state(5)
        first = update % 3 * 15
        window = text[first : first + 16]
        loss, state = other.loss(window[:-1], window[1:], state)
        state = [(h.detach(), c.detach()) for h, c in state]
        values = list(parameters(other).values())
        rate = 5.0 * (1 - update / 6)
        with torch.no_grad():
            for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
                value.copy_(value * (1 - rate * 0.01) - rate * gradient)
    for name, value in parameters(other).items():
        torch.testing.assert_close(parameters(model)[name], value)


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("kind", ["element", "sequence"])
def test_training_learns(
    given: dict[str, Any], kind: str, make_model: MakeModel, corpus: Corpus
) -> None:
    model = make_model()
    before = score(model, corpus.valid, corpus.vocabulary.eos).value
    dropout = {"kind": kind, "rate": 0.1, "rows": 0.05}
    train(model, corpus.train, make_settings(epochs=12, dropout=dropout, **given), seed=0)
    assert not model.training
    assert score(model, corpus.valid, corpus.vocabulary.eos).value < 0.5 * before


def test_same_seed_same_weights(make_model: MakeModel, corpus: Corpus) -> None:
    models = [make_model() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        torch.rand(seed + len(models))  # what was drawn before plays no part
        train(model, corpus.train, make_settings(epochs=0.5), seed)
    first, second, third = map(weights_of, models)
    assert_equal(first, second)
    assert differ(first, third)


def test_validation_after_each_whole_epoch(make_model: MakeModel, corpus: Corpus) -> None:
    answers = iter([30.0, 20.0, 10.0])
    settings = make_settings(epochs=2.5, **PLAIN)
    record = train(make_model(), corpus.train, settings, 0, validate=lambda _: next(answers))
    assert record.valid_measures == [30.0, 20.0]
    assert record.updates == round(2.5 * UPDATES)


@pytest.mark.parametrize("is_better", [True, False])
def test_the_average_is_taken_where_it_validates_better(
    is_better: bool, make_model: MakeModel, corpus: Corpus
) -> None:
    model, seen = make_model(), []
    answers = iter([9.0, 5.0, 4.0 if is_better else 6.0])  # after the epoch, the last, the mean
    record = train(
        model,
        corpus.train,
        make_settings(epochs=1, average=0.3),
        seed=0,
        validate=lambda _: next(answers),
        observe=lambda *_: seen.append(weights_of(model)),
    )
    assert record.averaged == is_better
    last = seen[-round(0.3 * UPDATES) :]
    for name, value in weights_of(model).items():
        mean = torch.stack([weights[name] for weights in last]).mean(0)
        torch.testing.assert_close(value, mean if is_better else last[-1][name])


def test_a_fine_tuning_takes_the_average_at_the_end_of_each_part(
    make_model: MakeModel, corpus: Corpus
) -> None:
    """The one that a dense training takes if it validates better; the next part goes on from it."""
    judged, rung, whole = make_model(), make_model(), make_model()
    answers = iter([9.0, 5.0, 4.0])  # after the epoch, the last, the mean
    one_part = make_settings(epochs=1, average=0.3)
    train(judged, corpus.train, one_part, seed=0, validate=lambda _: next(answers))
    train(rung, corpus.train, one_part, seed=0)
    assert_equal(weights_of(rung), weights_of(judged))
    seen = [dict[str, Tensor]()]
    train(
        whole,
        corpus.train,
        make_settings(epochs=2, rungs=(1,), average=0.3),
        seed=0,
        observe=lambda *_: seen.append(weights_of(whole)),
    )
    assert_equal(seen[UPDATES], weights_of(rung))
    step, other = (
        torch.cat([(seen[n][name] - value).flatten() for name, value in seen[UPDATES].items()])
        for n in (UPDATES + 1, UPDATES - 1)
    )
    assert step.norm() < 1.001  # one clipped update at rate 1
    assert other.norm() > 0


# --- Sampled softmax -----------------------------------------------------------------------------

SAMPLED: dict[str, Any] = {"sampled": {"negatives": 20, "full": 0.25}}


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
def test_with_all_words_sampling_trains_as_full_softmax(
    given: dict[str, Any], make_model: MakeModel, corpus: Corpus
) -> None:
    words = len(corpus.vocabulary)
    models = [make_model(tied=True, words=words) for _ in range(2)]
    for model, more in zip(models, ({"sampled": {"negatives": words}}, {}), strict=True):
        train(model, corpus.train, make_settings(epochs=0.5, **PLAIN, **given, **more), seed=0)
    ours, theirs = map(weights_of, models)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def test_sampled_training_learns(make_model: MakeModel, corpus: Corpus) -> None:
    model = make_model()
    before = score(model, corpus.valid, corpus.vocabulary.eos).value
    many = {"sampled": {"negatives": 40, "full": 0.25}}
    train(model, corpus.train, make_settings(epochs=12, **SGD, **many), seed=0)
    assert score(model, corpus.valid, corpus.vocabulary.eos).value < 0.5 * before


@pytest.mark.parametrize(
    ("rungs", "full"),
    [((), range(30, 40)), ((0.5, 1.2), [*range(8, 10), *range(20, 24), *range(36, 40)])],
    ids=["one part", "rungs"],
)
def test_the_last_share_of_each_part_is_full_softmax(
    rungs: tuple[float, ...],
    full: range | list[int],
    make_model: MakeModel,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two epochs of 20 windows; a rung after 10 updates, one after 24."""
    model, done = make_model(), 0
    seen: list[int] = []
    loss = model.loss

    def noted(ids: Tensor, targets: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        seen.append(done)
        return loss(ids, targets, state)

    monkeypatch.setattr(model, "loss", noted)

    def observe(record: TrainingRecord, updates: int) -> None:
        nonlocal done
        done = record.updates

    settings = make_settings(rungs=rungs, window=14, **SAMPLED)
    assert train(model, corpus.train[:1405], settings, 0, observe=observe).updates == 40
    assert seen == list(full)


def test_rows_that_no_update_saw_decay_every_32_updates(make_model: MakeModel) -> None:
    model, seen = make_model(tied=True), []
    leaf = model.sites["embedding"].leaves["matrix"]
    start = leaf.data.detach().clone()
    settings = make_settings(
        rate=2.0,
        weight_decay=0.01,
        schedule={"kind": "linear", "final": 1.0},
        **PLAIN,
        sampled={"negatives": 1, "full": 0.0},
    )
    train(
        model,
        torch.arange(1500) * 7 % 30,  # of 60 words
        settings,
        seed=0,
        observe=lambda *_: seen.append(leaf.data.detach().clone()),
    )
    kept = (seen[-1] / start)[30:]  # those but the few that were drawn are as one number
    assert float(kept.median()) == pytest.approx((1 - 0.02) ** 64, rel=1e-4)
    assert torch.equal((seen[0] / start)[30:].median(), (seen[31] / start)[30:].median())


# --- Compressed models ---------------------------------------------------------------------------

COMPRESSED = {
    "sites": {
        "lstm.*": {"bits": {"kind": "uniform", "step": 0.8}, "sparsity": 0.5},
        "embedding": {"bits": {"kind": "kmeans", "bits": 3}, "sparsity": 0.6},
        "decoder": {"structure": {"kind": "svd", "rank": 6}, "bits": "float16"},
    }
}


def make_compressed(make_model: MakeModel) -> LanguageModel:
    dense = make_model()
    return build(dense, resolve(Recipe.model_validate(COMPRESSED), dense.settings, dense.words))


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
def test_zeros_stay_zero(given: dict[str, Any], make_model: MakeModel, corpus: Corpus) -> None:
    model = make_compressed(make_model)
    before = {name: leaf.value().clone() for name, leaf in masked(model).items()}
    settings = make_settings(average=0.5, weight_decay=0.001, **given)
    train(model, corpus.train, settings, 0, validate=lambda _: 1.0)
    assert len(before) == 5
    for name, leaf in masked(model).items():
        assert leaf.mask is not None
        assert not leaf.data[~leaf.mask].any()
        assert not leaf.value()[~leaf.mask].any()
        assert not torch.equal(leaf.value(), before[name])


def test_a_trained_model_does_not_outlive_its_use(make_model: MakeModel, corpus: Corpus) -> None:
    """A worker trains one model after the other: none may stay in memory, kept by its graph."""
    model = make_compressed(make_model)
    train(model, corpus.train, make_settings(epochs=0.2), 0)
    kept = [weakref.ref(leaf) for weight in model.sites.values() for leaf in weight.leaves.values()]
    assert len(kept) > 5
    del model
    gc.collect()
    assert [leaf() for leaf in kept] == [None] * len(kept)


def masked(model: LanguageModel) -> dict[str, Any]:
    leaves = {(s, n): leaf for s, w in model.sites.items() for n, leaf in w.leaves.items()}
    return {"/".join(key): leaf for key, leaf in leaves.items() if leaf.mask is not None}


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.001])
def test_codes_are_refreshed_every_sixteen_updates(
    given: dict[str, Any], weight_decay: float, make_model: MakeModel, corpus: Corpus
) -> None:
    model = make_compressed(make_model)
    leaf = model.sites["embedding"].leaves["matrix"]
    values: list[Tensor] = []
    train(
        model,
        corpus.train,
        make_settings(epochs=3, weight_decay=weight_decay, **given),
        seed=0,
        observe=lambda *_: values.append(leaf.value().detach().clone()),
    )
    changes = [
        update
        for update in range(2, len(values) + 1)
        if not torch.equal(values[update - 1], values[update - 2])
    ]
    assert changes == [16, 32, 48]


# --- Distillation --------------------------------------------------------------------------------

TAUGHT: dict[str, Any] = {"distillation": {"temperature": 3.0, "mix": 0.6}}


def make_teacher(make_model: MakeModel, hidden: int = 16) -> LanguageModel:
    """Of another size than the student, and sure of what it says."""
    return make_model(layers=1, hidden=hidden, init=0.8)


def test_distillation_equals_a_loop_by_hand(make_model: MakeModel, corpus: Corpus) -> None:
    """The teacher reads the same windows without dropout, its state carried as the model's is."""
    model, other, teacher = make_model(), make_model(), make_teacher(make_model)
    teacher.dropout.rate = 0.5
    settings = make_settings(
        rate=5.0, clip=1e6, schedule={"kind": "linear", "final": 1.0}, **PLAIN, **TAUGHT
    )
    train(model, corpus.train[:230], settings, seed=0, teacher=teacher)
    teacher.eval()
    text = corpus.train[:230].view(5, 46).T
    for update in range(6):
        if update % 3 == 0:
            state, their_state = other.zero_state(5), teacher.zero_state(5)
        window = text[update % 3 * 15 :][:16]
        with torch.no_grad():
            hidden, their_state = teacher(window[:-1], their_state)
            theirs = logits_of(teacher, hidden)
        hidden, state = other(window[:-1], state)
        state = [(h.detach(), c.detach()) for h, c in state]
        loss = plain_distillation(
            logits_of(other, hidden), window[1:].flatten(), theirs, temperature=3.0, mix=0.6
        )
        values = list(parameters(other).values())
        with torch.no_grad():
            for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
                value.sub_(5.0 * gradient)
    for name, value in parameters(other).items():
        torch.testing.assert_close(parameters(model)[name], value, rtol=1e-4, atol=1e-5)


def logits_of(model: LanguageModel, hidden: Tensor) -> Tensor:
    z, matrix, bias = model.head(hidden)
    return z @ matrix.T + bias


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("rate", [1.0, 1e37], ids=["finished", "diverged"])
def test_the_teacher_stays_as_it_is(
    mode: bool, rate: float, make_model: MakeModel, corpus: Corpus
) -> None:
    teacher = make_compressed(make_model).train(mode)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    flags = [(module.training, parameter_flags(module)) for module in teacher.modules()]
    try:
        settings = make_settings(rate=rate, **TAUGHT)
        train(make_model(), corpus.train, settings, seed=0, teacher=teacher)
    except DivergedError:
        assert rate == 1e37
    assert_equal(teacher.state_dict(), before)
    assert [(module.training, parameter_flags(module)) for module in teacher.modules()] == flags


def parameter_flags(module: torch.nn.Module) -> list[tuple[bool, bool]]:
    return [(value.requires_grad, value.grad is None) for value in module.parameters()]


def test_distillation_and_a_teacher_go_together(make_model: MakeModel, corpus: Corpus) -> None:
    for given, teacher in ((TAUGHT, None), ({}, make_model())):
        with pytest.raises(ValueError, match="teacher"):
            train(make_model(), corpus.train, make_settings(**given), 0, teacher=teacher)


# --- Regularizers --------------------------------------------------------------------------------


class Calls:
    """A regularizer that notes how it is called and does nothing."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.progress: list[float] = []

    def penalty(self) -> Tensor:
        assert torch.is_grad_enabled()
        return torch.zeros(())

    def after_update(self, rate: float, progress: float) -> None:
        assert not torch.is_grad_enabled()
        self.rates.append(rate)
        self.progress.append(progress)


class Pull(Calls):
    """strength |w|^2 over all weights, and the small ones zero."""

    def __init__(self, model: LanguageModel, strength: float, threshold: float = 0.0) -> None:
        super().__init__()
        self.values = list(parameters(model).values())
        self.strength, self.threshold = strength, threshold

    def penalty(self) -> Tensor:
        return self.strength * torch.stack([value.square().sum() for value in self.values]).sum()

    def after_update(self, rate: float, progress: float) -> None:
        for value in self.values:
            value.mul_(value.abs() >= self.threshold)


class Prune(Calls):
    """Magnitude masks that leave out more and more, in eight steps, whatever the leaf had."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        weights = model.sites.values()
        self.leaves = [leaf for weight in weights for leaf in weight.leaves.values()]

    def after_update(self, rate: float, progress: float) -> None:
        sparsity = 0.7 * int(8 * progress) / 8
        for leaf in self.leaves if sparsity else []:
            leaf.mask = magnitude_mask(leaf.data, sparsity)


def test_a_regularizer_is_told_rate_and_progress(make_model: MakeModel, corpus: Corpus) -> None:
    regularizer = Calls()
    model, other = make_model(), make_model()
    train(model, corpus.train, make_settings(), 0, regularizer=regularizer)
    updates = 2 * UPDATES
    assert regularizer.rates == pytest.approx([1 - n / updates for n in range(updates)])
    assert regularizer.progress == pytest.approx([(n + 1) / updates for n in range(updates)])
    assert regularizer.progress[-1] == 1
    train(other, corpus.train, make_settings(), 0)
    assert_equal(weights_of(model), weights_of(other))


def test_a_pull_is_weight_decay(make_model: MakeModel, corpus: Corpus) -> None:
    pulled, decayed = make_model(), make_model()
    settings = make_settings(clip=1e6)
    train(pulled, corpus.train, settings, 0, regularizer=Pull(pulled, 0.005))
    settings = settings.model_copy(update={"weight_decay": 0.01})
    train(decayed, corpus.train, settings, 0)
    for name, value in weights_of(decayed).items():
        torch.testing.assert_close(weights_of(pulled)[name], value, rtol=1e-4, atol=1e-5)


def test_the_penalty_is_no_part_of_the_loss_that_is_looked_at(
    make_model: MakeModel, corpus: Corpus
) -> None:
    class Infinite(Calls):
        def penalty(self) -> Tensor:
            return torch.tensor(float("inf"))

    model, other = make_model(), make_model()
    train(model, corpus.train, make_settings(), 0, regularizer=Infinite())
    train(other, corpus.train, make_settings(), 0)
    assert_equal(weights_of(model), weights_of(other))


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_threshold_is_seen_by_the_next_step(
    given: dict[str, Any], make_model: MakeModel, corpus: Corpus
) -> None:
    model = make_model()
    zeros = []

    def observe(record: TrainingRecord, updates: int) -> None:
        values = torch.cat([value.flatten() for value in weights_of(model).values()])
        assert not ((values != 0) & (values.abs() < 0.05)).any()
        zeros.append(float((values == 0).float().mean()))

    train(
        model,
        corpus.train,
        make_settings(**given),
        seed=0,
        observe=observe,
        regularizer=Pull(model, 0.001, threshold=0.05),
    )
    assert zeros[0] > 0.1


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("better", [0.5, 2.0], ids=["average", "last"])
@pytest.mark.parametrize("compressed", [False, True], ids=["dense", "compressed"])
def test_masks_that_change_keep_their_zeros(
    given: dict[str, Any], better: float, compressed: bool, make_model: MakeModel, corpus: Corpus
) -> None:
    """Even where the leaf had no mask, under momentum, and in the average."""
    model = make_compressed(make_model) if compressed else make_model()

    def look(record: TrainingRecord, updates: int) -> None:
        for leaf in masked(model).values():
            assert not leaf.data[~leaf.mask].any()
            assert not leaf.value()[~leaf.mask].any()

    answers = iter([1.0, 1.0, 1.0, better])
    record = train(
        model,
        corpus.train,
        make_settings(average=0.5, **given),
        0,
        validate=lambda _: next(answers),
        observe=look,
        regularizer=Prune(model),
    )
    assert record.averaged == (better < 1)
    look(record, 0)
    assert len(masked(model)) == sum(len(weight.leaves) for weight in model.sites.values())
    for leaf in masked(model).values():
        assert int((~leaf.mask).sum()) == round(0.7 * leaf.data.numel())


# --- Interruptions -------------------------------------------------------------------------------


class StoppedError(Exception):
    """What the observer raises."""


def stop_at(update: int) -> Observer:
    def observe(record: TrainingRecord, updates: int) -> None:
        if record.updates == update:
            raise StoppedError

    return observe


@pytest.mark.slow
@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    ("compressed", "taught", "pruned"),
    [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (False, False, True),
        (True, True, True),
    ],
    ids=["dense", "compressed", "taught", "pruned", "taught and pruned"],
)
def test_resumed_equals_uninterrupted(
    given: dict[str, Any],
    compressed: bool,
    taught: bool,
    pruned: bool,
    make_model: MakeModel,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    more = TAUGHT if taught else {}
    settings = make_settings(average=0.5, weight_decay=0.001, **given, **more)

    def run(checkpoint: Path | None, stop: int = 0) -> tuple[LanguageModel, TrainingRecord]:
        torch.manual_seed(12345)  # a new process, whose random state is another
        model = make_compressed(make_model) if compressed else make_model()
        teacher = make_teacher(make_model) if taught else None
        regularizer: Regularizer | None = Prune(model) if pruned else None

        def validate(model: Network) -> float:
            return model.score(corpus, "valid").value

        observe = stop_at(stop)
        return model, train(
            model, corpus.train, settings, 7, validate, observe, checkpoint, teacher, regularizer
        )

    whole, whole_record = run(None)
    for stop in (1, UPDATES, 25, 33):
        with pytest.raises(StoppedError):
            run(tmp_path / "checkpoint", stop)
    resumed, record = run(tmp_path / "checkpoint")
    assert_equal(weights_of(resumed), weights_of(whole))
    assert_equal(resumed.state_dict(), whole.state_dict())  # with the masks
    for site, weight in whole.sites.items():
        assert torch.equal(resumed.sites[site].dense(), weight.dense()), site
    assert record.valid_measures == whole_record.valid_measures
    assert (record.updates, record.tokens) == (whole_record.updates, whole_record.tokens)
    assert record.averaged == whole_record.averaged


@pytest.mark.parametrize("stop", [1, UPDATES, 8 * UPDATES])
def test_a_stop_loses_no_update(stop: int, tmp_path: Path) -> None:
    """However short the training was before, and at its last update."""
    path = str(tmp_path / "checkpoint")
    with pytest.raises(StoppedError):
        train_fixed(path, stop_at(stop))
    updates: list[int] = []
    resumed = train_fixed(path, lambda record, _: updates.append(record.updates))
    assert updates == list(range(stop + 1, 8 * UPDATES + 1))
    assert_equal(weights_of(resumed), weights_of(train_fixed(None, ignore)))


CHILD = """
import sys, time, torch
sys.path[:0] = {folders!r}
import test_training as t
t.training.CHECKPOINT_SECONDS = -1.0
def observe(record, updates):
    print(record.updates, flush=True)
    time.sleep(0.01)
t.train_fixed({checkpoint!r}, observe)
"""


def train_fixed(checkpoint: str | None, observe: Observer) -> LanguageModel:
    """The same training in whatever process."""
    settings = ModelSettings(layers=1, hidden=16, embedding=16, tied=False)
    model = random_model(settings, 50, 0.1, torch.Generator().manual_seed(1))
    ids = torch.arange(1500) * 7 % 50
    path = Path(checkpoint) if checkpoint else None
    train(model, ids, make_settings(epochs=8), seed=5, observe=observe, checkpoint=path)
    return model


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
def test_sampling_resumed_equals_uninterrupted(
    given: dict[str, Any],
    make_model: MakeModel,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped among the sampled updates, after a decay of all rows, and among the full ones."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    settings = make_settings(epochs=3, weight_decay=0.001, **given, **SAMPLED)

    def run(checkpoint: Path | None, observe: Observer = ignore) -> LanguageModel:
        torch.manual_seed(12345)
        model = make_compressed(make_model)
        train(model, corpus.train, settings, 7, observe=observe, checkpoint=checkpoint)
        return model

    for stop in (7, 34, 50):
        with pytest.raises(StoppedError):
            run(tmp_path / "checkpoint", stop_at(stop))
    resumed, whole = run(tmp_path / "checkpoint"), run(None)
    assert_equal(weights_of(resumed), weights_of(whole))
    for site, weight in whole.sites.items():
        assert torch.equal(resumed.sites[site].dense(), weight.dense()), site


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "checkpoint")
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    code = CHILD.format(folders=folders, checkpoint=checkpoint)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 40:
                child.kill()
                break
    assert child.returncode == -9
    updates: list[int] = []
    resumed = train_fixed(checkpoint, lambda record, _: updates.append(record.updates))
    assert 40 < updates[0] < 8 * UPDATES == updates[-1]
    assert_equal(weights_of(resumed), weights_of(train_fixed(None, ignore)))


def damaged_checkpoints(make_model: MakeModel, corpus: Corpus, path: Path) -> dict[str, bytes]:
    """Name -> content of a checkpoint file that the training below must not go on from."""

    def of(model: LanguageModel, settings: TrainingSettings, seed: int) -> bytes:
        with pytest.raises(StoppedError):
            train(model, corpus.train, settings, seed, observe=stop_at(5), checkpoint=path)
        data = path.read_bytes()
        path.unlink()
        return data

    def foreign(metadata: dict[str, str] | None) -> bytes:
        return save({"weight": torch.zeros(3)}, metadata)

    good = of(make_model(), make_settings(epochs=1), seed=0)
    path.write_bytes(good)
    with safe_open(path, framework="pt") as file:
        own = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path.unlink()

    def signed(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
        return save(tensors, metadata | {training.SUM: training._sum_of(tensors, metadata)})

    signature = own.pop(training.SUM)
    assert training._sum_of(tensors, own) == signature
    weight = next(name for name in tensors if name.startswith("weight."))
    turned = tensors[weight].clone()
    turned.view(torch.int32).flatten()[0] ^= 1
    return {
        "a bit turned": save(tensors | {weight: turned}, own | {training.SUM: signature}),
        "no checksum": save(tensors, own),
        "a tensor missing": signed({n: x for n, x in tensors.items() if n != weight}, own),
        "a tensor of another shape": signed(tensors | {weight: torch.zeros(3)}, own),
        "a tensor of another type": signed(tensors | {weight: tensors[weight].half()}, own),
        "no record": signed(tensors, {"key": own["key"]}),
        "a record that is no JSON": signed(tensors, own | {"record": "{"}),
        "a record of other words": signed(tensors, own | {"record": '{"x": 1}'}),
        "empty": b"",
        "no safetensors": b"\xff" * 300,
        "cut in the tensors": good[:-1],
        "cut in the header": good[:100],
        "no metadata": foreign(None),
        "other metadata": foreign({"format": "pt"}),
        "another seed": of(make_model(), make_settings(epochs=1), seed=1),
        "other settings": of(make_model(), make_settings(epochs=1, rate=0.5), seed=0),
        "another model": of(make_model(hidden=10), make_settings(epochs=1), seed=0),
        "another tied model": of(make_model(tied=True), make_settings(epochs=1), seed=0),
    }


def test_a_damaged_or_foreign_checkpoint_is_as_good_as_none(
    make_model: MakeModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_model()
    train(whole, corpus.train, make_settings(epochs=1), seed=0)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    wrong = []
    for name, data in damaged_checkpoints(make_model, corpus, tmp_path / "made").items():
        model, path = make_model(), tmp_path / "checkpoint"
        path.write_bytes(data)
        try:
            train(model, corpus.train, make_settings(epochs=1), seed=0, checkpoint=path)
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
        else:
            if differ(weights_of(model), weights_of(whole)):
                wrong.append(f"{name}: other weights")
    assert not wrong


# --- What cannot be trained ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"optimizer": "adam"}])
def test_an_absurd_rate_diverges(
    given: dict[str, Any], make_model: MakeModel, corpus: Corpus
) -> None:
    with pytest.raises(DivergedError, match="update"):
        train(make_model(), corpus.train, make_settings(rate=1e37, **given), seed=0)


def test_a_last_update_that_breaks_a_weight_diverges(make_model: MakeModel, corpus: Corpus) -> None:
    """No loss comes after it that would tell."""
    model = make_model()

    class Breaking(Calls):
        def after_update(self, rate: float, progress: float) -> None:
            if progress == 1:
                model.decoder_bias.data[3] = torch.inf

    with pytest.raises(DivergedError, match=r"decoder\.bias holds infinities or NaN after"):
        train(model, corpus.train, make_settings(), 0, regularizer=Breaking())


def test_a_text_shorter_than_one_window_is_refused(make_model: MakeModel, corpus: Corpus) -> None:
    settings = make_settings(epochs=1)
    assert train(make_model(), corpus.train[:80], settings, seed=0).updates == 1
    with pytest.raises(UserError) as error:
        train(make_model(), corpus.train[:79], settings, seed=0)
    for part in ("training.batch 5", "training.window 15", "79"):
        assert part in str(error.value)
