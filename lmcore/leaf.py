"""Leaf: a tensor that is really stored, as it is trained and as the file has it.

A recipe composes by itself: *structure* decides which leaves a site's weight has, *sparsity* and
*bits* act on each leaf. Training, evaluation and the bundle all see a leaf by `Leaf.value()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from weakref import WeakMethod

import numpy as np
import torch
from torch import Tensor, nn

from lmcore.codec import (
    NO_EVIDENCE,
    Array,
    Codec,
    Codes,
    Evidence,
    Float32,
    LeafSpec,
    Pull,
    Shape,
    leaf_spec,
)
from lmcore.rows import masked_rows

_OLDER = -1  # than any version of the data


class Leaf(nn.Module):
    """A trainable tensor with, optionally, a mask of kept entries and a codec.

    `data` is the float copy that is trained, `value()` what is stored. Masked entries are zero
    and stay zero: their gradient is removed. Codes are assigned anew every
    `codec.refresh_updates` updates while training, and whenever the data changed otherwise; the
    gradient passes straight through them to the float copy.
    """

    mask: Tensor | None

    def __init__(
        self,
        data: Tensor,
        codec: Codec | None = None,
        mask: Tensor | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        super().__init__()
        self.codec = codec or Float32()
        self.evidence = evidence or NO_EVIDENCE
        self.register_buffer("mask", None)
        self.data = nn.Parameter(data.clone())
        hook = WeakMethod(self._mask_gradient)  # else torch would keep the leaf and its data alive
        self.data.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: None if (mask := hook()) is None else mask(gradient)
        )
        self._codes: Codes | None = None
        self._value: Tensor | None = None
        self._assigned_at: int | None = None  # the version of `data` that the codes are of
        self._age = 0  # updates since then
        self._pull: Pull | None = None
        self._pulled = False  # whether `_pull` is that of the codes
        if mask is not None:
            self.prune(mask)

    def prune(self, mask: Tensor | None) -> None:
        """Keep the entries of `mask` (shape as the data) alone, from now on; None: all."""
        if same_mask(mask, self.mask):
            return
        self.mask = mask
        if mask is not None:
            with torch.no_grad():
                self.data.mul_(mask)
        self._assigned_at = None

    def gains_from(self, mask: Tensor) -> bool:
        """Whether the file can make use of zeros at these places."""
        if self.codec.zeros_are_codes:
            return True
        return leaf_spec(self.shape, self.codec, int(mask.sum())).kept is not None

    def _mask_gradient(self, gradient: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        return masked_rows(gradient, self.mask) if gradient.is_sparse else gradient * self.mask

    @property
    def shape(self) -> Shape:
        return tuple(self.data.shape)

    @property
    def spec(self) -> LeafSpec:
        """What the file holds of it."""
        kept = self.data.numel() if self.mask is None else int(self.mask.sum())
        masked = kept < self.data.numel() and not self.codec.zeros_are_codes
        return LeafSpec(self.shape, self.codec, kept if masked else None)

    def value(self) -> Tensor:
        """The stored values, shape as `data`, differentiable; computed once per assignment."""
        if self.codec.exact_in_training and (self.training or type(self.codec) is Float32):
            return self.data
        self.codes()
        assert self._value is not None
        return self._value

    @torch.no_grad()
    def updated(self, rate: float) -> None:
        """The data was trained by one update at this rate."""
        self._age += 1
        if not self._pulled:
            self._pull = self.codec.pull(self._codes) if self._codes else None
            self._pulled = True
        if self._pull is not None:
            self.data.add_(self._pull.values, alpha=min(rate, self._pull.most))

    def codes(self) -> Codes:
        """What is written to the file."""
        if self._stale():
            with torch.no_grad():
                codes = self.codec.assign(self.data, self.mask, self._codes, self.evidence)
                self._adopt(codes)
        assert self._codes is not None
        return self._codes

    def write(self) -> list[Array]:
        """The integers of each stream of `spec`."""
        codes, symbols = self.codes(), self.codes().symbols.cpu()
        if self.spec.kept is None:
            return self.codec.write(codes, symbols)
        mask = cast(Tensor, self.mask).cpu()
        return [mask.numpy().astype(np.uint8), *self.codec.write(codes, symbols[mask])]

    @classmethod
    def read(cls, spec: LeafSpec, arrays: list[Array]) -> Leaf:
        """The leaf back from its integers, with the very codes that were written.

        ValueError where the mask keeps another number of values than the spec says.
        """
        mask = None
        if spec.kept is None:
            codes = spec.codec.read(arrays, spec.shape)
        else:
            mask = torch.from_numpy(arrays[0].astype(bool))
            if int(mask.sum()) != spec.kept:
                raise ValueError(f"a mask keeps {int(mask.sum()):,} values, not {spec.kept:,}")
            kept = spec.codec.read(arrays[1:], spec.shape)
            symbols = kept.symbols.new_zeros(spec.shape)
            symbols[mask] = kept.symbols
            codes = Codes(symbols, kept.tables)
        leaf = cls(torch.zeros(spec.shape), spec.codec, mask)
        leaf._adopt(codes)
        with torch.no_grad():
            leaf.data.copy_(cast(Tensor, leaf._value))
        leaf._assigned_at = leaf.data._version
        return leaf

    def codes_state(self) -> dict[str, Tensor]:
        """The codes and their age in updates: what the next assignment starts from."""
        if self._codes is None or self._assigned_at is None:
            return {}
        return {
            "age": torch.tensor(self._age),
            "symbols": self._codes.symbols,
            **self._codes.tables,
        }

    def restore_codes(self, state: dict[str, Tensor]) -> None:
        """Go on from what `codes_state` gave."""
        if not state:
            return
        tables = {name: value for name, value in state.items() if name not in ("age", "symbols")}
        self._adopt(Codes(state["symbols"], tables).to(self.data.device))
        self._age = int(state["age"])
        if self._age:
            self._assigned_at = _OLDER

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Leaf:
        """Moving to another device takes the codes along."""
        fresh = not self._stale()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.evidence = self.evidence.to(self.data.device)
        if self._codes is not None:
            age = self._age
            self._adopt(self._codes.to(self.data.device))
            self._assigned_at, self._age = self.data._version if fresh else None, age
        return self

    def forget(self) -> None:
        """Compute the value anew when it is asked for, of the same codes."""
        if self._codes is not None:
            assigned_at, age = self._assigned_at, self._age
            self._adopt(self._codes)
            self._assigned_at, self._age = assigned_at, age

    def _stale(self) -> bool:
        if self._assigned_at is None:
            return True
        if self.training:
            return self._age >= self.codec.refresh_updates
        return self.data._version != self._assigned_at

    def _adopt(self, codes: Codes) -> None:
        self._codes, self._pull, self._pulled = codes, None, False
        with torch.no_grad():
            decoded = self.codec.decode(codes)
            if self.mask is not None:
                decoded = decoded * self.mask
        with torch.enable_grad():
            self._value = _straight_through(self.data, decoded)
        self._assigned_at, self._age = self.data._version, 0


def same_mask(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two masks of a leaf, or none, are equal."""
    return one is other or (one is not None and other is not None and torch.equal(one, other))


class _StraightThrough(torch.autograd.Function):
    """Forward the decoded values, backward to the float copy unchanged (Bengio et al. 2013).

    It saves nothing for backward, so that one result serves many steps.
    """

    @staticmethod
    def forward(ctx: Any, data: Tensor, decoded: Tensor) -> Tensor:
        return decoded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


_straight_through = cast(Callable[[Tensor, Tensor], Tensor], _StraightThrough.apply)
