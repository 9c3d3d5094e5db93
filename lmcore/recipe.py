"""Recipe: the settings of one trial, and the compressed model that it makes of a dense one.

Composition: units are removed first, then layers reshaped (projection, embedding), then each site
gets its structure, its leaves their zeros, their values their bits. What is left is entropy-coded.
"""

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
from lmcore.calibration import Calibration
from lmcore.compress.embedding import reduce_embedding
from lmcore.compress.hidden_units import UnitsSettings
from lmcore.compress.projection import project, projected_widths, with_projections
from lmcore.compress.quantization import AnyCodec, Codec, Evidence, Float16, Float32
from lmcore.compress.sparsity import (
    CubicPruning,
    Pattern,
    PruningSettings,
    is_exact,
    kept_values,
    magnitude_masks,
)
from lmcore.errors import UserError
from lmcore.files import content_key
from lmcore.model import LanguageModel, ModelSettings, parameters
from lmcore.settings import Settings
from lmcore.training import FineTuningSettings
from lmcore.weight import (
    AnyStructure,
    DenseStructure,
    Leaf,
    LeafSpec,
    Shape,
    Structure,
    Weight,
    leaf_spec,
)

for _module in pkgutil.iter_modules(lmcore.compress.__path__):
    importlib.import_module(f"lmcore.compress.{_module.name}")

Size = Annotated[int, Field(ge=1)]


