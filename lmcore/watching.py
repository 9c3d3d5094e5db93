"""What the matrices of a network are multiplied with, seen while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from lmcore.network import Network


@contextmanager
def watching(network: Network, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Meanwhile `see` gets each x (..., in) that the matrix of a site is multiplied with, and the
    site's name. It gets a layer's h under the name of the projection that the layer has or might
    have."""
    of_layers = {
        id(weight) for layer in network.named_layers.values() for weight in layer.weights.values()
    }
    others = {site: weight for site, weight in network.sites.items() if id(weight) not in of_layers}
    try:
        for name, layer in network.named_layers.items():
            layer.watch = partial(_see, see, name)
        for site, weight in others.items():
            weight.watch = partial(see, site)
        yield
    finally:
        for layer in network.named_layers.values():
            layer.watch = None
        for weight in others.values():
            weight.watch = None


def _see(see: Callable[[str, Tensor], None], layer: str, name: str, x: Tensor) -> None:
    see(f"{layer}.{name}", x)
