"""How a process computes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from lmcore.errors import UserError
from lmcore.runtime import device, give_back, prepare


@pytest.mark.parametrize("threads", [min(2, os.cpu_count() or 1), 1])
def test_the_threads_of_torch_and_of_every_blas(threads: int) -> None:
    prepare(threads)
    assert torch.get_num_threads() == threads
    limits = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert limits == {threads}


@pytest.mark.parametrize("name", ["meta", "nope", "cuda:99"])
def test_a_device_that_cannot_compute_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device: got '{name}'; this machine has no such device"):
        device(name)


def resident() -> int:
    """Bytes of memory that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is told what to keep")
def test_memory_between_what_is_used_is_given_back() -> None:
    prepare()
    give_back()
    buffers = [torch.ones(2**18) for _ in range(200)]  # of 1 MiB
    used = resident()
    del buffers[1::2]
    assert resident() > used - 2**20
    give_back()
    assert resident() < used - 80 * 2**20
    assert all(bool((one == 1).all()) for one in buffers)
