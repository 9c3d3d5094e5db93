"""The contract of every method, each found by existing in a file of `lmcore/compress`.

What is tested is told by the method itself: the `examples` of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import Statistics
from torch import Tensor

from lmcore import coding
from lmcore.building import build
from lmcore.bundle import load, packed_size, save
from lmcore.calibration import Calibration
from lmcore.cells import LSTM
from lmcore.codec import Codec, Float32, Ladder
from lmcore.compress.codebooks import KMeans
from lmcore.compress.sparsity import magnitude_mask
from lmcore.compress.uniform import Uniform
from lmcore.corpus import Corpus, Vocabulary
from lmcore.layer_methods import LayerMethod, layer_methods
from lmcore.leaf import Leaf
from lmcore.looped_cells import RHN
from lmcore.methods import methods_of, sentences
from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.pruning import Pattern, Pruning, kept_values
from lmcore.recipe import LayerSettings, Recipe, leaf_specs, resolve
from lmcore.settings import Settings
from lmcore.structure import DenseStructure, Structure
from lmcore.weight import Weight

SHAPES = [(40, 24), (24, 40), (64, 8)]
LEAF_SHAPES = [SHAPES[0], (1, 30), (30, 1), (1, 1), (50,)]
SPARSITIES = [0.0, 0.6]

STRUCTURES = cast(dict[str, type[Structure]], Structure.members)
CODECS = cast(dict[str, type[Codec]], Codec.members)
PRUNINGS = cast(dict[str, type[Pruning]], Pruning.members)


@pytest.mark.parametrize("family", [*STRUCTURES.values(), *CODECS.values(), *PRUNINGS.values()])
def test_every_method_has_examples_of_its_settings(family: Any) -> None:
    examples = family.examples(SHAPES[0]) if issubclass(family, Structure) else family.examples()
    assert examples
    for steps in examples:
        for step in [steps] if isinstance(steps, dict) else steps:
            settings = family.model_validate(step)
            assert family.pick(settings.plain() | {"kind": settings.kind}) == settings
            hash(settings)  # what is computed for settings may be kept by them


def test_two_methods_of_one_name_are_refused() -> None:
    (first, *_), (method, *_) = STRUCTURES.values(), layer_methods()
    with pytest.raises(
        TypeError, match=f"both have the kind '{first.model_fields['kind'].default}'"
    ):
        type("Other", (first,), {})
    with pytest.raises(TypeError, match=f"both have the setting '{method.field}'"):
        type("Other", (type(method),), {})
    assert next(iter(STRUCTURES.values())) is first
    assert layer_methods()[0] is method


def ends(ladder: Ladder) -> Ladder:
    """Its first and its last step."""
    return [ladder[0], ladder[-1]] if len(ladder) > 1 else ladder


def codecs(steps: Callable[[Ladder], Ladder] = ends) -> list[Codec]:
    """Some steps of each ladder."""
    given = [
        {"kind": kind, **step}
        for kind, family in CODECS.items()
        for ladder in family.examples()
        for step in steps(ladder)
    ]
    return [cast(Codec, Codec.pick(one)) for one in given]


def structures(shape: tuple[int, int]) -> list[Structure]:
    """The ends of each ladder."""
    given = [
        {"kind": kind, **step}
        for kind, family in STRUCTURES.items()
        for ladder in family.examples(shape)
        for step in ends(ladder)
    ]
    return [cast(Structure, Structure.pick(one)) for one in given]


def middles(shape: tuple[int, int]) -> list[Structure]:
    """One of the middle of each kind's first ladder."""
    given = {kind: family.examples(shape)[0] for kind, family in STRUCTURES.items()}
    steps = [{"kind": kind, **ladder[len(ladder) // 3]} for kind, ladder in given.items()]
    return [cast(Structure, Structure.pick(one)) for one in steps]


def named(settings: Settings) -> str:
    return "-".join(map(str, settings.plain().values()))


def combinations_of_both() -> Iterator[Any]:
    """A structure and a codec meet in the leaves alone: a structure of each kind goes with a codec
    of each ladder in one shape, and all go with floats in every shape."""
    second = codecs(lambda ladder: ladder[:2][-1:])
    pairs = [(SHAPES[0], one, codec) for one in middles(SHAPES[0]) for codec in second]
    pairs += [(shape, one, Float32()) for shape in SHAPES for one in structures(shape)]
    for shape, one, codec in pairs:
        ids = f"{shape[0]}x{shape[1]}-{named(one)}-{named(codec)}"
        yield pytest.param(shape, one, codec, id=ids)


every_codec = pytest.mark.parametrize("codec", codecs(), ids=named)
every_structure = pytest.mark.parametrize(
    ("shape", "structure", "codec"), list(combinations_of_both())
)
with_and_without_zeros = pytest.mark.parametrize("sparsity", SPARSITIES)


def matrix_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def make_leaf(data: Tensor, codec: Codec, sparsity: float = 0.0) -> Leaf:
    return Leaf(data, codec, magnitude_mask(data, sparsity) if sparsity else None)


def make_weight(
    structure: Structure, codec: Codec, sparsity: float, shape: tuple[int, int]
) -> Weight:
    leaves = structure.factor(matrix_of(shape), Statistics(shape))
    made = {name: make_leaf(leaf, codec, sparsity) for name, leaf in leaves.items()}
    return Weight(structure, made, shape)


# --- Weights -------------------------------------------------------------------------------------


@every_structure
@with_and_without_zeros
def test_all_paths_are_one_matrix(
    structure: Structure, codec: Codec, sparsity: float, shape: tuple[int, int]
) -> None:
    weight = make_weight(structure, codec, sparsity, shape)
    x, ids = matrix_of((3, 2, shape[1]), seed=1), torch.tensor([[0, 5], [shape[0] - 1, 5]])
    for training in (True, False):
        weight.train(training)
        dense = weight.dense()
        z, matrix = weight.head(x)
        assert weight.shape == tuple(dense.shape) == shape
        assert {n: leaf.shape for n, leaf in weight.leaves.items()} == structure.leaf_shapes(shape)
        assert dense.isfinite().all()
        torch.testing.assert_close(weight.matmul(x), x @ dense.T)
        torch.testing.assert_close(z @ matrix.T, x @ dense.T)
        torch.testing.assert_close(weight.rows(ids), dense[ids])


@every_structure
@with_and_without_zeros
def test_gradient_reaches_every_leaf_and_no_zero(
    structure: Structure, codec: Codec, sparsity: float, shape: tuple[int, int]
) -> None:
    weight = make_weight(structure, codec, sparsity, shape).train()
    optimizer = torch.optim.AdamW(weight.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        dense = weight.dense()
        torch.autograd.backward((dense * matrix_of(shape, seed=2)).sum())
        for leaf in weight.leaves.values():
            assert leaf.data.grad is not None
            assert leaf.data.grad.isfinite().all()
            # a leaf whose codes are all zero leaves none to those it is multiplied with
            assert leaf.data.grad.any() or not all(v.value().any() for v in weight.leaves.values())
            if leaf.mask is not None:
                assert not leaf.data.grad[~leaf.mask].any()
        optimizer.step()
    for leaf in weight.eval().leaves.values():
        if leaf.mask is not None:
            assert int((~leaf.mask).sum()) == round(sparsity * leaf.data.numel())
            assert not leaf.data[~leaf.mask].any()
            assert not leaf.value()[~leaf.mask].any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [k for k, family in STRUCTURES.items() if family.holds_any])
def test_full_structure_is_the_dense_matrix(kind: str, shape: tuple[int, int]) -> None:
    for ladder in STRUCTURES[kind].examples(shape):
        structure = Structure.pick({"kind": kind, **ladder[-1]})
        assert isinstance(structure, Structure)
        starts = structure.factor(matrix_of(shape), Statistics(shape))
        weight = Weight(structure, {name: Leaf(leaf) for name, leaf in starts.items()}, shape)
        torch.testing.assert_close(weight.dense(), matrix_of(shape), rtol=0, atol=1e-6)


# --- Leaves and codecs ---------------------------------------------------------------------------


@every_codec
@with_and_without_zeros
def test_gradient_passes_straight_through(codec: Codec, sparsity: float) -> None:
    leaf, upstream = make_leaf(matrix_of((40, 24)), codec, sparsity), matrix_of((40, 24), seed=1)
    torch.autograd.backward((leaf.train().value() * upstream).sum())
    expected = upstream if leaf.mask is None else upstream * leaf.mask
    assert torch.equal(leaf.data.grad, expected)  # type: ignore[arg-type]


@every_codec
@with_and_without_zeros
def test_written_leaf_reads_back_to_the_bit(codec: Codec, sparsity: float) -> None:
    for shape in LEAF_SHAPES:
        leaf = make_leaf(matrix_of(shape), codec, sparsity).eval()
        again = Leaf.read(leaf.spec, leaf.write()).eval()
        assert again.spec == leaf.spec, shape
        assert torch.equal(again.value(), leaf.value()), shape
        for ours, theirs in zip(leaf.write(), again.write(), strict=True):
            assert (ours == theirs).all(), shape


@every_codec
@with_and_without_zeros
def test_coding_never_makes_a_leaf_larger(codec: Codec, sparsity: float) -> None:
    for shape in LEAF_SHAPES:
        leaf, total = make_leaf(matrix_of(shape), codec, sparsity).eval(), 0
        for stream, array in zip(leaf.spec.streams, leaf.write(), strict=True):
            assert array.shape == stream.shape
            coded = len(coding.encode(array, stream.low, stream.high))
            raw = coding.raw_size(array.size, stream.low, stream.high)
            assert coded <= raw, shape
            total += raw
        assert leaf.spec.packed_size == total, shape


@every_codec
def test_codes_are_refreshed_now_and_then_in_training_and_always_otherwise(codec: Codec) -> None:
    leaf = make_leaf(matrix_of((40, 24)), codec).train()
    seen = leaf.value().detach().clone()
    for update in range(1, 2 * codec.refresh_updates + 1):
        with torch.no_grad():
            leaf.data.mul_(1.1)
        leaf.updated(rate=1.0)
        value = leaf.value().detach()
        if codec.exact_in_training:
            assert torch.equal(value, leaf.data)
        else:
            assert torch.equal(value, seen) == bool(update % codec.refresh_updates), update
        seen = value.clone()
    leaf.eval()
    for _ in range(3):
        before = leaf.value().detach().clone()
        with torch.no_grad():
            leaf.data.mul_(1.5)
        assert not torch.equal(leaf.value(), before)


@every_codec
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_read_leaf_keeps_its_values_on_another_device(codec: Codec, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    leaf = make_leaf(matrix_of((40, 24)), codec).eval()
    moved = Leaf.read(leaf.spec, leaf.write()).eval().to(device)
    assert moved.value().device.type == device
    assert torch.equal(moved.value().cpu(), leaf.value())


EDGES = {
    "zeros": torch.zeros(20, 10),
    "constant": torch.full((20, 10), 0.3),
    "negative constant": torch.full((20, 10), -0.3),
    "one row": matrix_of((1, 50)),
    "one column": matrix_of((50, 1)),
    "one value": torch.tensor([[0.7]]),
    "tiny": matrix_of((20, 10)) * 1e-7,
    "huge": matrix_of((20, 10)) * 1e5,
    "one outlier": torch.cat([matrix_of((19, 10)), torch.full((1, 10), 1e4)]),
    "rows of zeros": torch.cat([matrix_of((10, 10)), torch.zeros(10, 10)]),
}


@every_codec
@with_and_without_zeros
def test_edge_data_give_finite_values(codec: Codec, sparsity: float) -> None:
    for name, data in EDGES.items():
        leaf = make_leaf(data, codec, sparsity).train()
        for _ in range(2):  # the first assignment and one that follows another
            value = leaf.value().detach()
            assert value.isfinite().all(), name
            assert float(value.abs().max()) <= 1.5 * float(data.abs().max()) + 1e-3, name
            leaf.eval()
            with torch.no_grad():
                leaf.data.mul_(1.0)
        read = Leaf.read(leaf.spec, leaf.write()).eval()
        assert torch.equal(read.value(), leaf.value()), name


def test_a_step_too_wide_for_half_precision_gives_finite_values() -> None:
    leaf = Leaf(matrix_of((20, 10)) * 1e5, Uniform(step=50.0)).eval()
    assert leaf.value().isfinite().all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_kmeans_levels_are_near_the_optimum(bits: int, seed: int) -> None:
    """Against all ways of cutting the sorted values into 2^bits slices (dynamic programming)."""
    values = matrix_of((300,), seed).sort().values.double()
    sums, squares = (torch.cat([torch.zeros(1), v.cumsum(0)]) for v in (values, values**2))
    least = torch.full((301,), torch.inf, dtype=torch.float64)
    least[0] = 0
    for _ in range(2**bits):
        before, least = least, least.clone()
        for end in range(1, 301):
            size = torch.arange(end, 0, -1)
            spread = squares[end] - squares[:end] - (sums[end] - sums[:end]) ** 2 / size
            least[end] = (before[:end] + spread).min()
    codec = KMeans(bits=bits)
    decoded = codec.decode(codec.assign(values.float(), None, None))
    error = float((decoded.double() - values).square().sum())
    assert float(least[-1]) * 0.999 <= error <= 1.25 * float(least[-1])


def test_kmeans_finds_the_best_cut_of_clusters() -> None:
    values = torch.tensor([-1.1, -1.0, -0.9, 0.02, 0.1, 0.5, 0.55, 2.0])
    codec = KMeans(bits=2)
    decoded = codec.decode(codec.assign(values, None, None))
    errors = []
    for cuts in combinations(range(1, 8), 3):
        slices = [values[a:b] for a, b in pairwise([0, *cuts, 8])]
        errors.append(sum(float((s - s.mean()).square().sum()) for s in slices))
    assert float((decoded - values).square().sum()) == pytest.approx(min(errors), abs=1e-4)


@pytest.mark.parametrize("rounding", [0.0, 0.1, 0.7])
@with_and_without_zeros
def test_uniform_rounding_takes_the_cheapest_of_all_codes(rounding: float, sparsity: float) -> None:
    codec, data = Uniform(step=0.4, rounding=rounding), matrix_of((40, 24)) ** 3 * 100
    mask = magnitude_mask(data, sparsity) if sparsity else None
    data = data if mask is None else data * mask
    before = codec.assign(data, mask, None)
    moved = data * 1.3
    symbols = codec.assign(moved, mask, before).symbols.long()

    counts = torch.bincount(before.symbols.abs().flatten().long(), minlength=128).double() + 0.5
    codes = torch.arange(-127, 128)
    lengths = -(counts / counts.sum()).log2()[codes.abs()] + (codes != 0)
    scaled = (moved / before.tables["step"]).double().flatten().unsqueeze(1)
    cost = (scaled - codes) ** 2 + rounding * lengths  # (values, codes)
    taken = cost.gather(1, symbols.flatten().unsqueeze(1) + 127).squeeze(1)
    assert torch.equal(before.tables["step"], codec.assign(moved, mask, before).tables["step"])
    torch.testing.assert_close(taken, cost.amin(1), rtol=1e-5, atol=1e-3)


def test_more_rounding_costs_precision_and_saves_bits() -> None:
    data, sizes, errors = matrix_of((200, 40)), [], []
    for rounding in (0.0, 0.1, 0.3):
        leaf = Leaf(data, Uniform(step=0.8, rounding=rounding)).eval()
        sizes.append(sum(len(coding.encode(a, -127, 255)) for a in leaf.write()))
        errors.append(float((leaf.value().detach() - data).square().mean()))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)


@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.1, 0.5, 0.837, 0.9999])
def test_sparsity_keeps_the_largest(sparsity: float) -> None:
    for data in (matrix_of((40, 24)), torch.ones(40, 24), torch.zeros(7)):
        mask = magnitude_mask(data, sparsity)
        zeros = round(sparsity * data.numel())
        assert int((~mask).sum()) == zeros
        if 0 < zeros < data.numel():
            assert data[mask].abs().min() >= data[~mask].abs().max()


# --- Packed size ---------------------------------------------------------------------------------

MODEL = ModelSettings(layers=1, hidden=10, embedding=24, tied=False)
WORDS = Vocabulary(["<eos>", "<unk>", *[f"w{i}" for i in range(62)]])


def sizes_of(settings: list[dict[str, Any]], site: str) -> tuple[list[int], list[int]]:
    """Of each settings of the site: bytes by all leaves, and the packed size of the whole file."""
    leaves, files = [], []
    for given in settings:
        codec = Codec.pick(given.get("bits", "float32"))
        if getattr(codec, "feedback", False):  # refused at an embedding; the sizes are the same
            given = {**given, "bits": codec.model_copy(update={"feedback": False})}
        recipe = resolve(Recipe.model_validate({"sites": {site: given}}), MODEL, len(WORDS))
        specs = leaf_specs(recipe, MODEL, len(WORDS)).values()
        leaves.append(sum(spec.footprint for spec in specs))
        files.append(packed_size(recipe, MODEL, WORDS))
    return leaves, files


def ladders_at(site: str) -> Iterator[list[Any]]:
    """The ladders of structures that a site, or all of them ("*"), can have; some seven steps."""
    shape = MODEL.site_shapes(len(WORDS))["lstm.0.recurrent" if site == "*" else site]
    for kind, family in STRUCTURES.items():
        for ladder in family.examples(shape):
            if site == "embedding" or ladder[0].get("rows") != "counts":
                some = [*ladder[: -1 : 1 + len(ladder) // 6], ladder[-1]]
                yield [{"kind": kind, **step} for step in some]


def assert_rising(sizes: tuple[list[int], list[int]]) -> None:
    """The leaves strictly; the whole file but for its header, which names each, and lengths."""
    leaves, files = sizes
    assert leaves == sorted(leaves)
    assert all(a <= b + 128 for a, b in pairwise(files)), files


@pytest.mark.parametrize("site", ["embedding", "lstm.0.recurrent"])
@with_and_without_zeros
@every_codec
def test_a_smaller_rank_is_never_larger(codec: Codec, sparsity: float, site: str) -> None:
    for ladder in ladders_at(site):
        steps = [{"structure": s, "bits": codec, "sparsity": sparsity} for s in ladder]
        assert_rising(sizes_of(steps, site))


@pytest.mark.parametrize("site", ["embedding", "*"])
@with_and_without_zeros
@pytest.mark.parametrize("kind", list(CODECS))
def test_fewer_bits_are_never_larger(kind: str, sparsity: float, site: str) -> None:
    for structures in ladders_at(site):
        structure = structures[len(structures) // 3]
        for ladder in CODECS[kind].examples():
            steps = [
                {"structure": structure, "bits": {"kind": kind, **s}, "sparsity": sparsity}
                for s in ladder
            ]
            assert_rising(sizes_of(steps, site))


@pytest.mark.parametrize("site", ["embedding", "lstm.*", "*"])
@every_codec
def test_more_zeros_are_never_larger(codec: Codec, site: str) -> None:
    for structure in (DenseStructure(), Structure.pick({"kind": "svd", "rank": 3})):
        steps = [
            {"structure": structure, "bits": codec, "sparsity": percent / 100}
            for percent in (99, 95, 90, 80, 60, 50, 40, 20, 10, 5, 3, 2, 1, 0)
        ]
        assert_rising(sizes_of(steps, site))


# --- Pruning -------------------------------------------------------------------------------------

WANTED: dict[str, tuple[Tensor, float, Pattern]] = {
    "one/matrix": (matrix_of((40, 24)), 0.5, "weights"),
    "two/matrix": (matrix_of((24, 30), seed=1) * 3, 0.3, "weights"),
    "two/rows": (matrix_of((20, 15), seed=2), 0.8, "rows"),
    "two/blocks": (matrix_of((21, 15), seed=3), 0.4, (4, 1)),
}
prunings = [
    family.model_validate(example) for family in PRUNINGS.values() for example in family.examples()
]
every_pruning = pytest.mark.parametrize("pruning", prunings, ids=named)


@every_pruning
def test_masks_keep_no_more_than_they_may(pruning: Pruning) -> None:
    masks = pruning.masks(WANTED)
    assert list(masks) == list(WANTED)
    for name, (data, sparsity, pattern) in WANTED.items():
        assert masks[name].dtype == torch.bool
        assert masks[name].shape == data.shape
        if not pruning.is_shared:
            assert int(masks[name].sum()) <= kept_values(tuple(data.shape), sparsity, pattern)
    asked = sum(round(sparsity * data.numel()) for data, sparsity, _ in WANTED.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) <= asked + 30  # a row or two


@every_pruning
def test_a_pruning_is_canonical_once(pruning: Pruning) -> None:
    for finetuned in (False, True):
        canonical = pruning.canonical(finetuned)
        assert canonical.canonical(finetuned) == canonical
        assert canonical.is_at_once or finetuned


@every_pruning
def test_a_schedule_brings_as_many_zeros_as_come_at_once(pruning: Pruning) -> None:
    targets = {
        name: (Leaf(data), sparsity, pattern) for name, (data, sparsity, pattern) in WANTED.items()
    }
    regularizer = pruning.regularizer(targets)
    assert (regularizer is None) == pruning.is_at_once
    if regularizer is None:
        return
    for progress in (0.1, 0.5, 1.0):
        regularizer.after_update(rate=0.1, progress=progress)
    for name, mask in pruning.masks(WANTED).items():
        leaf = targets[name][0]
        assert leaf.mask is None or torch.equal(leaf.mask, mask)
        assert leaf.mask is not None or not leaf.gains_from(mask)


# --- Layers --------------------------------------------------------------------------------------

LAYERED = [
    ModelSettings(layers=2, hidden=20, embedding=16, tied=tied, cell=cell)
    for tied in (False, True)
    for cell in (LSTM(), RHN(depth=2))
]
every_layered_model = pytest.mark.parametrize("model", LAYERED, ids=named)


def layer_ladder(method: LayerMethod[Any], model: ModelSettings) -> list[Recipe]:
    """The resolved recipes of a method's examples, the largest first: the last changes nothing."""
    given = [{"layers": example} for example in reversed(method.examples(model))]
    return [resolve(Recipe.model_validate(one), model, len(WORDS)) for one in given]


def test_a_layer_method_has_a_name_and_a_place_of_its_own() -> None:
    methods = layer_methods()
    for what in ("field", "kind", "order"):
        assert len({getattr(method, what) for method in methods}) == len(methods), what
    assert [method.field for method in methods] == list(LayerSettings.model_fields)


@every_layered_model
@pytest.mark.parametrize("method", layer_methods(), ids=lambda method: method.field)
def test_a_layer_method_makes_the_model_that_it_says(
    method: LayerMethod[Any], model: ModelSettings, corpus: Corpus, tmp_path: Path
) -> None:
    dense = random_model(model, len(WORDS), 0.2, torch.Generator().manual_seed(0)).eval()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    calibration = Calibration(dense, corpus.train)
    for recipe in layer_ladder(method, model):
        assert resolve(recipe, model, len(WORDS)) == recipe
        assert resolve(Recipe.model_validate(recipe.plain()), model, len(WORDS)) == recipe
        built = build(dense, recipe, calibration).eval()
        assert built.settings == recipe.layers.shape(model)
        shapes = {site: weight.shape for site, weight in built.sites.items()}
        assert shapes == built.settings.site_shapes(len(WORDS))
        assert set(shapes) <= set(recipe.layers.site_shapes(model, len(WORDS)))
        size = save(tmp_path / "model.lmb", built, WORDS)
        assert size <= packed_size(recipe, model, WORDS)
        again, ids = load(tmp_path / "model.lmb").language, corpus.valid[:40].view(20, 2)
        assert torch.equal(again(ids, again.zero_state(2))[0], built(ids, built.zero_state(2))[0])
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name]), name


@every_layered_model
@pytest.mark.parametrize("method", layer_methods(), ids=lambda method: method.field)
def test_a_layer_method_never_makes_the_model_larger(
    method: LayerMethod[Any], model: ModelSettings
) -> None:
    most = model.weights(len(WORDS))
    for recipe in layer_ladder(method, model):
        weights = recipe.layers.shape(model).weights(len(WORDS))
        taken = getattr(recipe.layers, method.field)
        assert weights <= most
        free = method.is_open or method.keeps_size
        assert free or (taken is not None) == (weights < model.weights(len(WORDS)))
        most = weights


def test_a_layer_method_that_came_later_leaves_keys_as_they_are() -> None:
    """Those of the first recipes are written as null, and no other."""
    plain = LayerSettings(embedding=8).plain()
    assert plain == {"units": None, "projection": None, "embedding": 8}


# --- Reports -------------------------------------------------------------------------------------


def test_every_method_has_a_sentence() -> None:
    model, found = LAYERED[0], []
    for method in layer_methods():
        found.append({"layers": method.examples(model)[0]})
    for kind, structure in STRUCTURES.items():
        steps = structure.examples((len(WORDS), model.embedding))[0]
        found.append({"sites": {"embedding": {"structure": {"kind": kind, **steps[0]}}}})
    found += [
        {"sites": {"*": {"bits": {"kind": kind, **codec.examples()[0][0]}}}}
        for kind, codec in CODECS.items()
    ]
    found += [
        {"pruning": {"kind": kind, **example}, "sites": {"*": {"sparsity": 0.5}}}
        for kind, pruning in PRUNINGS.items()
        for example in pruning.examples()
    ]
    for given in found:
        recipe = resolve(Recipe.model_validate(given), model, len(WORDS)).plain()
        said = [line for lines in sentences(recipe).values() for line in lines]
        assert len(said) == (methods_of(recipe) != ["dense"]), given
        assert all(line == line.strip() and "{" not in line for line in said)
