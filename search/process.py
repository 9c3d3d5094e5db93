"""How a process starts, is asked to stop, and learns that its parent is gone."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

# what Windows does not have
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
TIMEOUT: signal.Signals | None = getattr(signal, "SIGUSR2", None)
LOOK_SECONDS = 0.2  # between looks for the parent process


def collect_later() -> None:
    """Collect no garbage until `imported` is called: a quarter of the time that importing torch
    takes goes into collections that find nothing."""
    gc.disable()


def imported() -> None:
    """Collect garbage again, and skip all that exists by now.

    A second call does nothing: a launcher may run several jobs in one process.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


class Importing:
    """The target of a process: a function that is imported there with `collect_later`.

    The child unpickles the target before the arguments. Unpickling this one switches collection off
    and imports the function.
    """

    def __init__(self, module: str, function: str) -> None:
        self.names = module, function

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return _imported_there, self.names

    def __call__(self, *arguments: Any) -> None:
        raise AssertionError("the function is what is unpickled in the other process")


def _imported_there(module: str, function: str) -> Any:
    collect_later()
    return getattr(importlib.import_module(module), function)


class Event(Protocol):
    """A flag that threads or processes share."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


@contextmanager
def interruptible(stop: Event) -> Iterator[None]:
    """Inside the block, Ctrl-C, SIGTERM and SIGHUP (the terminal hangs up) set `stop`.

    KeyboardInterrupt is raised at the end of the block, so the block should end soon after `stop`
    is set. An exception raised by a signal handler itself would strike anywhere: a destructor or a
    callback from C may swallow it, and a write may be cut short.

    The second signal of the same kind raises KeyboardInterrupt at once. Signals of different kinds
    do not, since a terminal's Ctrl-C and a parent's SIGTERM come together. A second SIGHUP does not
    either, since the shell and the terminal may both send one.

    submitit sends SIGUSR2 when a job's time is over, and its handler may submit the job again. That
    handler is called at the end of the block.
    """
    asked: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number in asked and number != HANGUP:
            raise KeyboardInterrupt
        asked.add(number)
        if len(asked) == 1:  # set once only: a signal that comes during set() would deadlock
            stop.set()

    handled: list[int] = [signal.SIGINT, signal.SIGTERM]
    if HANGUP and signal.getsignal(HANGUP) != signal.SIG_IGN:  # nohup ignores it
        handled.append(HANGUP)
    resubmit = signal.getsignal(TIMEOUT) if TIMEOUT else None
    if TIMEOUT and callable(resubmit):
        handled.append(TIMEOUT)
    before = {number: signal.signal(number, ask) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if TIMEOUT in asked and callable(resubmit):
        with suppress(Exception):  # the job may not be allowed another submission
            resubmit(TIMEOUT, None)
    if stop.is_set():
        raise KeyboardInterrupt


def orphaned() -> bool:
    """Whether the parent of this process is gone: its sweep, or the launcher of its job."""
    parent = multiprocessing.parent_process()
    # joblib's parent_process() has no is_alive()
    return parent is not None and parent.pid != os.getppid()


def end_with_parent() -> None:
    """Make a process of joblib end when its parent is gone. Each of them calls this first.

    Without it, an idle process would wait minutes for another job. SIGINT and SIGHUP are ignored: a
    terminal sends them to all processes, but the parent handles them. If an idle process ended by
    Ctrl-C, joblib would kill those at work. If the terminal's first process ends, the terminal
    hangs up on the others.
    """
    for number in (signal.SIGINT, HANGUP):
        if number:
            signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while not orphaned():
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)  # a job ends after its current update

    threading.Thread(target=watch, daemon=True).start()
