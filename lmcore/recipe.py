"""Recipe: site -> settings, and the compressed model that it makes of a dense one."""

from __future__ import annotations

import importlib
import math
import pkgutil
from fnmatch import fnmatchcase
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

import lmcore.compress
from lmcore.compress.quantization import AnyCodec, Codec, Float16, Float32
from lmcore.compress.sparsity import magnitude_mask
from lmcore.errors import UserError
from lmcore.files import content_key
from lmcore.model import LanguageModel, ModelSettings
from lmcore.settings import Settings
from lmcore.training import FineTuningSettings
from lmcore.weight import AnyStructure, DenseStructure, Leaf, LeafSpec, Structure, Weight, leaf_spec

for _module in pkgutil.iter_modules(lmcore.compress.__path__):
    importlib.import_module(f"lmcore.compress.{_module.name}")


class SiteSettings(Settings):
    """How one site is stored: its structure, then zeros in its leaves, then their bits."""

    structure: AnyStructure = DenseStructure()
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bits: AnyCodec = Float32()


class Recipe(Settings):
    """One trial's settings: plain data that, with the dense checkpoint and the seed, is all.

    `sites` maps names or patterns ("lstm.*.input", "*") to settings. An exact name is taken
    before a pattern, an earlier pattern before a later one; a site that nothing matches stays
    dense in float32. `finetuning` None: none.
    """

    sites: dict[str, SiteSettings] = Field(default_factory=dict)
    biases: AnyCodec = Float16()
    finetuning: FineTuningSettings | None = None

    @property
    def key(self) -> str:
        """Hash of the content."""
        return content_key(self.plain())


def resolve(recipe: Recipe, model: ModelSettings, words: int) -> Recipe:
    """The recipe in its canonical form: every site by name, every setting as what it amounts to.

    Two recipes that make the same model resolve to equal recipes. Raises UserError for a name or
    pattern that matches no site and for settings that a site cannot have.
    """
    shapes = model.site_shapes(words)
    for pattern in recipe.sites:
        if not any(fnmatchcase(site, pattern) for site in shapes):
            raise UserError(
                f"recipe.sites.{pattern}: matches no site; the sites are {', '.join(shapes)}"
            )
    sites = {
        site: _canonical(_settings_of(recipe, site), site, shape) for site, shape in shapes.items()
    }
    finetuning = recipe.finetuning if recipe.finetuning and recipe.finetuning.epochs else None
    return recipe.model_copy(update={"sites": sites, "finetuning": finetuning})


def _settings_of(recipe: Recipe, site: str) -> SiteSettings:
    if site in recipe.sites:
        return recipe.sites[site]
    matches = (value for name, value in recipe.sites.items() if fnmatchcase(site, name))
    return next(matches, SiteSettings())


def _canonical(settings: SiteSettings, site: str, shape: tuple[int, int]) -> SiteSettings:
    structure = settings.structure.canonical(site, shape)
    if _packed(structure, settings, shape) >= _packed(DenseStructure(), settings, shape):
        structure = DenseStructure()
    zeros = [
        round(settings.sparsity * math.prod(leaf))
        if settings.bits.zeros_are_codes
        else leaf_spec(leaf, settings.bits, settings.sparsity).kept is not None
        for leaf in structure.leaf_shapes(shape).values()
    ]
    sparsity = settings.sparsity if any(zeros) else 0.0
    return settings.model_copy(update={"structure": structure, "sparsity": sparsity})


def _packed(structure: Structure, settings: SiteSettings, shape: tuple[int, int]) -> int:
    """Bytes of the site's leaves in this structure, the tables of their codecs included."""
    leaves = structure.leaf_shapes(shape).values()
    return sum(leaf_spec(leaf, settings.bits, settings.sparsity).packed_size for leaf in leaves)


def leaf_specs(recipe: Recipe, model: ModelSettings, words: int) -> dict[str, LeafSpec]:
    """What the file of a resolved recipe holds of each leaf, by "site/leaf" or bias name."""
    specs = {}
    for site, shape in model.site_shapes(words).items():
        settings = recipe.sites[site]
        for leaf, leaf_shape in settings.structure.leaf_shapes(shape).items():
            specs[f"{site}/{leaf}"] = leaf_spec(leaf_shape, settings.bits, settings.sparsity)
    for bias, bias_shape in model.bias_shapes(words).items():
        specs[bias] = leaf_spec(bias_shape, recipe.biases, 0.0)
    return specs


def build(dense: LanguageModel, recipe: Recipe) -> LanguageModel:
    """The compressed model that a resolved recipe makes of `dense`, which stays as it is."""
    with torch.no_grad():
        weights = {
            site: _compress(weight.dense(), recipe.sites[site])
            for site, weight in dense.sites.items()
        }
        biases = {
            name: Leaf(leaf.value().detach(), recipe.biases) for name, leaf in dense.biases.items()
        }
    return LanguageModel(dense.settings, weights, biases)


def _compress(matrix: Tensor, settings: SiteSettings) -> Weight:
    leaves = settings.structure.factor(matrix.detach())
    return settings.structure.weight(
        {name: _leaf(value, settings.bits, settings.sparsity) for name, value in leaves.items()}
    )


def _leaf(value: Tensor, codec: Codec, sparsity: float) -> Leaf:
    spec = leaf_spec(tuple(value.shape), codec, sparsity)
    sparse = sparsity > 0 and (codec.zeros_are_codes or spec.kept is not None)
    return Leaf(value, codec, magnitude_mask(value, sparsity) if sparse else None)
