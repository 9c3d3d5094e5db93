"""What a trial asks of the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from search.config import SweepConfig
from studies import settings, sweep_here

pytestmark = pytest.mark.slow

MOST = 80  # statements a trial, of two parameters and a random sampler; Optuna's own are most


def statements(config: SweepConfig, slots: int) -> int:
    """Of a worker that does so many trials more."""
    count = 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1

    event.listen(Engine, "before_cursor_execute", add)
    try:
        sweep_here(config, slots)
    finally:
        event.remove(Engine, "before_cursor_execute", add)
    return count


def test_a_trial_takes_few_statements_however_many_there_were(tmp_path: Path) -> None:
    config = settings(tmp_path)
    statements(config, 1)
    one, four = statements(config, 1), statements(config, 4)
    assert (four - one) / 3 < MOST
    again = statements(config, 1)
    assert abs(again - one) < 10  # a lease may be renewed now and then