class LayerSettings(Settings):
    """What becomes of the layers before their sites are compressed; None: they stay.

    `projection` is the width of each layer's shared projection, or one for all, 0 for none.
    """

    units: UnitsSettings | None = None
    projection: Size | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    embedding: Size | None = None

    def canonical(self, model: ModelSettings, words: int) -> LayerSettings:
        """What would leave the model as it is, or larger, as None."""
        asked = 0 if self.projection is None else self.projection
        if isinstance(asked, tuple) and len(asked) != model.layers:
            raise UserError(
                f"recipe.layers.projection: got {list(asked)}; "
                f"it takes one width a layer, {model.layers} in all"
            )
        widths = asked if isinstance(asked, tuple) else (asked,) * model.layers
        trained = self.units if self.units and self.units.training.epochs else None

        def with_embedding(size: int | None) -> LayerSettings:
            narrowed = LayerSettings(embedding=size).shape(model)
            saving = projected_widths(widths, narrowed, words)
            update = {"units": trained, "projection": saving if any(saving) else None}
            return self.model_copy(update={**update, "embedding": size})

        found = with_embedding(None)
        if self.embedding and self.embedding < model.embedding:
            narrowed = with_embedding(self.embedding)
            if narrowed.shape(model).weights(words) < found.shape(model).weights(words):
                return narrowed
        return found

    def shape(self, model: ModelSettings) -> ModelSettings:
        """The model's settings after canonical settings, but for the units that may go."""
        if isinstance(self.projection, tuple):
            model = with_projections(model, self.projection)
        return model.model_copy(update={"embedding": self.embedding or model.embedding})

    def site_shapes(self, model: ModelSettings, words: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) at most, after canonical settings: units may go, too."""
        shaped = self.shape(model)
        shapes = shaped.site_shapes(words)
        if self.units and "decoder.projection" in model.site_shapes(words):
            # where so many units go that a projection or an embedding is none any more
            shapes.setdefault("decoder.projection", (shaped.embedding, shaped.widths[-1]))
        return shapes

    def apply(
        self, dense: LanguageModel, calibration: Calibration
    ) -> tuple[LanguageModel, Calibration]:
        """The reshaped dense model, and what the text tells of it.

        A width that the units which are left do not reach is none.
        """
        if isinstance(self.projection, tuple):
            pairs = zip(self.projection, dense.settings.widths, strict=True)
            dense = project(dense, tuple(w if w < now else 0 for w, now in pairs), calibration)
            calibration = calibration.of(dense)
        if self.embedding and self.embedding < dense.settings.embedding:
            dense = reduce_embedding(dense, self.embedding, calibration)
            calibration = calibration.of(dense)
        return dense, calibration


class SiteSettings(Settings):
    """How one site is stored: its structure, then zeros in its leaves, then their bits.

    `pattern` is what becomes zero together: single weights, rows, or blocks [rows, columns].
    """

    structure: AnyStructure = DenseStructure()
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # came later: left out at its default, so that the keys of earlier recipes stay
    pattern: Annotated[Pattern, Field(exclude_if=lambda pattern: pattern == "weights")] = "weights"
    bits: AnyCodec = Float32()


class Recipe(Settings):
    """One trial's settings: plain data that, with the dense checkpoint and the seed, is all.

    `sites` maps names or patterns ("lstm.*.input", "*") to settings. An exact name is taken
    before a pattern, an earlier pattern before a later one; a site that nothing matches stays
    dense in float32. `finetuning` None: none.
    """

    # came later: left out at their defaults, so that the keys of earlier recipes stay
    layers: Annotated[LayerSettings, Field(exclude_if=lambda given: given == LayerSettings())] = (
        LayerSettings()
    )
    pruning: Annotated[
        PruningSettings, Field(exclude_if=lambda given: given == PruningSettings())
    ] = PruningSettings()
    sites: dict[str, SiteSettings] = Field(default_factory=dict)
    biases: AnyCodec = Float16()
    finetuning: FineTuningSettings | None = None

    @property
    def key(self) -> str:
        """Hash of the content."""
        return content_key(self.plain())


def resolve(recipe: Recipe, model: ModelSettings, words: int) -> Recipe:
    """The recipe in its canonical form: every site by name, every setting as what it amounts to.

    Two recipes that make the same model resolve to equal recipes. A structure that a site cannot
    have because `layers` made or shrank it is dense. Raises UserError for a name or pattern that
    matches no site and for settings that a site cannot have.
    """
    layers, dense = recipe.layers.canonical(model, words), model.site_shapes(words)
    shapes = layers.site_shapes(model, words)
    for pattern in recipe.sites:
        if not any(fnmatchcase(site, pattern) for site in shapes):
            raise UserError(
                f"recipe.sites.{pattern}: matches no site; the sites are {', '.join(shapes)}"
            )
    sites = {}
    for site, shape in shapes.items():
        settings = _settings_of(recipe, site)
        if site in dense:
            settings.structure.canonical(site, dense[site])  # refuses what no reshaping excuses
        if shape != dense.get(site):
            settings = _fitted(settings, shape)
        sites[site] = _canonical(settings, site, shape, recipe.pruning.scope == "all")
        looked_up = site == "embedding" and not model.tied
        if settings.bits.needs_inputs and (looked_up or not sites[site].structure.multiplies):
            raise UserError(
                f"recipe.sites.{site}.bits.feedback: got true; the leaves of "
                f"{sites[site].structure.kind} there multiply nothing whose error could be fed back"
            )
    if recipe.biases.needs_inputs:
        raise UserError("recipe.biases.feedback: got true; nothing multiplies a bias")
    finetuning = recipe.finetuning if recipe.finetuning and recipe.finetuning.epochs else None
    if finetuning and finetuning.distillation and not finetuning.distillation.mix:
        finetuning = finetuning.model_copy(update={"distillation": None})
    pruned = any(site.sparsity for site in sites.values())
    pruning = recipe.pruning if pruned else PruningSettings()
    if finetuning is None or pruning.schedule == "at_once":
        pruning = PruningSettings(scope=pruning.scope)
    update = {"layers": layers, "sites": sites, "finetuning": finetuning, "pruning": pruning}
    return recipe.model_copy(update=update)


def _settings_of(recipe: Recipe, site: str) -> SiteSettings:
    if site in recipe.sites:
        return recipe.sites[site]
    matches = (value for name, value in recipe.sites.items() if fnmatchcase(site, name))
    return next(matches, SiteSettings())


def _fitted(settings: SiteSettings, shape: tuple[int, int]) -> SiteSettings:
    """The settings, dense where a matrix of that shape cannot have the structure."""
    if settings.structure.fits(shape):
        return settings
    return settings.model_copy(update={"structure": DenseStructure()})


def _canonical(
    settings: SiteSettings, site: str, shape: tuple[int, int], one_threshold: bool
) -> SiteSettings:
    structure = settings.structure.canonical(site, shape)
    if _packed(structure, settings, shape) > _packed(DenseStructure(), settings, shape):
        structure = DenseStructure()
    leaves = structure.leaf_shapes(shape).values()
    pruned = any(_is_pruned(leaf, settings, one_threshold) for leaf in leaves)
    update = {
        "structure": structure,
        "sparsity": settings.sparsity if pruned else 0.0,
        "pattern": settings.pattern if pruned and settings.pattern != (1, 1) else "weights",
    }
    return settings.model_copy(update=update)


def _is_pruned(shape: Shape, settings: SiteSettings, one_threshold: bool) -> bool:
    """Whether a leaf gets zeros: where they can make its file smaller.

    How many it gets of one threshold for all is not known before, so all of it might be zero.
    """
    kept = kept_values(shape, settings.sparsity, settings.pattern)
    if one_threshold and settings.sparsity:
        kept = 0
    elif kept == math.prod(shape):
        return False
    return settings.bits.zeros_are_codes or leaf_spec(shape, settings.bits, kept).kept is not None


def _packed(structure: Structure, settings: SiteSettings, shape: tuple[int, int]) -> int:
    """Bytes of the site's leaves in this structure, the tables of their codecs included."""
    return sum(_spec(leaf, settings).footprint for leaf in structure.leaf_shapes(shape).values())


