"""Recipe: the settings of one trial, and what they amount to for a dense model of some shape.

Composition: units are removed first, then layers reshaped (projection, embedding), then each site
gets its structure, its leaves their zeros, their values their bits. What is left is entropy-coded.
`lmcore.building` makes the model.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

import lmcore.compress
from lmcore import sites
from lmcore.codec import AnyCodec, Float16, Float32, LeafSpec, Shape, leaf_spec
from lmcore.errors import UserError
from lmcore.files import content_key
from lmcore.layer_methods import LayerMethod, layer_methods
from lmcore.model_settings import ModelSettings
from lmcore.pruning import DEFAULT, AnyPruning, Pattern, Pruning, is_exact, kept_values
from lmcore.settings import Settings, later
from lmcore.structure import AnyStructure, DenseStructure, MatrixShape, Structure
from lmcore.training_settings import FineTuningSettings

if TYPE_CHECKING:
    from lmcore.calibration import Calibration
    from lmcore.network import N
    from lmcore.network_settings import NetworkSettings

for _module in pkgutil.iter_modules(lmcore.compress.__path__):
    importlib.import_module(f"lmcore.compress.{_module.name}")


if TYPE_CHECKING:
    _LayerFields = Settings
else:
    _LayerFields = create_model(
        "_LayerFields",
        __base__=Settings,
        **{
            method.field: (
                method.setting | None,
                None if method.is_written_as_null else later(None),
            )
            for method in layer_methods()
        },
    )


class LayerSettings(_LayerFields):
    """What becomes of the layers before their sites are compressed; None: they stay.

    Each `LayerMethod` of `lmcore/compress` has its setting here, by its name and of its type:
    `units`, `projection`, `embedding`, `rotation`.
    """

    if TYPE_CHECKING:  # the methods are not known to it

        def __init__(self, **settings: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    @property
    def asked(self) -> list[tuple[LayerMethod[Any], Any]]:
        """The methods that have a setting, and the settings, in the order in which they act."""
        settings = [(method, getattr(self, method.field)) for method in layer_methods()]
        return [(method, value) for method, value in settings if value is not None]

    @property
    def is_open(self) -> bool:
        """Whether a training decides what sizes are left."""
        return any(method.is_open for method, _ in self.asked)

    def canonical(self, model: NetworkSettings, words: int) -> LayerSettings:
        """The settings, with None for each that would not make the model smaller."""
        taken, _ = _taken(self.asked, model, words)
        return LayerSettings(**taken)

    def shape(self, model: NetworkSettings) -> NetworkSettings:
        """The model's settings after canonical settings; as many units as there are at most."""
        for method, value in self.asked:
            model = method.shape(value, model)
        return model

    def site_shapes(self, model: NetworkSettings, words: int) -> dict[str, MatrixShape]:
        """Site -> its largest shape (out, in) after canonical settings: units may be removed."""
        shaped = self.shape(model)
        shapes = shaped.site_shapes(words)
        lost = self.is_open and sites.DECODER_PROJECTION in model.site_shapes(words)
        if lost and isinstance(shaped, ModelSettings):
            # stays where so many units go that a projection or an embedding is skipped
            shapes.setdefault(sites.DECODER_PROJECTION, (shaped.embedding, shaped.widths[-1]))
        return shapes

    def apply(self, dense: N, calibration: Calibration) -> tuple[N, Calibration]:
        """The reshaped dense model, and what the text tells of it.

        A projection is skipped if the pruned layer has no more units than its width, and a
        narrower embedding if the pruned one is no wider.
        """
        for method, value in self.asked:
            dense, calibration = method.apply(value, dense, calibration)
        return dense, calibration


