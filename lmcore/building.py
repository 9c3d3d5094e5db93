"""The compressed model that a recipe makes of a dense one."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore import sites
from lmcore.calibration import Calibration
from lmcore.codec import Evidence
from lmcore.leaf import Leaf
from lmcore.network import N, Network, parameters
from lmcore.progress import Regularizer
from lmcore.pruning import Pattern
from lmcore.recipe import Recipe
from lmcore.weight import Weight


def build(dense: N, recipe: Recipe, calibration: Calibration | None = None) -> N:
    """The compressed model that a resolved recipe makes of `dense`, which stays as it is.

    `dense` is the dense checkpoint, or what is left of it when `layers.units` were removed.
    Raises UserError where the recipe looks at a text and the calibration has none.
    """
    dense, calibration = recipe.layers.apply(dense, calibration or Calibration(dense, None))
    with torch.no_grad():
        recipe = settle(recipe, dense, calibration)
        starts = _starts(dense, recipe, calibration)
    biases = {name: leaf.value().detach() for name, leaf in dense.biases.items()}
    floats = _assembled(
        dense,
        recipe,
        {name: Leaf(value) for name, value in starts.items()},
        {name: Leaf(value) for name, value in biases.items()},
    )
    evidence, masks = _evidence(recipe, floats, calibration), _masks(recipe, floats)
    leaves = {
        name: Leaf(value, recipe.sites[sites.site_of(name)].bits, evidence=evidence.get(name))
        for name, value in starts.items()
    }
    for name, mask in masks.items():
        if leaves[name].gains_from(mask):
            leaves[name].prune(mask)
    coded = {
        name: Leaf(value, recipe.biases, evidence=evidence.get(name))
        for name, value in biases.items()
    }
    return _assembled(dense, recipe, leaves, coded)


def settle(recipe: Recipe, dense: Network, calibration: Calibration) -> Recipe:
    """A resolved recipe with all settled that depends on the reshaped dense model's weights."""
    settings = {}
    for site, weight in dense.sites.items():
        fitted = recipe.sites[site].fitted(weight.shape)
        structure = fitted.structure.settled(weight.dense().detach(), calibration.site(site))
        settled = fitted.model_copy(update={"structure": structure})
        settings[site] = settled.canonical(site, weight.shape, recipe.pruning)
    return recipe.model_copy(update={"sites": settings})


def pruning_targets(model: Network, recipe: Recipe) -> dict[str, tuple[Leaf, float, Pattern]]:
    """The leaves that are to have zeros, by "site/leaf", their sparsity and pattern."""
    return {
        sites.leaf_name(site, name): (leaf, settings.sparsity, settings.pattern)
        for site, weight in model.sites.items()
        for settings in [recipe.sites[site]]
        for name, leaf in weight.leaves.items()
        if settings.is_pruned(leaf.shape, recipe.pruning)
    }


def schedule_of(recipe: Recipe, model: Network) -> Regularizer | None:
    """The regularizer that adds zeros during fine-tuning; None where all zeros come at once."""
    if recipe.pruning.is_at_once:
        return None
    return recipe.pruning.regularizer(pruning_targets(model, recipe))


def _starts(dense: Network, recipe: Recipe, calibration: Calibration) -> dict[str, Tensor]:
    """Leaf by "site/leaf" -> what it starts from."""
    found = {}
    for site, weight in dense.sites.items():
        structure, matrix = recipe.sites[site].structure, weight.dense().detach()
        for name, value in structure.factor(matrix, calibration.site(site)).items():
            found[sites.leaf_name(site, name)] = value
    return found


def _assembled(dense: N, recipe: Recipe, leaves: dict[str, Leaf], biases: dict[str, Leaf]) -> N:
    weights = {}
    for site, weight in dense.sites.items():
        structure = recipe.sites[site].structure
        names = structure.leaf_shapes(weight.shape)
        own = {name: leaves[sites.leaf_name(site, name)] for name in names}
        weights[site] = Weight(structure, own, weight.shape)
    return type(dense)(dense.settings, weights, biases)


def _masks(recipe: Recipe, model: Network) -> dict[str, Tensor]:
    """The masks of the leaves, by "site/leaf", where zeros come at once."""
    targets = pruning_targets(model, recipe) if recipe.pruning.is_at_once else {}
    return recipe.pruning.masks(
        {name: (leaf.data.detach(), share, what) for name, (leaf, share, what) in targets.items()}
    )


def _evidence(recipe: Recipe, model: Network, calibration: Calibration) -> dict[str, Evidence]:
    """What the codecs of the leaves and biases ask for, by "site/leaf" or bias name.

    `model` is the compressed model with its leaves in float32 and without zeros.
    """
    stored, codecs = dict(model.biases), dict.fromkeys(model.biases, recipe.biases)
    inputs, counts = dict[str, Tensor](), dict[str, Tensor]()
    for site, weight in model.sites.items():
        codec = recipe.sites[site].bits
        stored |= {sites.leaf_name(site, name): leaf for name, leaf in weight.leaves.items()}
        codecs |= {sites.leaf_name(site, name): codec for name in weight.leaves}
        if codec.needs_inputs:
            seen = calibration.site(site).inputs()
            assert seen is not None, "resolve refuses feedback where words are looked up"
            values = {name: leaf.data.detach() for name, leaf in weight.leaves.items()}
            moments = weight.structure.leaf_inputs(values, seen)
            inputs |= {sites.leaf_name(site, name): value for name, value in moments.items()}
        if codec.needs_counts and (words := calibration.site(site).counts()) is not None:
            of_words = [
                name for name, leaf in weight.leaves.items() if len(leaf.data) == len(words)
            ]
            counts |= {sites.leaf_name(site, name): words for name in of_words}
    importance: dict[str, Tensor] = {}
    if any(codec.needs_importance for codec in codecs.values()):
        squares = calibration.squared_gradients(model)
        names = {id(value): name for name, value in parameters(model).items()}
        importance = {name: squares[names[id(leaf.data)]] for name, leaf in stored.items()}
    return {
        name: Evidence(importance.get(name), inputs.get(name), counts.get(name)) for name in codecs
    }
