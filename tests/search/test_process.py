"""How a process is asked to stop, on systems with fewer signals too."""

from __future__ import annotations

import signal
import threading

import pytest

from search import process
from search.process import interruptible


@pytest.mark.parametrize("fewer", [False, True])
def test_ctrl_c_sets_the_flag_and_is_raised_at_the_end(
    fewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fewer` is Windows, which hangs up on nobody."""
    if fewer:
        for name in ("HANGUP", "TIMEOUT"):
            monkeypatch.setattr(process, name, None)
    before, stop = signal.getsignal(signal.SIGINT), threading.Event()

    def work() -> None:
        with interruptible(stop):
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) == before
