"""Zeros: what goes, in which pattern, over which leaves, on which schedule, and what it costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from torch import Tensor

from lmcore import bundle
from lmcore.building import build, pruning_targets, schedule_of
from lmcore.calibration import Calibration
from lmcore.codec import Float32
from lmcore.compress.sparsity import (
    PRUNING_STEPS,
    CubicPruning,
    MagnitudePruning,
    block_sizes,
    magnitude_mask,
    magnitude_masks,
)
from lmcore.corpus import Corpus, Vocabulary
from lmcore.leaf import Leaf
from lmcore.model import LanguageModel
from lmcore.progress import TrainingRecord
from lmcore.pruning import Pattern, kept_values
from lmcore.recipe import Recipe, resolve
from lmcore.training import train
from search.bench.stages import Stages
from search.bench.workbench import Workbench

PATTERNS: list[Pattern] = ["weights", "rows", (1, 1), (2, 3), (4, 4), (1, 24), (40, 1), (50, 50)]
SHAPES = [(40, 24), (7, 5), (1, 30), (30, 1), (50,)]
SPARSITIES = [0.0, 0.01, 0.3, 0.5, 0.837, 0.99]
every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


def values_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def blocks_of(shape: tuple[int, ...], pattern: Pattern) -> list[tuple[slice, slice]]:
    """Where each block lies in the matrix, row of blocks by row of blocks."""
    rows, columns = (1, *shape) if len(shape) == 1 else shape
    height, width = {"weights": (1, 1), "rows": (1, columns)}.get(pattern, pattern)  # type: ignore
    return [
        (slice(r, r + height), slice(c, c + width))
        for r in range(0, rows, height)
        for c in range(0, columns, width)
    ]


@every_pattern
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_smallest_blocks_go(pattern: Pattern, shape: tuple[int, ...], sparsity: float) -> None:
    data = values_of(*shape)
    mask = magnitude_mask(data, sparsity, pattern)
    assert mask.shape == data.shape
    matrix, kept = (x.reshape(1, -1) if x.dim() == 1 else x for x in (data, mask))
    blocks = blocks_of(shape, pattern)
    sizes = torch.tensor([float(matrix[block].square().mean().sqrt()) for block in blocks])
    torch.testing.assert_close(block_sizes(data, pattern).flatten(), sizes)
    whole = [bool(kept[block].all()) for block in blocks]
    assert whole == [bool(kept[block].any()) for block in blocks]
    assert whole.count(False) == round(sparsity * len(blocks))
    gone = sizes[~torch.tensor(whole)]
    if 0 < len(gone) < len(blocks):
        assert gone.max() <= sizes[torch.tensor(whole)].min() + 1e-6
    most = kept_values(shape, sparsity, pattern)
    assert int(mask.sum()) <= most <= data.numel()
    if all(matrix[block].numel() == matrix[blocks[0]].numel() for block in blocks):
        assert int(mask.sum()) == most


@every_pattern
def test_of_equal_blocks_the_earlier_go_first(pattern: Pattern) -> None:
    mask = magnitude_mask(torch.ones(40, 24), 0.5, pattern)
    whole = [bool(mask[block].all()) for block in blocks_of((40, 24), pattern)]
    assert whole == sorted(whole)


# --- One threshold -------------------------------------------------------------------------------

LEAVES: dict[str, tuple[Tensor, float]] = {
    "large": (values_of(20, 12), 0.5),
    "small": (values_of(9, 7, seed=1) * 0.1, 0.2),
    "vector": (values_of(31, seed=2) * 0.5, 0.9),
    "kept": (values_of(5, 5, seed=3) + 10, 0.4),
}


def test_one_threshold_for_weights() -> None:
    leaves: Any = {name: (*leaf, "weights") for name, leaf in LEAVES.items()}
    masks = magnitude_masks(leaves, "all")
    assert list(masks) == list(leaves)
    data = torch.cat([leaf.flatten() for leaf, _ in LEAVES.values()]).abs()
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int((~kept).sum()) == sum(round(s * leaf.numel()) for leaf, s in LEAVES.values())
    assert data[kept].min() >= data[~kept].max()
    assert masks["kept"].all()
    assert not masks["small"].any()
    for name, mask in magnitude_masks(leaves, "site").items():
        assert torch.equal(mask, magnitude_mask(*leaves[name]))
    assert magnitude_masks({}, "all") == magnitude_masks({}, "site") == {}


@pytest.mark.parametrize("patterns", [["rows", (2, 3), "weights", (2, 2)], [(4, 5)] * 4], ids=str)
def test_one_threshold_for_blocks(patterns: list[Pattern]) -> None:
    """The smallest blocks of all go, as long as what is gone is no more than was asked for."""
    leaves = {
        name: (*leaf, pattern)
        for (name, leaf), pattern in zip(LEAVES.items(), patterns, strict=True)
    }
    masks = magnitude_masks(leaves, "all")
    every = []
    for name, (data, _, pattern) in leaves.items():
        matrix, mask = (x.reshape(1, -1) if x.dim() == 1 else x for x in (data, masks[name]))
        for block in blocks_of(tuple(data.shape), pattern):
            assert mask[block].all() == mask[block].any()
            size = float(matrix[block].square().mean().sqrt())
            every.append((size, matrix[block].numel(), bool(mask[block].all())))
    every.sort()
    kept = [one for _, _, one in every]
    assert kept == sorted(kept)
    asked = sum(round(s * data.numel()) for data, s in LEAVES.values())
    gone = sum(count for _, count, one in every if not one)
    assert gone <= asked < gone + every[kept.index(True)][1]


# --- The schedule --------------------------------------------------------------------------------


def zeros_of(leaf: Leaf) -> int:
    return 0 if leaf.mask is None else int((~leaf.mask).sum())


@pytest.mark.parametrize("scope", ["site", "all"])
@pytest.mark.parametrize("until", [0.25, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("updates", [1, 3, 50, 500])
def test_the_share_of_zeros_follows_the_cubic(scope: Any, until: float, updates: int) -> None:
    one, other = Leaf(values_of(40, 24)), Leaf(values_of(30, 20, seed=1))
    settings = MagnitudePruning(scope=scope, schedule="cubic", until=until)
    pruning = CubicPruning({"one": (one, 0.8, "weights"), "other": (other, 0.8, "rows")}, settings)
    if scope == "all":
        pruning = CubicPruning(
            {"one": (one, 0.8, "weights"), "other": (other, 0.8, "weights")}, settings
        )
    before, size, target = 0, one.data.numel() + other.data.numel(), 0.8
    generator = torch.Generator().manual_seed(0)
    for update in range(updates):
        with torch.no_grad():  # what a training would do
            for leaf in (one, other):
                noise = 0.01 * torch.randn(leaf.data.shape, generator=generator)
                leaf.data.add_(noise if leaf.mask is None else noise * leaf.mask)
            masks = [leaf.mask for leaf in (one, other)]
            pruning.after_update(0.1, (update + 1) / updates)
        for leaf, mask in zip((one, other), masks, strict=True):
            if leaf.mask is not None:
                assert not leaf.data[~leaf.mask].any()
                assert mask is None or not (leaf.mask & ~mask).any()  # what is gone stays gone
        zeros = zeros_of(one) + zeros_of(other)
        assert zeros >= before
        before = zeros
        done = (update + 1) / updates
        slack = 1.01 / PRUNING_STEPS / until
        low, high = (
            target * (1 - (1 - min(1.0, max(0.0, t))) ** 3)
            for t in (done / until - slack, done / until)
        )
        slack = 21 / size  # a row
        assert low - slack <= zeros / size <= high + slack
    assert before == round(0.8 * 960) + round(0.8 * 600)


def test_after_the_target_the_masks_stay() -> None:
    leaf = Leaf(values_of(40, 24))
    pruning = CubicPruning({"leaf": (leaf, 0.5, "weights")}, MagnitudePruning(schedule="cubic"))
    pruning.after_update(0.1, 0.7)
    assert leaf.mask is not None
    mask = leaf.mask.clone()
    with torch.no_grad():
        leaf.data[mask] = torch.rand(int(mask.sum()))  # some now smaller than others were
    for progress in (0.75, 0.9, 1.0):
        pruning.after_update(0.1, progress)
        assert torch.equal(leaf.mask, mask)


CODECS: list[dict[str, Any]] = [
    {"kind": "float32"},
    {"kind": "float16"},
    {"kind": "linear", "bits": 3},
    {"kind": "kmeans", "bits": 2, "weighted": True},
    {"kind": "kmeans", "bits": 1, "scope": 9},
    {"kind": "multibit", "bits": 2},
    {"kind": "multibit", "bits": 1, "scope": "matrix"},
    {"kind": "uniform", "step": 0.5},
]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec["kind"])
FINETUNING = {
    "epochs": 1,
    "batch": 5,
    "window": 20,
    "rate": 0.5,
    "dropout": {"kind": "element", "rate": 0.1},
}


FOUR_BITS = {"kind": "kmeans", "bits": 4}


def recipe_of(dense: LanguageModel, codec: dict[str, Any], **given: Any) -> Recipe:
    """A site on its own settings, all others on one."""
    structure = {"kind": "svd", "rank": 5}
    sites = {
        "*": {"bits": codec, "sparsity": 0.6},
        "lstm.0.input": {"bits": codec, "sparsity": 0.7, "structure": structure},
        "lstm.1.input": {"bits": codec, "sparsity": 0.5, "pattern": [5, 5]},
    }
    recipe = Recipe.model_validate({"sites": sites, "finetuning": FINETUNING, **given})
    return resolve(recipe, dense.settings, dense.words)


@every_codec
@pytest.mark.parametrize("scope", ["site", "all"])
def test_zeros_that_come_in_training_are_in_the_file(
    codec: dict[str, Any],
    scope: str,
    make_model: MakeModel,
    corpus: Corpus,
    vocabulary: Vocabulary,
    tmp_path: Path,
) -> None:
    dense = make_model()
    recipe = recipe_of(dense, codec, pruning={"scope": scope, "schedule": "cubic"})
    model = build(dense, recipe, Calibration(dense, corpus.train))
    leaves = {n: leaf for n, (leaf, _, _) in pruning_targets(model, recipe).items()}
    assert not any(zeros_of(leaf) for leaf in leaves.values())
    counts = []

    def look(record: TrainingRecord, updates: int) -> None:
        for leaf in leaves.values():
            if leaf.mask is not None:
                assert not leaf.data[~leaf.mask].any()
                assert not leaf.value()[~leaf.mask].any()
        counts.append(sum(map(zeros_of, leaves.values())))

    assert recipe.finetuning is not None
    train(
        model, corpus.train, recipe.finetuning, 0, observe=look,
        regularizer=schedule_of(recipe, model),
    )  # fmt: skip
    look(TrainingRecord(), 0)
    if scope == "site":
        assert counts == sorted(counts)
        for name, leaf in leaves.items():
            settings = recipe.sites[name.rpartition("/")[0]]
            kept = kept_values(leaf.shape, settings.sparsity, settings.pattern)
            assert leaf.mask is not None
            assert kept - 100 < int(leaf.mask.sum()) <= kept
    assert bool(leaves) == ("bits" not in codec or codec["bits"] > 1)
    path = tmp_path / "a.lmb"
    size = bundle.save(path, model.eval(), vocabulary)
    assert size <= bundle.packed_size(recipe, dense.settings, vocabulary)
    loaded = bundle.load(path).model
    for site, weight in model.sites.items():
        assert torch.equal(loaded.sites[site].dense(), weight.dense()), site


@pytest.mark.parametrize("schedule", ["at_once", "cubic"])
def test_a_schedule_ends_where_at_once_begins(
    schedule: str, make_model: MakeModel, corpus: Corpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Through the whole of a trial, also where the training is shorter than one update."""
    dense = make_model()
    bundle.save(tmp_path / "dense.lmb", dense, vocabulary)
    folder = tmp_path / "bundles"
    folder.mkdir()
    bench = Workbench(
        corpus,
        bundle.load(tmp_path / "dense.lmb"),
        0,
        folder,
        Stages(tmp_path / "stages", 10**9),
        "cpu",
    )
    for epochs in (1, 0.001):
        recipe = recipe_of(
            dense,
            FOUR_BITS,
            finetuning={**FINETUNING, "epochs": epochs, "full_rate_at": 1.0},
            pruning={"schedule": schedule},
        )
        measurement = bench.measure(recipe)
        assert measurement.size_bytes <= bundle.packed_size(recipe, dense.settings, vocabulary)
        for site, weight in bundle.load(bench.path(measurement.key)).model.sites.items():
            settings = recipe.sites[site]
            for leaf in weight.leaves.values():
                kept = kept_values(leaf.shape, settings.sparsity, settings.pattern)
                assert leaf.spec.kept is not None
                assert leaf.spec.kept <= kept < leaf.data.numel()
        at_once = recipe.model_copy(update={"pruning": recipe_of(dense, FOUR_BITS).pruning})
        lost = [bench._lost(one, bench.untrained(one)) for one in (recipe, at_once)]
        assert lost[0] == pytest.approx(lost[1]) != 0


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["site", "all"])
def test_pruning_goes_on_from_a_checkpoint(
    scope: str,
    make_model: MakeModel,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same weights to the bit, also of leaves whose masks were given up at the end."""
    dense = make_model()
    with torch.no_grad():  # large weights: few zeros here where one threshold is for all
        dense.sites["decoder"].leaves["matrix"].data.mul_(20)
    recipe = recipe_of(
        dense, {"kind": "kmeans", "bits": 2}, pruning={"scope": scope, "schedule": "cubic"}
    )
    settings = recipe.finetuning
    assert settings is not None
    settings = settings.model_copy(update={"epochs": 4})

    def run(model: LanguageModel, **given: Any) -> None:
        schedule = schedule_of(recipe, model)
        train(model, corpus.train, settings, 0, regularizer=schedule, **given)

    whole = build(dense, recipe)
    run(whole)
    given_up = whole.sites["decoder"].leaves["matrix"].mask is None
    assert given_up == (scope == "all")

    class StoppedError(Exception):
        pass

    monkeypatch.setattr("lmcore.training.CHECKPOINT_SECONDS", -1)
    for stop in (1, 20, 33, 34, 40, -1):

        def observe(record: TrainingRecord, updates: int, stop: int = stop) -> None:
            if record.updates == stop:
                raise StoppedError

        model = build(dense, recipe)
        try:
            run(model, observe=observe, checkpoint=tmp_path / "checkpoint")
        except StoppedError:
            continue
    for site, weight in whole.sites.items():
        assert torch.equal(model.sites[site].dense(), weight.dense()), site


# --- What it costs -------------------------------------------------------------------------------


@every_codec
@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.97])
def test_one_threshold_never_exceeds_the_packed_size(
    codec: dict[str, Any],
    spread: float,
    sparsity: float,
    make_model: MakeModel,
    vocabulary: Vocabulary,
    tmp_path: Path,
) -> None:
    """Whatever share each leaf gets: few zeros, whose places would cost more, or all of it."""
    dense = make_model(hidden=9)
    with torch.no_grad():
        for index, weight in enumerate(dense.sites.values()):
            weight.leaves["matrix"].data.mul_(spread**index)
    recipe = Recipe.model_validate(
        {"sites": {"*": {"bits": codec, "sparsity": sparsity}}, "pruning": {"scope": "all"}}
    )
    recipe = resolve(recipe, dense.settings, dense.words)
    calibration = Calibration(dense, torch.randint(0, 60, (500,)))
    model = build(dense, recipe, calibration).eval()
    path = tmp_path / "a.lmb"
    assert bundle.save(path, model, vocabulary) <= bundle.packed_size(
        recipe, dense.settings, vocabulary
    )
    for site, weight in bundle.load(path).model.sites.items():
        assert torch.equal(weight.dense(), model.sites[site].dense())


def test_a_mask_that_keeps_all_is_none() -> None:
    leaf = Leaf(values_of(40, 24), Float32(), torch.ones(40, 24, dtype=torch.bool))
    assert leaf.spec.kept is None
    assert not leaf.gains_from(torch.ones(40, 24, dtype=torch.bool))
    assert leaf.gains_from(magnitude_mask(leaf.data, 0.5))


# --- Recipes -------------------------------------------------------------------------------------


def resolved(dense: LanguageModel, **given: Any) -> Recipe:
    return resolve(Recipe.model_validate(given), dense.settings, dense.words)


def test_equal_models_have_equal_recipes(make_model: MakeModel) -> None:
    dense = make_model()
    half = {"sites": {"*": {"sparsity": 0.5}}}
    plain = resolved(dense, **half)
    assert resolved(dense, sites={"*": {"sparsity": 0.5, "pattern": [1, 1]}}) == plain
    assert resolved(dense, **half, pruning={"until": 0.9}) == plain
    assert resolved(dense, **half, pruning={"schedule": "cubic"}) == plain  # no fine-tuning
    assert resolved(dense, pruning={"scope": "all"}) == resolved(dense)
    tuned = {**half, "finetuning": FINETUNING}
    cubic = resolved(dense, **tuned, pruning={"schedule": "cubic"})
    assert cubic != resolved(dense, **tuned)
    assert cubic != resolved(dense, **tuned, pruning={"schedule": "cubic", "until": 0.9})


def test_codes_of_one_bit_have_no_zeros(make_model: MakeModel) -> None:
    """A mask costs as much as they do."""
    dense = make_model()
    for scope in ("site", "all"):
        site = {"sparsity": 0.9, "bits": {"kind": "kmeans", "bits": 1}}
        recipe = resolved(dense, sites={"*": site}, pruning={"scope": scope})
        assert {settings.sparsity for settings in recipe.sites.values()} == {0}


@pytest.mark.parametrize("structure", [{"kind": "dense"}, {"kind": "svd", "rank": 1}], ids=str)
def test_a_leaf_may_be_zero_altogether(
    structure: dict[str, Any], make_model: MakeModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    dense = make_model()
    site = {"sparsity": 0.99, "pattern": [96, 24], "structure": structure}
    recipe = resolved(dense, sites={"lstm.*": site})
    model = build(dense, recipe).eval()
    assert not model.sites["lstm.0.input"].dense().any()
    size = bundle.save(tmp_path / "a.lmb", model, vocabulary)
    assert size <= bundle.packed_size(recipe, dense.settings, vocabulary)
    assert not bundle.load(tmp_path / "a.lmb").model.sites["lstm.0.input"].dense().any()


def test_pruned_at_once_as_the_recipe_says(make_model: MakeModel) -> None:
    dense = make_model()
    recipe = recipe_of(dense, {"kind": "float32"})
    for site, weight in build(dense, recipe).sites.items():
        settings = recipe.sites[site]
        for leaf in weight.leaves.values():
            assert leaf.mask is not None
            blocks = len(blocks_of(leaf.shape, settings.pattern))
            assert zeros_of(leaf) > 0
            if settings.pattern == "weights":
                assert zeros_of(leaf) == round(settings.sparsity * blocks)
    total = resolved(dense, sites={"*": {"sparsity": 0.6}, "decoder": {}}, pruning={"scope": "all"})
    model = build(dense, total)
    sites = {site: weight.leaves["matrix"] for site, weight in model.sites.items()}
    assert sites.pop("decoder").mask is None
    wanted = sum(round(0.6 * math.prod(leaf.shape)) for leaf in sites.values())
    assert sum(map(zeros_of, sites.values())) == wanted