def _taken(
    asked: Sequence[tuple[LayerMethod[Any], Any]], model: NetworkSettings, words: int
) -> tuple[dict[str, Any], NetworkSettings]:
    """The settings that are worth taking, in their canonical form, and the model's shape by them.

    A setting may pay only by what another one leaves: whether a projection saves anything can
    depend on the embedding's width. So the last method is tried without and with its setting, each
    time with what the methods before it then amount to. The setting is taken only if the whole
    model gets smaller, or if a training decides what is left. A method that changes no size acts on
    what the others leave.
    """
    if not asked:
        return {}, model
    *others, (method, setting) = asked
    without, shape_without = _taken(others, model, words)
    if method.keeps_size:
        return {
            **without,
            method.field: method.canonical(setting, shape_without, words),
        }, shape_without
    value = method.canonical(setting, model, words)
    if value is None:
        return without, shape_without
    taken, shape = _taken(others, method.shape(value, model), words)
    if method.is_open or shape.weights(words) < shape_without.weights(words):
        return {**taken, method.field: value}, shape
    return without, shape_without


class SiteSettings(Settings):
    """How one site is stored: its structure, then zeros in its leaves, then their bits.

    `sparsity` is the share of zeros in each leaf. `pattern` is what becomes zero together: single
    weights, rows, or blocks [rows, columns].
    """

    structure: AnyStructure = DenseStructure()
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pattern: Pattern = later("weights")
    bits: AnyCodec = Float32()

    def canonical(self, site: str, shape: MatrixShape, pruning: Pruning) -> SiteSettings:
        """What the settings amount to at a site of that shape (out, in).

        The structure is dense where its leaves would take more bytes than the dense matrix; there
        are no zeros where they save none. Raises UserError where the site cannot have them.
        """
        structure = self.structure.canonical(site, shape)
        if self._footprint(structure, shape) > self._footprint(DenseStructure(), shape):
            structure = DenseStructure()
        leaves = structure.leaf_shapes(shape).values()
        is_pruned = any(self.is_pruned(leaf, pruning) for leaf in leaves)
        update = {
            "structure": structure,
            "sparsity": self.sparsity if is_pruned else 0.0,
            "pattern": self.pattern if is_pruned and self.pattern != (1, 1) else "weights",
        }
        return self.model_copy(update=update)

    def fitted(self, shape: MatrixShape) -> SiteSettings:
        """The settings, dense where a matrix of that shape is too small for the structure."""
        if self.structure.fits(shape):
            return self
        return self.model_copy(update={"structure": DenseStructure()})

    def is_pruned(self, leaf: Shape, pruning: Pruning) -> bool:
        """Whether a leaf of that shape gets zeros: where they can make its file smaller.

        A shared pruning may make any leaf all zeros.
        """
        kept = kept_values(leaf, self.sparsity, self.pattern)
        if pruning.is_shared and self.sparsity:
            kept = 0
        elif kept == math.prod(leaf):
            return False
        return self.bits.zeros_are_codes or leaf_spec(leaf, self.bits, kept).kept is not None

    def spec(self, leaf: Shape) -> LeafSpec:
        """What the file holds of a leaf of that shape with its own share of zeros."""
        return leaf_spec(leaf, self.bits, kept_values(leaf, self.sparsity, self.pattern))

    def _footprint(self, structure: Structure, shape: MatrixShape) -> int:
        """Bytes of the site's leaves in this structure, the tables of their codecs included."""
        return sum(self.spec(leaf).footprint for leaf in structure.leaf_shapes(shape).values())


_PRUNING = Pruning.pick({"kind": DEFAULT})


class Recipe(Settings):
    """One trial's settings: with the dense checkpoint and the seed, this plain data reproduces it.

    `sites` maps names or patterns ("lstm.*.input", "*") to settings. An exact name is taken
    before a pattern, an earlier pattern before a later one; a site that nothing matches stays
    dense in float32. `finetuning` None: none. A recipe's new field changes the keys of all
    earlier recipes unless it is `later`.
    """

    layers: LayerSettings = later(LayerSettings())
    pruning: AnyPruning = later(_PRUNING)
    sites: dict[str, SiteSettings] = Field(default_factory=dict)
    biases: AnyCodec = Float16()
    finetuning: FineTuningSettings | None = None

    @property
    def key(self) -> str:
        """Hash of the content."""
        return content_key(self.plain())

    def of_site(self, site: str) -> SiteSettings:
        """The settings that the recipe has for a site, by its name or by the first pattern."""
        if site in self.sites:
            return self.sites[site]
        matches = (value for name, value in self.sites.items() if fnmatchcase(site, name))
        return next(matches, SiteSettings())


