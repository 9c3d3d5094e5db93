"""How this process computes."""

from __future__ import annotations

import ctypes
import os

import torch
from threadpoolctl import threadpool_limits

from lmcore.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare(threads: int = 1) -> None:
    """One thread a worker unless told otherwise, no denormals, and memory that is kept.

    The threads of numpy's BLAS wait by spinning: without the limit, two workers that read bundles
    at once take more than twice as long as one. And glibc gives every large buffer back to the
    system and takes it anew, page by page, a step later; told to keep them, a training step of the
    2 x 200 model is a tenth faster.

    Raises UserError for more threads than the machine has cores.
    """
    if threads > (cores := os.cpu_count() or 1):
        raise UserError(f"threads: got {threads}; this machine has {cores} cores")
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")
    torch.set_flush_denormal(True)
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back() -> None:
    """Give the memory that is kept, but not in use, back to the system.

    Buffers of ever other sizes do not fit where earlier ones were: a reader's batches, of
    paragraphs of 20 to 400 tokens, took 9 GB after an hour in place of 2.
    """
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def device(name: str) -> torch.device:
    """The device of that name ("cpu", "cuda", "cuda:1"); UserError where there is none."""
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError):
        raise UserError(f"device: got {name!r}; this machine has no such device") from None
    return found
