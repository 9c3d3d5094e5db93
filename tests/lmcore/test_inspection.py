"""Every number of an inspection against counting, and what the table and the picture make of it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from torch import Tensor

from lmcore import inspection
from lmcore.building import build
from lmcore.bundle import load, save
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.inspection import Inspection, SiteInspection, inspect
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from search.show.inspection_plots import figure
from search.show.inspection_tables import ENERGIES, inspection_document, inspection_table
from search.show.page import page

Inspect = Callable[..., Inspection]
RECIPES: dict[str, dict[str, Any]] = {
    "float32": {},
    "low rank": {"sites": {"*": {"structure": {"kind": "svd", "rank": 3}, "bits": "float16"}}},
    "zeros": {"sites": {"*": {"sparsity": 0.7, "bits": {"kind": "linear", "bits": 8}}}},
    "codes": {"sites": {"*": {"bits": {"kind": "uniform", "step": 1.0}, "sparsity": 0.4}}},
    "all at once": {
        "sites": {
            "lstm.*": {
                "structure": {"kind": "svd", "rank": 2},
                "sparsity": 0.6,
                "bits": {"kind": "kmeans", "bits": 3},
            },
            "*": {"bits": {"kind": "linear", "bits": 2, "scope": "matrix"}},
        },
        "biases": {"kind": "linear", "bits": 8},
    },
}
MATRICES = {
    "diagonal": torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).repeat_interleave(
        torch.tensor([1, 1, 1, 13]), 0
    ),
    "rank one": torch.outer(torch.arange(16.0) - 5, torch.tensor([1.0, -2.0, 0.0, 4.0])),
    "zero": torch.zeros(16, 4),
    "equal": torch.eye(4).repeat(4, 1),
    "random": torch.randn(16, 4, generator=torch.Generator().manual_seed(3)),
    "wide": torch.randn(16, 40, generator=torch.Generator().manual_seed(4)),
    "tiny": 1e-30 * torch.randn(16, 4, generator=torch.Generator().manual_seed(5)),
}

CODECS: list[Any] = [
    *("float32", "float16"),
    *({"kind": kind, "bits": 3} for kind in ("linear", "kmeans")),
    {"kind": "uniform", "step": 1.0},
]


def compressed(model: LanguageModel, recipe: dict[str, Any]) -> LanguageModel:
    wanted = Recipe.model_validate(recipe)
    return build(model, resolve(wanted, model.settings, model.words)).eval()


@pytest.fixture
def inspected(vocabulary: Vocabulary, tmp_path: Path) -> Inspect:
    """inspected(model): of its file."""

    def of(model: LanguageModel) -> Inspection:
        path = tmp_path / "model.lmb"
        size_bytes = save(path, model, vocabulary)
        record = inspect(load(path))
        assert record.size_bytes == size_bytes
        return record

    return of


def with_matrix(matrix: Tensor, bits: Any = "float32") -> LanguageModel:
    """A model of 60 words with this matrix (16, E) at lstm.0.input."""
    settings = ModelSettings(layers=1, hidden=4, embedding=matrix.shape[1], tied=False)
    model = random_model(settings, 60, 0.2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.sites["lstm.0.input"].leaves["matrix"].data.copy_(matrix)
    return compressed(model, {"sites": {"lstm.0.input": {"bits": bits}}})


def eigenvalues(matrix: Tensor) -> list[float]:
    """The squared singular values, falling, from the smaller Gram matrix."""
    wide = matrix.double() if matrix.shape[0] < matrix.shape[1] else matrix.double().T
    found: list[float] = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).flip(0).tolist()
    return found


@pytest.mark.parametrize("name", MATRICES)
def test_norms_and_ranks_are_those_of_the_definitions(name: str, inspected: Inspect) -> None:
    matrix = MATRICES[name]
    site = inspected(with_matrix(matrix)).sites["lstm.0.input"]
    entries = [float(entry) for row in matrix for entry in row]
    squares = eigenvalues(matrix)
    near = {"rel": 1e-6, "abs": 1e-7 * max(squares) ** 0.5}
    assert site.shape == matrix.shape
    assert site.l1 == pytest.approx(sum(map(abs, entries)))
    assert site.mean_magnitude == pytest.approx(site.l1 / len(entries))
    assert site.frobenius == pytest.approx(math.sqrt(sum(x * x for x in entries)))
    assert site.spectral == pytest.approx(math.sqrt(squares[0]), **near)
    assert site.nuclear == pytest.approx(sum(map(math.sqrt, squares)), rel=1e-6)
    assert site.sparsity == entries.count(0.0) / len(entries)
    if total := sum(squares):
        assert site.stable_rank == pytest.approx(total / squares[0])
        kept = [sum(squares[:rank]) / total for rank in range(len(squares) + 1)]
        assert site.energy.tolist() == pytest.approx(kept)
        for share in ENERGIES:
            assert kept[site.rank_of(share)] >= share - 1e-6 > kept[site.rank_of(share) - 1] - 2e-6


def test_spectra_that_are_known(inspected: Inspect) -> None:
    def site(name: str) -> SiteInspection:
        return inspected(with_matrix(MATRICES[name])).sites["lstm.0.input"]

    diagonal, one, equal = site("diagonal"), site("rank one"), site("equal")
    assert diagonal.singular_values == pytest.approx((4, 13**0.5, 3, 2))
    shares = (0, 0.3, 0.5, 0.7, 0.9, 1)
    assert [diagonal.rank_of(share) for share in shares] == [0, 1, 2, 3, 3, 4]
    assert one.stable_rank == pytest.approx(1)
    assert [one.rank_of(share) for share in ENERGIES] == [1, 1, 1]
    assert one.nuclear == pytest.approx(one.spectral) == pytest.approx(one.frobenius)
    assert equal.stable_rank == pytest.approx(4)
    assert [equal.rank_of(share) for share in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]


@pytest.mark.parametrize("bits", CODECS, ids=str)
def test_a_zero_matrix_has_zeros_for_norms(bits: Any, inspected: Inspect) -> None:
    record = inspected(with_matrix(torch.zeros(16, 4), bits))
    site = record.sites["lstm.0.input"]
    norms = (site.l1, site.mean_magnitude, site.frobenius, site.spectral, site.nuclear)
    assert norms == (0, 0, 0, 0, 0)
    assert (site.stable_rank, site.entropy_bits, site.sparsity) == (0, 0, 1)
    assert [site.rank_of(share) for share in ENERGIES] == [0, 0, 0]
    assert site.energy.tolist() == [1] * 5
    assert site.coded_bits > 0
    json.dumps(inspection_document(record), allow_nan=False)
    assert "nan" not in inspection_table(record)
    assert figure(record, "zero")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("tied", [False, True])
def test_bytes_zeros_and_bits_against_counting(
    name: str, tied: bool, make_model: MakeModel, inspected: Inspect
) -> None:
    model = compressed(make_model(tied, hidden=12), RECIPES[name])
    record = inspected(model)
    assert sum(record.parts.values()) == record.size_bytes
    assert list(record.parts) == [*model.sites, "biases", "vocabulary", "header"]
    assert ("decoder" in record.sites) != tied
    for site, weight in model.sites.items():
        found = record.sites[site]
        bits, entropy, values, zeros, entries = 0.0, 0.0, 0, 0, 0
        for leaf in weight.leaves.values():
            kept = torch.ones_like(leaf.data, dtype=torch.bool)
            if leaf.mask is not None and leaf.spec.kept is not None:
                kept = leaf.mask
            symbols = leaf.codes().symbols[kept]
            if symbols.is_floating_point():
                width = symbols.element_size()
                planes = symbols.view(torch.uint8).view(-1, width).T.tolist()
                bits += 8 * width * len(symbols)
            else:
                planes = [symbols.tolist()]
                bits += len(symbols) * getattr(leaf.codec, "bits", 8)
            for plane in planes:
                counts = Counter(plane).values()
                entropy -= sum(n * math.log2(n / len(plane)) for n in counts)
            values += len(symbols)
            zeros += leaf.value().flatten().tolist().count(0.0)
            entries += leaf.data.numel()
        assert found.structure == weight.structure
        assert [leaf.shape for leaf in found.leaves.values()] == [
            leaf.shape for leaf in weight.leaves.values()
        ]
        assert found.sparsity == zeros / entries
        assert found.bits == pytest.approx(bits / values)
        assert found.entropy_bits == pytest.approx(entropy / values)
        assert 0 < found.coded_bits * values / 8 <= found.size_bytes
        assert found.bits_per_weight == pytest.approx(8 * found.size_bytes / weight.dense().numel())
    assert record.others["vocabulary"] > 100


def test_masks_and_tables_count_as_bytes_but_not_as_codes(
    make_model: MakeModel, inspected: Inspect
) -> None:
    record = inspected(compressed(make_model(), RECIPES["zeros"]))
    site = record.sites["lstm.0.input"]
    (leaf,) = site.leaves.values()
    assert leaf.values == leaf.shape[0] * leaf.shape[1] - leaf.zeros
    assert site.sparsity == pytest.approx(0.7, abs=1e-3)
    mask_bytes = leaf.shape[0] * leaf.shape[1] / 8 * 0.8  # of its entropy, about .88 bits
    assert leaf.size_bytes > leaf.coded_bits / 8 + mask_bytes


def test_a_leaf_of_which_nothing_is_kept(make_model: MakeModel, inspected: Inspect) -> None:
    recipe = {"sites": {"*": {"sparsity": 0.9999, "bits": {"kind": "linear", "bits": 8}}}}
    for site in inspected(compressed(make_model(), recipe)).sites.values():
        assert (site.sparsity, site.bits, site.entropy_bits, site.coded_bits) == (1, 0, 0, 0)
        assert site.size_bytes > 0


def test_the_curve_of_a_low_rank_site_ends_at_its_rank(
    make_model: MakeModel, inspected: Inspect
) -> None:
    record = inspected(compressed(make_model(), RECIPES["low rank"]))
    for site in record.sites.values():
        assert site.energy[3] == pytest.approx(1)
        assert site.rank_of(0.99) <= 3
        assert site.singular_values[3] < 1e-5 * site.spectral
    spectra = [trace for trace in figure(record, "x").data if trace.yaxis == "y4"]
    assert {len(trace.x) for trace in spectra} == {3}


def test_what_is_no_number_is_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    matrix = torch.zeros(16, 4)
    matrix[3, 2] = torch.inf
    save(tmp_path / "model.lmb", with_matrix(matrix), vocabulary)
    with pytest.raises(UserError, match=r"lstm\.0\.input: .*infinities"):
        inspect(load(tmp_path / "model.lmb"))


def test_singular_values_that_would_take_hours_are_refused(
    monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    save(tmp_path / "model.lmb", with_matrix(torch.ones(16, 4)), vocabulary)
    bundle = load(tmp_path / "model.lmb")
    shapes = [weight.shape for weight in bundle.model.sites.values()]
    products = sum(rows * columns * min(rows, columns) for rows, columns in shapes)
    monkeypatch.setattr(inspection, "MOST", products)
    assert inspect(bundle).sites
    monkeypatch.setattr(inspection, "MOST", products - 1)
    with pytest.raises(UserError, match=r"[a-z.0]+: singular values of \d+ x \d+ would take hours"):
        inspect(bundle)


# --- what is shown ------------------------------------------------------------------------------


@pytest.fixture
def record(make_model: MakeModel, inspected: Inspect) -> Inspection:
    return inspected(compressed(make_model(hidden=80), RECIPES["all at once"]))


def test_the_document_is_json_and_holds_the_whole_record(record: Inspection) -> None:
    document = json.loads(json.dumps(inspection_document(record), allow_nan=False))
    assert document["size_bytes"] == sum(document["parts"].values())
    for name, site in record.sites.items():
        found = document["sites"][name]
        assert found["share"] == site.size_bytes / record.size_bytes
        assert found["structure"] == site.structure.plain()
        assert found["stable_rank"] == site.stable_rank
        assert set(found["leaves"]) == set(site.leaves)
        assert found["rank_of_energy"] == {str(share): site.rank_of(share) for share in ENERGIES}
        ranks = found["curve"]["rank"]
        assert len(ranks) == min(len(site.singular_values), 64)
        assert (ranks[0], ranks[-1]) == (1, len(site.singular_values))
        assert ranks == sorted(set(ranks))
        assert found["curve"]["energy"] == [site.energy[rank] for rank in ranks]
        assert found["curve"]["singular_value"] == [site.singular_values[r - 1] for r in ranks]


def test_the_table_has_a_line_a_part_and_a_line_a_matrix(record: Inspection) -> None:
    lines = inspection_table(record).splitlines()
    for part in (*record.parts, "file"):
        assert sum(line.startswith(f"{part} ") for line in lines) == 1 + (part in record.sites)
    (low_rank,) = (line for line in lines if re.match(r"lstm\.0\.input +320 x 80", line))
    assert "svd(rank=2): 320 x 2, 2 x 80" in low_rank
    assert "kmeans" in low_rank
    (dense,) = (line for line in lines if re.match(r"decoder +60 x 80 +dense +linear ", line))
    assert " 2.00 " in dense


def test_the_picture_has_every_site_in_each_panel(record: Inspection) -> None:
    drawn = figure(record, "model.lmb").data
    (bar,) = (trace for trace in drawn if trace.type == "bar")
    assert dict(zip(bar.y, bar.x, strict=True)) == record.parts
    bits = [trace for trace in drawn if trace.xaxis == "x2" and trace.legend is None]
    assert [list(trace.x) for trace in bits] == [
        [site.bits for site in record.sites.values()],
        [site.entropy_bits for site in record.sites.values()],
        [site.coded_bits for site in record.sites.values()],
    ]
    curves = {trace.name: trace for trace in drawn if trace.yaxis == "y3"}
    assert list(curves) == list(record.sites)
    for name, site in record.sites.items():
        assert list(curves[name].y) == site.energy.tolist()
    assert len({trace.line.color for trace in curves.values()}) == len(curves)


def test_many_layers_still_have_looks_of_their_own(
    make_model: MakeModel, inspected: Inspect
) -> None:
    drawn = figure(inspected(make_model(layers=6, hidden=4)), "deep").data
    looks = {(x.line.color, x.line.dash) for x in drawn if x.yaxis == "y3"}
    assert len(looks) == 14


def test_the_page_needs_no_network_and_a_name_is_no_markup(record: Inspection) -> None:
    drawn = figure(record, "<b>x</b>.lmb")
    text = page(drawn)
    assert text == page(figure(record, "<b>x</b>.lmb"))
    assert "<title>&lt;b&gt;x&lt;/b&gt;.lmb: why " in text
    outside = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)
    assert not re.search(r"https?:|@import|url\(", outside)
    shown = json.dumps(drawn.update_layout(meta=None).to_plotly_json(), default=list)
    assert "<b>x" not in shown
    assert figure(record, "a" * 200).layout.meta["title"].startswith("…aaa")
