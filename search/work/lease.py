"""A worker's hold on its slot, renewed while it works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from search.store.outage import AWAY, GoneError
from search.store.slots import Slot, Slots

FAILED = "failed: "  # what the outcome of a slot that failed begins with


class Lease:
    """Renews the lease on the worker's slot, from a thread, while the worker works.

    `fraction` is how much of the job is done; `lost` is set once the slot is another worker's, or
    the database is gone.
    """

    def __init__(self, slots: Slots, slot: Slot, worker: str) -> None:
        self.slots, self.slot, self.worker = slots, slot, worker
        self.fraction, self.lost = 0.0, False
        self._ended = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Renew the lease inside the block."""
        thread = threading.Thread(target=self._renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(min(2.0, self.slots.lease / 5)):
            try:
                self.lost = not self.slots.renew(self.slot, self.worker, self.fraction)
            except AWAY:  # the database may be back before the lease runs out
                continue
            except GoneError:
                self.lost = True
            if self.lost:
                return
