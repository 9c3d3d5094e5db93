"""What a recipe does, in the names of the methods, and where."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lmcore.compress.quantization import Float16, Float32
from lmcore.recipe import Recipe, SiteSettings
from lmcore.weight import DenseStructure

EVERYWHERE = "all"


def methods_of(recipe: Recipe) -> list[str]:
    """The methods of a resolved recipe, in the order in which they act.

    Without any it is the dense model, or the control where that was fine-tuned; float16 is how
    both are stored.
    """
    sites, layers = recipe.sites.values(), recipe.layers
    structures = {site.structure.kind for site in sites if _structured(site)}
    acting = {
        "iss": layers.units is not None,
        "projection": layers.projection is not None,
        "embedding": layers.embedding is not None,
        **dict.fromkeys(sorted(structures), True),
        "pruning": any(site.sparsity for site in sites),
        "bits": any(_coded(site) for site in sites),
        "distillation": bool(recipe.finetuning and recipe.finetuning.distillation),
    }
    found = [method for method, acts in acting.items() if acts]
    return found or ["control" if recipe.finetuning else "dense"]


def where(recipe: Recipe) -> str:
    """The sites that the methods act on: `all`, or names, with `*` where every layer has it."""
    if recipe.layers.units or recipe.layers.projection:
        return EVERYWHERE
    touched = {
        name
        for name, site in recipe.sites.items()
        if _structured(site) or _coded(site) or site.sparsity
    }
    if recipe.layers.embedding:
        touched.add("embedding")
    return EVERYWHERE if len(touched) in (0, len(recipe.sites)) else _short(touched, recipe.sites)


def _structured(site: SiteSettings) -> bool:
    return not isinstance(site.structure, DenseStructure)


def _coded(site: SiteSettings) -> bool:
    return not isinstance(site.bits, Float16 | Float32)


def _short(touched: set[str], every: Iterable[str]) -> str:
    of_pattern: dict[str, set[str]] = {}
    for name in every:
        of_pattern.setdefault(re.sub(r"\.\d+\.", ".*.", name), set()).add(name)
    names: list[str] = []
    for pattern, sites in of_pattern.items():
        names += [pattern] if sites <= touched else sorted(sites & touched)
    return " ".join(names)
