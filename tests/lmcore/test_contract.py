"""The contract of every structure and every codec, each found by existing.

A new method needs an example of its settings in STRUCTURES or CODECS, and is then tested whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import Any, cast

import pytest
import torch
from conftest import Statistics
from torch import Tensor

from lmcore import coding
from lmcore.bundle import packed_size
from lmcore.compress.codebooks import KMeans
from lmcore.compress.quantization import Codec, Float32, Uniform
from lmcore.compress.sparsity import magnitude_mask
from lmcore.corpus import Vocabulary
from lmcore.model import ModelSettings
from lmcore.recipe import Recipe, leaf_specs, resolve
from lmcore.settings import Family, Settings
from lmcore.weight import DenseStructure, Leaf, Structure, Weight

Ladder = list[dict[str, Any]]  # settings of one kind, from the smallest file to the largest
SHAPES = [(40, 24), (24, 40), (64, 8)]
LEAF_SHAPES = [SHAPES[0], (1, 30), (30, 1), (1, 1), (50,)]
SPARSITIES = [0.0, 0.6]

FACTORS = {"rows": [4, 4, 4], "columns": [4, 2, 8]}  # 64 x 64: most matrices here are padded

# The last step of a ladder is the full structure: it holds any matrix.
STRUCTURES: dict[str, Callable[[tuple[int, int]], list[Ladder]]] = {
    "dense": lambda shape: [[{}]],
    "svd": lambda shape: [[{"rank": rank} for rank in range(1, min(shape) + 1)]],
    "activation_svd": lambda shape: [
        [{"rank": rank, "rows": rows} for rank in range(1, min(shape) + 1)]
        for rows in ("none", "fisher", "counts")
    ],
    "semi_nmf": lambda shape: [[{"rank": rank} for rank in range(1, min(shape) + 1)]],
    "tensor_train": lambda shape: [
        [{"rank": rank, **settings} for rank in (1, 2, 3, 5, 8, 64)]
        for settings in ({"cores": 2}, {"cores": 3, "factors": FACTORS})
    ],
}
INEXACT = {"semi_nmf"}  # a factor without negative numbers does not hold any matrix
CODECS: dict[str, list[Ladder]] = {
    "float32": [[{}]],
    "float16": [[{}]],
    "linear": [
        [{"bits": bits, "scope": scope} for bits in range(1, 9)] for scope in ("matrix", "row", 7)
    ],
    "kmeans": [
        [{"bits": bits} for bits in range(1, 9)],
        [{"bits": bits, "scope": 7, "weighted": True} for bits in range(1, 5)],
        [{"bits": bits, "scope": "row", "feedback": True} for bits in range(1, 5)],
    ],
    "multibit": [
        [{"bits": bits, "scope": scope} for bits in range(1, 9)] for scope in ("matrix", "row", 7)
    ],
    "uniform": [
        [{"step": step, "scope": scope, "rounding": rounding} for step in (2.0, 0.7, 0.05)]
        for scope, rounding in (("matrix", 0.1), ("row", 0.1), ("matrix", 0.0))
    ],
}


@pytest.mark.parametrize(("family", "examples"), [(Structure, STRUCTURES), (Codec, CODECS)])
def test_every_method_has_an_example(family: type[Family], examples: dict[str, Any]) -> None:
    assert set(family.members) == set(examples), (
        f"tests/lmcore/test_contract.py must hold an example of each {family.__name__} and no other"
    )


def ends(ladder: Ladder) -> Ladder:
    """Its first and its last step."""
    return [ladder[0], ladder[-1]] if len(ladder) > 1 else ladder


def codecs(steps: Callable[[Ladder], Ladder] = ends) -> list[Codec]:
    """Some steps of each ladder."""
    given = [
        {"kind": kind, **step}
        for kind, ladders in CODECS.items()
        for ladder in ladders
        for step in steps(ladder)
    ]
    return [cast(Codec, Codec.pick(one)) for one in given]


def structures(shape: tuple[int, int]) -> list[Structure]:
    """The ends of each ladder."""
    given = [
        {"kind": kind, **step}
        for kind, ladders in STRUCTURES.items()
        for ladder in ladders(shape)
        for step in ends(ladder)
    ]
    return [cast(Structure, Structure.pick(one)) for one in given]


def middles(shape: tuple[int, int]) -> list[Structure]:
    """One of the middle of each kind's first ladder."""
    given = {kind: ladders(shape)[0] for kind, ladders in STRUCTURES.items()}
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
    return structure.weight(
        {n: make_leaf(leaf, codec, sparsity) for n, leaf in leaves.items()}, shape
    )


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
@pytest.mark.parametrize("kind", [kind for kind in STRUCTURES if kind not in INEXACT])
def test_full_structure_is_the_dense_matrix(kind: str, shape: tuple[int, int]) -> None:
    for ladder in STRUCTURES[kind](shape):
        structure = Structure.pick({"kind": kind, **ladder[-1]})
        assert isinstance(structure, Structure)
        starts = structure.factor(matrix_of(shape), Statistics(shape))
        weight = structure.weight({name: Leaf(leaf) for name, leaf in starts.items()}, shape)
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
        leaf.updated()
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
    for kind, ladders in STRUCTURES.items():
        for ladder in ladders(shape):
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
@pytest.mark.parametrize("kind", CODECS)
def test_fewer_bits_are_never_larger(kind: str, sparsity: float, site: str) -> None:
    for structures in ladders_at(site):
        structure = structures[len(structures) // 3]
        for ladder in CODECS[kind]:
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
