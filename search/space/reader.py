"""Reads a space's template, plain data in the language of `search.space.space`, as nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmcore.errors import UserError
from lmcore.sites import EMBEDDING
from search.space.nodes import (
    LEFT_OUT,
    Answers,
    Condition,
    Conditional,
    Fixed,
    Listed,
    Mapped,
    Node,
    Number,
    Options,
    Share,
)

SHARED = ("tie", "foreach")
RANGE = {"low", "high", "log", "step", "tie", "of"}

Sizes = Mapping[str, Callable[[Answers], int]]  # what ranges can be shares of


@dataclass(frozen=True)
class Reader:
    """Reads settings of a template for one dense model, `dense`, of the study's `names`.

    `sizes` are what a range can be a share of here. `site` is the prefix of the parameters of a
    site's settings, None outside of sites. `layers` are the sizes of each layer where a setting can
    be a list of one value a layer, else empty. Its methods raise UserError for a range, a choice
    or a condition that is malformed.
    """

    sizes: Sizes
    dense: str
    names: tuple[str, ...]
    site: str | None = None
    layers: tuple[Sizes, ...] = ()

    def read(self, value: Any, path: str) -> Node:
        """The node of `value`. Its parameters are named after `path`, or after their tie."""
        if isinstance(value, list):
            paths = [f"{path}.{index}" for index in range(len(value))]
            nodes = (self.read(inner, path) for inner, path in zip(value, paths, strict=True))
            return Listed(tuple(map(_kept, nodes, paths)))
        if not isinstance(value, Mapping):
            return Fixed(value)
        value = given(value)
        if "when" in value or "otherwise" in value:
            return self._conditional(value, path)
        if "foreach" in value:
            return self._each(value, path)
        name = str(value.get("tie", path))
        if {"low", "high"} <= set(value) <= RANGE:
            number = _number(value, name)
            return number if number.of is None else Share(number, self._size(number.of, name))
        for kind in ("choice", "ordered"):
            if kind in value and set(value) <= {kind, "tie"}:
                return self._options(value[kind], name, kind)
        return Mapped({key: self.read(inner, f"{path}.{key}") for key, inner in value.items()})

    def _conditional(self, value: Mapping[str, Any], path: str) -> Node:
        """The node of settings with `when`, and perhaps with `otherwise`.

        `when` maps the names of parameters to a value or a list of values. The settings apply where
        each named parameter has one of its values. Elsewhere `otherwise` applies; without an
        `otherwise`, the setting is left out. A `dense` in `when` is settled at once, since this
        reader reads for one dense model.
        """
        wanted = value.get("when")
        if not isinstance(wanted, Mapping) or not wanted:
            raise UserError(f"space.{path}.when: got {wanted!r}; it takes values by parameter")
        rest = {key: inner for key, inner in value.items() if key not in ("when", "otherwise")}
        if not rest:
            raise UserError(f"space.{path}: write beside `when` the settings that it is for")
        values = {
            self._parameter(str(name), path): tuple(of) if isinstance(of, list) else (of,)
            for name, of in wanted.items()
        }
        for name in (dense := values.pop("dense", (self.dense,))):
            if name not in self.names:
                raise UserError(
                    f"space.{path}.when.dense: got {name!r}; it is one of {list(self.names)}"
                )
        otherwise: Node = Fixed(LEFT_OUT)
        if "otherwise" in value:
            otherwise = self.read(value["otherwise"], f"{path}.otherwise")
        if self.dense not in dense:
            return otherwise
        node = self.read(rest, path)
        return Conditional(path, Condition(values), node, otherwise) if values else node

    def _parameter(self, name: str, path: str) -> str:
        """A parameter's full name. A name that begins with a dot belongs to the same site."""
        if not name.startswith("."):
            return name
        if self.site is None:
            raise UserError(
                f"space.{path}.when: got {name}; outside of sites, write the parameter's full name"
            )
        return self.site + name

    def _each(self, value: Mapping[str, Any], path: str) -> Listed:
        """A list of one value a layer. The layer's number ends the names of its parameters."""
        if not self.layers and self.site is None:
            raise UserError(
                f"space.{path}.foreach: no layer of this network takes the setting; leave it out: "
                f"'~space.{path}'"
            )
        if not self.layers:
            raise UserError(
                f"space.{path}.foreach: this setting takes no list of one value a layer; "
                f"in a site, write foreach beside all of the site's settings"
            )
        if value["foreach"] != "layer":
            raise UserError(f"space.{path}.foreach: got {value['foreach']!r}; it takes layer")
        rest = {key: inner for key, inner in value.items() if key not in SHARED}
        name = str(value.get("tie", path))
        readers = (replace(self, sizes={**self.sizes, **of}, layers=()) for of in self.layers)
        nodes = (reader.read(rest, f"{name}.{layer}") for layer, reader in enumerate(readers))
        return Listed(tuple(nodes))

    def _size(self, of: Any, name: str) -> Callable[[Answers], int]:
        if of == EMBEDDING and self.site is None and of not in self.sizes:
            raise UserError(
                f"space.{name}.of: the embedding of this network stays as wide as it is; leave the "
                f"setting out: '~space.{name}'"
            )
        if of not in self.sizes:
            raise UserError(
                f"space.{name}.of: got {of!r}; here it is one of {', '.join(self.sizes)}"
            )
        return self.sizes[of]

    def _options(self, options: Any, name: str, kind: str) -> Options:
        if not isinstance(options, list) or not options:
            raise UserError(f"space.{name}: got {options!r}; {kind} takes a list")
        labels = [_label(option) for option in options]
        if lists := [label for label in labels if isinstance(label, list)]:
            raise UserError(f"space.{name}: got {lists[0]!r}; an option is a value or settings")
        if len(set(labels)) < len(labels):
            raise UserError(f"space.{name}: its options {labels} are not all different")
        paths = [f"{name}.{label}" for label in labels]
        nodes = (self.read(one, path) for one, path in zip(options, paths, strict=True))
        return Options(name, tuple(labels), tuple(map(_kept, nodes, paths)), kind == "ordered")


