"""The table of a publication: which model a limit takes, and which rows it leaves behind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lmcore.errors import UserError
from search.show.headline import (
    Rated,
    headline,
    headline_document,
    headline_markdown,
    headline_text,
    read_tested,
)
from search.show.literature import LiteraturePoint, literature_points
from studies import lmpareto

SMALL = Rated("ptb", "7", 240_000, 110.0, 105.0)
BETTER_ON_TEST = Rated("ptb", "8", 230_000, 112.0, 90.0)
MIDDLE = Rated("other", "3 rung 1", 480_000, 95.0, 89.0)
LIMITS = {"1MB": 10**6, "0.25MB": 250_000, "0.1MB": 100_000}


def row(size_bytes: int, test: float) -> LiteraturePoint:
    return LiteraturePoint(
        name=f"row of {test}",
        label="",
        source="Somebody 2020",
        source_type="paper",
        base="200-200",
        method="dense",
        weights_millions=None,
        size_bytes=size_bytes,
        valid_measure=None,
        test_perplexity=test,
        note="",
    )


def test_a_limit_takes_the_lowest_valid_perplexity_whatever_the_test_text_says() -> None:
    found = headline([MIDDLE, BETTER_ON_TEST, SMALL], LIMITS, ())
    assert [(one.limit, one.model) for one in found.models] == [
        ("0.1MB", None),
        ("0.25MB", SMALL),
        ("1MB", MIDDLE),
    ]
    assert found.studies == ("ptb", "other")


def test_of_equal_models_the_smaller_then_the_first_is_taken() -> None:
    smaller = replace(MIDDLE, size_bytes=400_000)
    unknown = replace(MIDDLE, name="9", size_bytes=1, valid_measure=math.nan)
    twin = replace(smaller, study="twin")
    found = headline([unknown, MIDDLE, smaller, twin], {"1MB": 10**6}, ())
    assert found.models[0].model is smaller
    assert headline([unknown], {"1MB": 10**6}, ()).models[0].model is None
    assert headline([], {}, [row(1, 2.0)]).remaining == (row(1, 2.0),)


@pytest.mark.parametrize(
    ("literature", "by"),
    [
        (row(500_000, 120.0), SMALL),
        (row(240_001, 105.1), SMALL),
        (row(240_000, 120.0), None),  # of equal size
        (row(500_000, 105.0), MIDDLE),  # as good as the small one
        (row(500_000, 89.0), None),  # as good as the other
        (row(100, 500.0), None),
        (row(231_000, 95.0), None),  # below a model that no limit takes
    ],
)
def test_a_row_is_left_behind_by_the_smallest_model_below_it(
    literature: LiteraturePoint, by: Rated | None
) -> None:
    found = headline([SMALL, BETTER_ON_TEST, MIDDLE], LIMITS, [literature])
    assert [one.by for one in found.passed] == ([by] if by else [])
    assert found.remaining == (() if by else (literature,))


def test_every_row_of_the_literature_is_named_once() -> None:
    rows = literature_points("ptb")
    found = headline([SMALL, MIDDLE], LIMITS, rows)
    assert sorted(one.name for one in [*(p.row for p in found.passed), *found.remaining]) == sorted(
        one.name for one in rows
    )
    for text in (headline_text(found), headline_markdown(found)):
        left, _, remains = text.partition("What remains:")
        assert all(one.row.name in left for one in found.passed)
        assert all(one.name in remains for one in found.remaining)
    assert "- Zaremba small, Zaremba et al. 2014: 114.50 at 18.6 MB: 105.00 at 240 kB (ptb)" in text
    assert "| 0.25MB | 240 kB | 110.00 | 105.00 | ptb 7 |" in text
    document = json.loads(json.dumps(headline_document(found)))
    assert document["models"][2]["model"]["test_perplexity"] == 89.0


def test_a_results_csv_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.csv cannot be read"):
        read_tested("mine", tmp_path)
    (tmp_path / "results.csv").write_text("name,size_bytes\n17,x\n")
    with pytest.raises(UserError, match=r"results\.csv is damaged"):
        read_tested("mine", tmp_path)


def test_published_studies_stand_in_one_table(tmp_path: Path) -> None:
    both = "studies=[ptb_small,methods]"
    run = lmpareto(
        "front", both, "bundles={0.5MB: 0.5 MB, 1MB: 1 MB}", "format=json", cache=tmp_path
    ).ok()
    models = [one["model"] for one in run.document["models"]]
    assert [one["study"] for one in models] == ["ptb_small", "methods"]
    assert [round(one["test_perplexity"], 2) for one in models] == [108.63, 100.89]
    assert len(run.document["passed"]) + len(run.document["remaining"]) == 25
