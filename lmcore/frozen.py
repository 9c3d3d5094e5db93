"""Parts of a network that a training leaves as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from lmcore.errors import UserError
from lmcore.leaf import Leaf
from lmcore.network import Network


@contextmanager
def frozen(network: Network, patterns: Sequence[str]) -> Iterator[None]:
    """Meanwhile the sites and vectors of these names or patterns take no gradient, nor those that
    are fixed in every network of this kind.

    Raises UserError where a pattern is of none, and where nothing is left to train.
    """
    parts: dict[str, nn.Module] = {**network.sites, **network.biases}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parts):
            raise UserError(
                f"frozen: {pattern} is none of this network's parts: {', '.join(parts)}"
            )
    wanted = (*network.settings.fixed, *patterns)
    kept = [
        one
        for name, part in parts.items()
        if any(fnmatchcase(name, pattern) for pattern in wanted)
        for one in part.parameters()
        if one.requires_grad
    ]
    for one in kept:
        one.requires_grad_(False)
    try:
        if not any(one.requires_grad for one in network.parameters()):
            raise UserError(f"frozen: {', '.join(patterns)} leaves nothing to train")
        yield
    finally:
        for one in kept:
            one.requires_grad_(True)
        for part in parts.values():
            for leaf in part.modules():
                if isinstance(leaf, Leaf):
                    leaf.forget()