def _kept(node: Node, path: str) -> Node:
    """The node. Raises UserError where a condition could leave it out: entries of lists and options
    of choices cannot be left out, so their `when` needs an `otherwise`."""
    last = node
    while isinstance(last, Conditional):
        last = last.otherwise
    if last == Fixed(LEFT_OUT):
        raise UserError(f"space.{path}: here, `when` needs an `otherwise`")
    return node


def _number(value: Mapping[str, Any], name: str) -> Number:
    low, high, log = value["low"], value["high"], bool(value.get("log", False))
    for end in (low, high):
        if not isinstance(end, int | float) or isinstance(end, bool) or not math.isfinite(end):
            raise UserError(f"space.{name}: got {end!r}; low and high are finite numbers")
    if low > high:
        raise UserError(f"space.{name}: got low {low} above high {high}")
    if log and low <= 0:
        raise UserError(f"space.{name}: got low {low}; with log, low is above 0")
    if "of" in value:
        if low < 0 or high > 1:
            raise UserError(f"space.{name}: got {low} to {high}; a share lies between 0 and 1")
        if "step" in value:
            raise UserError(f"space.{name}: got a step; a share takes none")
        return Number(name, float(low), float(high), log, of=str(value["of"]))
    if isinstance(low, int) and isinstance(high, int):
        step = value.get("step", 1)
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise UserError(f"space.{name}: got step {step!r}; it is a whole number above 0")
        if log and step != 1:
            raise UserError(f"space.{name}: got step {step} with log; they exclude each other")
        return Number(name, low, high, log, step)
    if "step" in value:
        raise UserError(f"space.{name}: a step goes with whole numbers")
    return Number(name, float(low), float(high), log)


def given(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings without a `tie` or `foreach` of null, which undoes an inherited one."""
    return {key: one for key, one in value.items() if one is not None or key not in SHARED}


def _label(option: Any) -> Any:
    """The label of an option: the value itself, or a mapping's `kind`, or its text without one."""
    if not isinstance(option, Mapping):
        return option
    return str(option["kind"]) if "kind" in option else str(dict(option))
