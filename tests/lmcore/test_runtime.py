"""How a process computes."""

from __future__ import annotations

import os

import pytest
import torch
from threadpoolctl import threadpool_info

from lmcore.errors import UserError
from lmcore.runtime import device, prepare


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