def resolve(recipe: Recipe, model: NetworkSettings, words: int) -> Recipe:
    """The recipe in its canonical form: every site by name, every setting as what it amounts to.

    Two recipes that make the same model resolve to equal recipes. A structure that a site cannot
    have because `layers` made or shrank it is dense. Raises UserError for a name or pattern that
    matches no site and for settings that a site cannot have.
    """
    layers = recipe.layers.canonical(model, words)
    shapes, dense = layers.site_shapes(model, words), model.site_shapes(words)
    for pattern in recipe.sites:
        if not any(fnmatchcase(site, pattern) for site in shapes):
            raise UserError(
                f"recipe.sites.{pattern}: matches no site; the sites are {', '.join(shapes)}"
            )
    settings = {}
    for site, shape in shapes.items():
        settings[site] = _at_site(recipe, site, shape, dense.get(site))
        _check_feedback(settings[site], site, model)
    if recipe.biases.needs_inputs:
        raise UserError("recipe.biases.feedback: got true; nothing multiplies a bias")
    finetuning = recipe.finetuning and recipe.finetuning.canonical()
    is_pruned = any(site.sparsity for site in settings.values())
    pruning = recipe.pruning.canonical(finetuned=finetuning is not None) if is_pruned else _PRUNING
    update = {"layers": layers, "sites": settings, "finetuning": finetuning, "pruning": pruning}
    return recipe.model_copy(update=update)


def _at_site(
    recipe: Recipe, site: str, shape: MatrixShape, before: MatrixShape | None
) -> SiteSettings:
    """The canonical settings of a site; `before` is its shape in the dense model, None where
    reshaping made the site.

    A site that reshaping made too small for its structure becomes dense. A site that was too small
    already raises UserError.
    """
    settings = recipe.of_site(site)
    if before is not None:
        settings.structure.canonical(site, before)
    if shape != before:
        settings = settings.fitted(shape)
    return settings.canonical(site, shape, recipe.pruning)


def _check_feedback(settings: SiteSettings, site: str, model: NetworkSettings) -> None:
    """UserError where the codec feeds errors back and nothing is multiplied with the leaves."""
    looked_up = site in model.looked_up
    if settings.bits.needs_inputs and (looked_up or not settings.structure.multiplies):
        raise UserError(
            f"recipe.sites.{site}.bits.feedback: got true; the leaves of "
            f"{settings.structure.kind} there multiply nothing whose error could be fed back"
        )


def leaf_specs(recipe: Recipe, model: NetworkSettings, words: int) -> dict[str, LeafSpec]:
    """What the file of a resolved recipe holds at most of each leaf, by "site/leaf" or bias name.

    It holds less where units are removed, where a rank comes from an energy, and of leaves that
    a shared pruning makes zeros in.
    """
    specs = {}
    for site, shape in recipe.layers.site_shapes(model, words).items():
        settings = recipe.sites[site]
        if recipe.pruning.is_shared:
            settings = settings.model_copy(update={"sparsity": 0.0})
        for leaf, leaf_shape in settings.structure.leaf_shapes(shape).items():
            specs[sites.leaf_name(site, leaf)] = settings.spec(leaf_shape)
    for bias, bias_shape in recipe.layers.shape(model).bias_shapes(words).items():
        specs[bias] = LeafSpec(bias_shape, recipe.biases, None)
    return specs


def is_open(recipe: Recipe, model: NetworkSettings, words: int) -> bool:
    """Whether the weights decide which leaves the file of a resolved recipe has, or their sizes."""
    shapes = recipe.layers.site_shapes(model, words)
    return recipe.layers.is_open or any(
        settings.structure.is_open
        or (
            settings.sparsity > 0
            and (recipe.pruning.is_shared or not is_exact(leaf, settings.pattern))
        )
        for site, settings in recipe.sites.items()
        for leaf in settings.structure.leaf_shapes(shapes[site]).values()
    )
