"""A study over a text that is kept to the byte: what its commands show of bits per byte."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmcore.spelling import Spelling
from search.bench.workbench import stored_recipe
from search.show.publish import publish
from search.show.tables import front_document, front_table
from search.study.history import history_of
from search.study.results import Results, results_of
from studies import Sweep, settings, sweep_here, write_text

KINDS: dict[str, dict[str, Any]] = {
    "subword": {"kind": "subword", "vocabulary_size": 300},
    "characters": {"kind": "characters"},
}


@pytest.fixture(scope="module", params=list(KINDS))
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp(request.param)
    corpus = KINDS[request.param] | {"file": str(write_text(folder / "text.txt", lines=150))}
    return sweep_here(settings(folder, corpus=corpus, trials=1))


@pytest.fixture
def results(swept: Sweep) -> Results:
    return results_of(swept.context)


def test_every_point_has_the_bits_of_its_perplexity(swept: Sweep, results: Results) -> None:
    text = Path(swept.context.config.corpus.places["file"]).read_text()
    lines = text.splitlines(keepends=True)
    size_bytes = sum(len(line) for i, line in enumerate(lines) if i % 10 == 8)
    tokens = len(swept.context.corpus.valid)
    for point in results.front.points:
        wanted = tokens * math.log2(point.valid_measure) / size_bytes
        assert point.bits_per_byte == pytest.approx(wanted)
    shown = front_document(results.front, results.beside, {})["front"]
    assert [one["bits_per_byte"] for one in shown] == [
        point.bits_per_byte for point in results.front.points
    ]
    header, first, *_ = front_table(results.front, results.beside, {}).splitlines()
    assert header.split() == ["trial", "size", "perplexity", "bits/byte"]
    assert f"{results.front.points[0].bits_per_byte:.3f}" in first


def test_a_trial_is_made_again(swept: Sweep, results: Results, tmp_path: Path) -> None:
    point = results.front.best()
    stored = results.measured(point.name)
    bench = swept.context.bench_of(stored)
    bench.folder, bench.stages = tmp_path, replace(bench.stages, folder=tmp_path)
    again = bench.measure(stored_recipe(bench, point.name, stored))
    assert again.sha256 == stored.sha256
    assert again.bits_per_byte == stored.bits_per_byte


def test_a_published_study_keeps_its_bits(swept: Sweep, results: Results, tmp_path: Path) -> None:
    publish(swept.context, history_of(swept.context), tmp_path / "mine")
    rows = list(csv.DictReader((tmp_path / "mine" / "results.csv").open()))
    corpus = swept.context.corpus
    for row in rows:
        bits = corpus.bits_per_byte("test", float(row["test_perplexity"]))
        assert float(row["test_bits_per_byte"]) == pytest.approx(bits, abs=1e-3)
    for line in (tmp_path / "mine" / "trials.jsonl").read_text().splitlines():
        record = json.loads(line)
        spelling = Spelling.of(record["provenance"]["text"])
        assert spelling is not None
        assert spelling == corpus.spelling("valid")
        bits = spelling.bits_per_byte(record["valid_perplexity"])
        assert results.measured(record["name"]).bits_per_byte == bits


def test_a_study_of_words_shows_none(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", lines=150)
    swept = sweep_here(settings(tmp_path, trials=1))
    results = results_of(swept.context)
    (point,) = results.front.points
    assert point.bits_per_byte is None
    assert "text" not in results.measured(point.name).provenance
    assert "bits_per_byte" not in front_document(results.front, results.beside, {})["front"][0]
    assert "bits/byte" not in front_table(results.front, results.beside, {})
