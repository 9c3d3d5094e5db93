"""Dropout: where it acts, how often it draws, and that settings which came later keep old keys."""

from __future__ import annotations

import pytest
import torch
from conftest import MakeModel

from lmcore.dropout import Dropout
from lmcore.training_settings import DropoutSettings


def test_element_draws_a_mask_per_value_and_sequence_one_per_window() -> None:
    x = torch.ones(50, 4, 30)
    torch.manual_seed(0)
    element = Dropout("element", 0.4, 0.0).train()(x)
    sequence = Dropout("sequence", 0.4, 0.0).train()(x)
    for dropped in (element, sequence):
        assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert (sequence == sequence[:1]).all()
    assert not (element == element[:1]).all()
    assert element.mean() == pytest.approx(1, abs=0.05)


def test_rows_drops_all_places_of_a_word_or_none() -> None:
    ids = torch.randint(20, (30, 4), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    dropped = Dropout("element", 0.0, 0.5).train().rows(torch.ones(30, 4, 8), ids, 20)
    for word in range(20):
        assert len(set(dropped[ids == word].flatten().tolist())) == 1
    assert len(set(dropped.flatten().tolist())) == 2


@pytest.mark.parametrize("given", [{"rate": 0.5}, {"rows": 0.5}, {"recurrent": 0.5}])
def test_each_kind_acts_in_training_only(given: dict[str, float], make_model: MakeModel) -> None:
    model = make_model()
    ids = torch.randint(60, (6, 3), generator=torch.Generator().manual_seed(0))

    def hidden(training: bool) -> torch.Tensor:
        model.train(training)
        torch.manual_seed(0)
        output: torch.Tensor = model(ids, model.zero_state(3))[0].detach()
        return output

    plain = hidden(training=False)
    model.dropout = Dropout(**{"kind": "sequence", "rate": 0.0, "rows": 0.0, **given})  # type: ignore[arg-type]
    assert torch.equal(hidden(training=False), plain)
    assert not torch.equal(hidden(training=True), plain)


def test_recurrent_drops_single_weights() -> None:
    torch.manual_seed(0)
    matrix = Dropout("sequence", 0.0, 0.0, recurrent=0.25).train().weights(torch.ones(80, 20))
    assert (matrix == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    assert matrix.max() == pytest.approx(1 / 0.75)


def test_a_setting_that_came_later_is_left_out_at_its_default() -> None:
    settings = DropoutSettings(kind="sequence", rate=0.1)
    assert settings.plain() == {"kind": "sequence", "rate": 0.1, "rows": 0.0}
    assert settings.model_copy(update={"recurrent": 0.2}).plain()["recurrent"] == 0.2
