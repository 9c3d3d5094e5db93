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

LOOK_SECONDS = 0.2  # between looks for the parent process


def collect_later() -> None:
    """Collect no garbage until `imported` is called: a quarter of the time that importing torch
    takes goes into collections that find nothing."""
    gc.disable()


def imported() -> None:
    """All that a process needs is imported: collect garbage again, but never look at that."""
    gc.freeze()
    gc.enable()


class Importing:
    """The target of a process: a function that is imported there with `collect_later`.

    What a process is started with is unpickled there, the target first. This one is pickled as the
    call that imports the function.
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
    """A flag, of threads or of processes."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


@contextmanager
def interruptible(stop: Event) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that hangs up set `stop`; KeyboardInterrupt is raised at the
    end, or at once by the second of a kind (a terminal's Ctrl-C and a parent's SIGTERM come
    together; a shell may say that its terminal hung up, and the terminal, too).

    An exception that a signal raises wherever the program is may be swallowed there (by a
    destructor, by a callback from C), or cut a write short. So it is with submitit's, which hears
    by SIGUSR2 that a job's time is over, and may submit it again: that waits for the end, too.
    """
    asked: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number in asked and number != signal.SIGHUP:
            raise KeyboardInterrupt
        asked.add(number)
        if len(asked) == 1:  # a second signal may come while the first is setting it, which locks
            stop.set()

    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        handled.append(signal.SIGHUP)
    resubmit = signal.getsignal(signal.SIGUSR2)
    if callable(resubmit):
        handled.append(signal.SIGUSR2)
    before = {number: signal.signal(number, ask) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGUSR2 in asked and callable(resubmit):
        with suppress(Exception):  # where it may not be submitted again
            resubmit(signal.SIGUSR2, None)
    if stop.is_set():
        raise KeyboardInterrupt


def orphaned() -> bool:
    """Whether the process that this one is a part of is gone: a sweep, or what launched its job."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()  # joblib's cannot ask is_alive()


def end_with_parent() -> None:
    """What each of joblib's processes begins with: it ends when the one that launched it is gone.

    Otherwise one without a job would wait minutes for another. What a terminal says reaches them
    all and is for the parent: joblib kills those at work when an idle one ends of a Ctrl-C, and a
    terminal whose first process ends hangs up on the others.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while not orphaned():
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)  # a job ends after the update at hand

    threading.Thread(target=watch, daemon=True).start()