def _spec(shape: Shape, settings: SiteSettings) -> LeafSpec:
    kept = kept_values(shape, settings.sparsity, settings.pattern)
    return leaf_spec(shape, settings.bits, kept)


def leaf_specs(recipe: Recipe, model: ModelSettings, words: int) -> dict[str, LeafSpec]:
    """What the file of a resolved recipe holds at most of each leaf, by "site/leaf" or bias name.

    It holds less where units are removed, where a rank comes from an energy, and of leaves that
    one threshold for all prunes.
    """
    specs, shaped = {}, recipe.layers.shape(model)
    for site, shape in recipe.layers.site_shapes(model, words).items():
        settings = recipe.sites[site]
        if recipe.pruning.scope == "all":
            settings = settings.model_copy(update={"sparsity": 0.0})
        for leaf, leaf_shape in settings.structure.leaf_shapes(shape).items():
            specs[f"{site}/{leaf}"] = _spec(leaf_shape, settings)
    for bias, bias_shape in shaped.bias_shapes(words).items():
        specs[bias] = LeafSpec(bias_shape, recipe.biases, None)
    return specs


def is_open(recipe: Recipe, model: ModelSettings, words: int) -> bool:
    """Whether the weights decide which leaves the file of a resolved recipe has, or their sizes."""
    shapes = recipe.layers.site_shapes(model, words)
    one_threshold = recipe.pruning.scope == "all"
    return recipe.layers.units is not None or any(
        settings.structure.is_open
        or (settings.sparsity and (one_threshold or not is_exact(leaf, settings.pattern)))
        for site, settings in recipe.sites.items()
        for leaf in settings.structure.leaf_shapes(shapes[site]).values()
    )


def build(
    dense: LanguageModel, recipe: Recipe, calibration: Calibration | None = None
) -> LanguageModel:
    """The compressed model that a resolved recipe makes of `dense`, which stays as it is.

    `dense` is the dense checkpoint, or what is left of it when `layers.units` were removed.
    Raises UserError where the recipe looks at a text and the calibration has none.
    """
    dense, calibration = recipe.layers.apply(dense, calibration or Calibration(dense, None))
    with torch.no_grad():
        recipe = settle(recipe, dense, calibration)
        matrices = {site: weight.dense().detach() for site, weight in dense.sites.items()}
        starts = {
            f"{site}/{name}": value
            for site, matrix in matrices.items()
            for name, value in recipe.sites[site]
            .structure.factor(matrix, calibration.site(site))
            .items()
        }
    leaves = {name: Leaf(value) for name, value in starts.items()}
    biases = {name: Leaf(leaf.value().detach()) for name, leaf in dense.biases.items()}
    model = _assemble(dense, recipe, leaves, biases)
    evidence = _evidence(recipe, model, leaves, biases, calibration)
    at_once = recipe.pruning.schedule == "at_once"
    targets = pruning_targets(model, recipe) if at_once else {}
    masks = magnitude_masks(
        {name: (leaf.data.detach(), share, what) for name, (leaf, share, what) in targets.items()},
        recipe.pruning.scope,
    )
    site_of = {name: recipe.sites[name.rpartition("/")[0]] for name in leaves}
    leaves = {
        name: Leaf(value, site_of[name].bits, evidence=evidence.get(name))
        for name, value in starts.items()
    }
    for name, mask in masks.items():
        if leaves[name].gains_from(mask):
            leaves[name].prune(mask)
    biases = {
        name: Leaf(leaf.data.detach(), recipe.biases, evidence=evidence.get(name))
        for name, leaf in biases.items()
    }
    return _assemble(dense, recipe, leaves, biases)


