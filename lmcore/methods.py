"""What a recipe does, in the names of the methods, and where: of plain data, as it is stored.

The recipe is a resolved one (`lmcore.recipe.resolve`) as JSON data; nothing of it is parsed, so
that a front of thousands of recipes is described at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import lmcore.recipe  # noqa: F401, makes the methods known
from lmcore import sites
from lmcore.codec import Codec
from lmcore.layer_methods import layer_methods
from lmcore.pruning import DEFAULT, Pruning
from lmcore.structure import Structure

EVERYWHERE = "all"
UNCOMPRESSED = ("dense", "control")
PLAIN_STRUCTURE, PLAIN_BITS = "dense", ("float16", "float32")
PLAIN_SITE: dict[str, Any] = {  # what a setting is that a recipe leaves out
    "structure": {"kind": PLAIN_STRUCTURE},
    "sparsity": 0.0,
    "bits": {"kind": "float32"},
}

Plain = Mapping[str, Any]


def methods_of(recipe: Plain) -> list[str]:
    """The methods of a recipe, in the order in which they act.

    Without any it is the dense model, or the control where that was fine-tuned; float16 is how
    both are stored.
    """
    settings, layers = _sites_of(recipe).values(), recipe.get("layers", {})
    found = [one.kind for one in layer_methods() if layers.get(one.field) is not None]
    found += sorted({site["structure"]["kind"] for site in settings if _is_structured(site)})
    found += ["pruning"] if any(site["sparsity"] for site in settings) else []
    found += ["bits"] if any(_is_coded(site) for site in settings) else []
    found += ["distillation"] if _distillation(recipe) else []
    return found or [UNCOMPRESSED[bool(recipe.get("finetuning"))]]


def where(recipe: Plain) -> str:
    """The sites that the methods act on: `all`, or names, with `*` where every layer has it."""
    every, layers = _sites_of(recipe), recipe.get("layers", {})
    touched = {
        name
        for name, site in every.items()
        if _is_structured(site) or _is_coded(site) or site["sparsity"]
    }
    for method in layer_methods():
        if layers.get(method.field) is not None:
            if method.acts_on is None:
                return EVERYWHERE
            touched |= set(method.acts_on)
    return _named(touched, every)


def sentences(recipe: Plain) -> dict[str, list[str]]:
    """What the methods of a recipe do, for reports: where -> sentences.

    "all" has what becomes of the layers and the fine-tuning; sites with the same settings stand
    together under their shortened names.
    """
    layers, every = recipe.get("layers", {}), _sites_of(recipe)
    pruning = recipe.get("pruning", {})
    general = [
        one.sentence(layers[one.field])
        for one in layer_methods()
        if layers.get(one.field) is not None
    ]
    if (lesson := _distillation(recipe)) is not None:
        general.append(
            f"fine-tuned after the dense model's soft targets, temperature "
            f"{lesson['temperature']:g}, mix {lesson['mix']:g}"
        )
    together: dict[tuple[str, ...], set[str]] = {}
    for name, site in every.items():
        together.setdefault(tuple(_of_site(site, pruning)), set()).add(name)
    found = {EVERYWHERE: general} if general else {}
    for lines, names in together.items():
        if lines:
            found.setdefault(_named(names, every), []).extend(lines)
    return found


def _sites_of(recipe: Plain) -> dict[str, Plain]:
    """Site -> its settings, all of them."""
    return {name: {**PLAIN_SITE, **site} for name, site in recipe.get("sites", {}).items()}


def _of_site(site: Plain, pruning: Plain) -> list[str]:
    found = []
    if _is_structured(site):
        structure = cast(type[Structure], Structure.members[site["structure"]["kind"]])
        found.append(structure.sentence(site["structure"]))
    if site["sparsity"]:
        method = cast(type[Pruning], Pruning.members[pruning.get("kind", DEFAULT)])
        found.append(method.sentence(pruning, site["sparsity"]))
    if _is_coded(site):
        codec = cast(type[Codec], Codec.members[site["bits"]["kind"]])
        found.append(codec.sentence(site["bits"]))
    return found


def _is_structured(site: Plain) -> bool:
    return bool(site["structure"]["kind"] != PLAIN_STRUCTURE)


def _is_coded(site: Plain) -> bool:
    return site["bits"]["kind"] not in PLAIN_BITS


def _distillation(recipe: Plain) -> Plain | None:
    found: Plain | None = (recipe.get("finetuning") or {}).get("distillation")
    return found


def _named(some: set[str], every: Mapping[str, Any]) -> str:
    return EVERYWHERE if len(some) in (0, len(every)) else " ".join(sites.shortened(some, every))
