"""How a process computes."""

from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info

from lmcore.runtime import prepare


@pytest.mark.parametrize("threads", [2, 1])
def test_the_threads_of_torch_and_of_every_blas(threads: int) -> None:
    prepare(threads)
    assert torch.get_num_threads() == threads
    limits = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert limits == {threads}