def settle(recipe: Recipe, dense: LanguageModel, calibration: Calibration) -> Recipe:
    """A resolved recipe with all settled that depends on the reshaped dense model's weights."""
    scope = recipe.pruning.scope == "all"
    sites = {}
    for site, weight in dense.sites.items():
        settings = _fitted(recipe.sites[site], weight.shape)
        structure = settings.structure.settled(weight.dense().detach(), calibration.site(site))
        settled = settings.model_copy(update={"structure": structure})
        sites[site] = _canonical(settled, site, weight.shape, scope)
    return recipe.model_copy(update={"sites": sites})


def pruning_targets(model: LanguageModel, recipe: Recipe) -> dict[str, tuple[Leaf, float, Pattern]]:
    """The leaves that are to have zeros, by "site/leaf", their sparsity and pattern."""
    return {
        f"{site}/{name}": (leaf, settings.sparsity, settings.pattern)
        for site, weight in model.sites.items()
        for settings in [recipe.sites[site]]
        for name, leaf in weight.leaves.items()
        if _is_pruned(leaf.shape, settings, recipe.pruning.scope == "all")
    }


def schedule_of(recipe: Recipe, model: LanguageModel) -> CubicPruning | None:
    """What raises the built model's sparsity while it is fine-tuned, where the recipe says so."""
    if recipe.pruning.schedule == "at_once":
        return None
    return CubicPruning(pruning_targets(model, recipe), recipe.pruning)


def _assemble(
    dense: LanguageModel, recipe: Recipe, leaves: dict[str, Leaf], biases: dict[str, Leaf]
) -> LanguageModel:
    weights: dict[str, Weight] = {
        site: recipe.sites[site].structure.weight(
            {
                name: leaves[f"{site}/{name}"]
                for name in recipe.sites[site].structure.leaf_shapes(weight.shape)
            },
            weight.shape,
        )
        for site, weight in dense.sites.items()
    }
    return LanguageModel(dense.settings, weights, biases)


def _evidence(
    recipe: Recipe,
    model: LanguageModel,
    leaves: dict[str, Leaf],
    biases: dict[str, Leaf],
    calibration: Calibration,
) -> dict[str, Evidence]:
    """What the codecs of the leaves and biases ask for, by "site/leaf" or bias name."""
    codecs: dict[str, Codec] = dict.fromkeys(biases, recipe.biases)
    inputs: dict[str, Tensor] = {}
    for site, weight in model.sites.items():
        codec = recipe.sites[site].bits
        codecs |= {f"{site}/{name}": codec for name in weight.leaves}
        if codec.needs_inputs:
            seen = calibration.site(site).inputs()
            assert seen is not None, "resolve refuses feedback where words are looked up"
            values = {name: leaf.data.detach() for name, leaf in weight.leaves.items()}
            moments = weight.structure.leaf_inputs(values, seen)
            inputs |= {f"{site}/{name}": value for name, value in moments.items()}
    importance: dict[str, Tensor] = {}
    if any(codec.needs_importance for codec in codecs.values()):
        squares = calibration.squared_gradients(model)
        names = {id(value): name for name, value in parameters(model).items()}
        importance = {n: squares[names[id(leaf.data)]] for n, leaf in (leaves | biases).items()}
    return {name: Evidence(importance.get(name), inputs.get(name)) for name in codecs}
