"""Fine-tuning in parts: each rung is what a shorter fine-tuning gives, and is gone on from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_training import (
    ADAM,
    SGD,
    TAUGHT,
    UPDATES,
    Calls,
    Prune,
    StoppedError,
    assert_equal,
    make_compressed,
    make_settings,
    make_teacher,
    stop_at,
    weights_of,
)

from lmcore import training
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.model import LanguageModel
from lmcore.progress import TrainingRecord
from lmcore.settings import parse
from lmcore.training import train
from lmcore.training_settings import FineTuningSettings

pytestmark = pytest.mark.slow


def test_the_rate_falls_anew_after_each_rung(make_model: MakeModel, corpus: Corpus) -> None:
    settings = make_settings(epochs=2, rungs=[0.5, 1.0], rate=0.5)
    calls = Calls()
    train(make_model(), corpus.train, settings, 0, regularizer=calls)
    first, second = round(0.5 * UPDATES), UPDATES
    spans = [(0, first, 0.5 * UPDATES), (first, second, second), (second, 38, 38)]
    expected = [
        0.5 * (1 - (update - start) / (length - start))
        for start, end, length in spans
        for update in range(start, end)
    ]
    assert calls.rates == pytest.approx(expected)
    assert calls.progress == [min(1.0, (update + 1) / first) for update in range(38)]


@pytest.mark.parametrize(
    ("lost", "shares"),
    [
        (-0.1, (0.125, 0.375)),
        (0.1, (0.125, 0.375)),
        (0.2, (0.25, 0.75)),
        (0.4, (0.5, 1.0)),
        (math.inf, (1.0, 1.0)),
    ],
)
def test_the_rate_follows_from_what_was_lost_and_from_the_time(
    lost: float, shares: tuple[float, float], make_model: MakeModel, corpus: Corpus
) -> None:
    settings = make_settings(epochs=2, rungs=[0.5], rate=0.5, full_rate_at=0.4)
    calls = Calls()
    train(make_model(), corpus.train, settings, 0, regularizer=calls, lost=lost)
    first = round(0.5 * UPDATES)
    starts = (calls.rates[0], calls.rates[first])
    assert starts == pytest.approx([0.5 * share for share in shares])
    with pytest.raises(ValueError, match="not told what was lost"):
        train(make_model(), corpus.train, settings, 0)


@pytest.mark.parametrize("given", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("rich", [False, True], ids=["dense", "taught and pruned codes"])
def test_a_rung_is_the_shorter_training_and_goes_on_to_the_longer(
    given: dict[str, Any],
    rich: bool,
    make_model: MakeModel,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_settings(
        epochs=1.6, rungs=[0.4, 1.0], weight_decay=0.001, **given, **(TAUGHT if rich else {})
    )

    def run(
        settings: FineTuningSettings, name: str, begun: str | None = None, stop: int = 0
    ) -> tuple[LanguageModel, TrainingRecord]:
        torch.manual_seed(12345)  # a new process, whose random state is another
        model = make_compressed(make_model) if rich else make_model()
        return model, train(
            model,
            corpus.train,
            settings,
            7,
            observe=stop_at(stop),
            checkpoint=tmp_path / name,
            teacher=make_teacher(make_model) if rich else None,
            regularizer=Prune(model) if rich else None,
            begun=tmp_path / begun if begun else None,
        )

    whole, record = run(settings, "whole")
    assert record.updates == round(1.6 * UPDATES)
    low, _ = run(settings.up_to(0), "0")
    middle, _ = run(settings.up_to(1), "1", begun="0")
    at_once, _ = run(settings.up_to(1), "at once")
    assert_equal(weights_of(middle), weights_of(at_once))
    top, again = run(settings, "2", begun="1")
    assert_equal(weights_of(top), weights_of(whole))
    assert (again.updates, again.tokens) == (record.updates, record.tokens)
    skipping, _ = run(settings, "3", begun="0")
    assert_equal(weights_of(skipping), weights_of(whole))

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    for stop in (9, 19, 20, 25):  # in the second part, at its end, in the third
        with pytest.raises(StoppedError):
            run(settings, f"cut {stop}", begun="0", stop=stop)
        resumed, _ = run(settings, f"cut {stop}", begun="0")
        assert_equal(weights_of(resumed), weights_of(whole))

    finished, record = run(settings.up_to(0), "0")  # nothing is left to do
    assert record.updates == round(0.4 * UPDATES)
    assert_equal(weights_of(finished), weights_of(low))


def test_what_began_otherwise_is_not_gone_on_from(
    make_model: MakeModel, corpus: Corpus, tmp_path: Path
) -> None:
    settings = make_settings(epochs=1.0, rungs=[0.5])
    whole = make_model()
    train(whole, corpus.train, settings, 0)
    for foreign in (make_settings(epochs=0.6), make_settings(epochs=0.5, rate=2.0)):
        train(make_model(), corpus.train, foreign, 0, checkpoint=tmp_path / "begun")
        model = make_model()
        record = train(model, corpus.train, settings, 0, begun=tmp_path / "begun")
        assert record.updates == UPDATES
        assert_equal(weights_of(model), weights_of(whole))
        (tmp_path / "begun").unlink()


@pytest.mark.parametrize("rungs", [[1.0], [0.5, 0.5], [0.7, 0.3], [2.0], [0.0]])
def test_rungs_that_do_not_ascend_are_refused(rungs: list[float]) -> None:
    data = {"epochs": 1.0, "rate": 1.0, "dropout": {"kind": "element", "rate": 0.0}}
    with pytest.raises(UserError, match="rungs"):
        parse(FineTuningSettings, {**data, "rungs": rungs}, "finetuning")


def test_settings_without_rungs_keep_their_keys() -> None:
    assert "rungs" not in make_settings().plain()
    longer = make_settings(epochs=4, rungs=[0.5, 1.0])
    assert longer.ends == (0.5, 1.0, 4.0)
    assert longer.up_to(0) == make_settings(epochs=0.5)
    assert longer.up_to(1) == make_settings(epochs=1.0, rungs=[0.5])
    assert longer.up_to(2) == longer
