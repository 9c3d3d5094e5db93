"""What the picture shows, read from the record and the figure rather than from pixels."""

import json
import math
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lmcore.errors import UserError
from search.describe import recipe_lines
from search.front import Point, front_of
from search.show.literature import literature_points
from search.show.page import image, page
from search.show.plane import PlotRecord, record_of, view_of
from search.show.plots import figure

RECIPE = {
    "sites": {
        "embedding": {
            "structure": {"kind": "svd", "rank": 40},
            "bits": {"kind": "linear", "bits": 8},
        },
        "lstm.0.input": {"structure": {"kind": "dense"}, "sparsity": 0.512345, "mask": None},
    },
    "biases": {"kind": "linear", "bits": 8},
    "finetuning": {"epochs": 1, "schedule": {"kind": "linear"}, "distillation": None, "extra": []},
}
SIZES = [(300_000, 140.0), (700_000, 110.0), (4_000_000, 97.0), (900_000, 125.0)]
TRIALS = [Point(str(i), i, *at, 12_345.6, RECIPE) for i, at in enumerate(SIZES)]
DENSE = Point("dense", None, 18_600_000, 117.0, None, None)
COLLAPSED = Point("9", 9, 100_000, 5000.0, None, None)
BROKEN = Point("8", 8, 100_000, math.nan, None, None)


def record(*more: Point, study: str = "demo", corpus: str = "ptb") -> PlotRecord:
    return record_of(front_of(study, [*TRIALS, *more]), corpus, [DENSE])


def traces(drawn: PlotRecord) -> dict[str, Any]:
    return {trace.name: trace for trace in figure(drawn).data if trace.name}


def test_literature_points_are_penn_treebanks() -> None:
    points = {(point.source, point.name): point for point in literature_points("ptb")}
    assert len(points) == len(literature_points("ptb")) == 25
    small = points["Zaremba et al. 2014", "Zaremba small"]
    assert (small.weights_millions, small.size_bytes) == (4.652, 18_600_000)
    assert (small.valid_measure, small.test_perplexity) == (120.7, 114.5)
    coded = points["Xu et al. ICLR 2018", "Alternating 2-bit weights and activations"]
    assert (coded.weights_millions, coded.valid_measure) == (None, None)
    labels = [point.label for point in points.values() if point.label]
    assert len(set(labels)) == len(labels) == 24
    assert literature_points("wikitext2") == ()


def test_the_literature_points_are_the_shared_ones() -> None:
    shared = Path(__file__).parents[4] / "shared" / "reference" / "published.csv"
    if not shared.exists():
        pytest.skip(f"the table they were copied from is not at {shared}")
    ours = files("search.show").joinpath("literature.csv").read_text().splitlines()
    for copied, line in zip(ours, shared.read_text().splitlines(), strict=True):
        assert copied.startswith(line + ",")


def test_the_record_holds_what_is_drawn() -> None:
    drawn = record(BROKEN)
    assert [point.trial for point in drawn.front] == [0, 1, 2]
    assert [point.trial for point in drawn.dominated] == [3]
    assert drawn.unmeasured == (BROKEN,)
    assert drawn.baselines == (DENSE,)
    assert drawn.pick == TRIALS[1]
    assert len(drawn.literature) == 25
    assert record(corpus="wikitext2").literature == ()


def test_the_first_view_frames_the_study_and_what_lies_near() -> None:
    view = view_of(record(COLLAPSED))
    assert view.size_bytes[0] < 300_000
    assert 18_600_000 < view.size_bytes[1] < 37_200_000
    assert 97.0 / 1.3 / 1.1 < view.perplexity[0] < 97.0
    assert 149.31 < view.perplexity[1] < 168.0
    alone = view_of(record_of(front_of("s", TRIALS[:1]), "none"))
    assert alone.size_bytes[0] < 300_000 < alone.size_bytes[1]
    assert alone.perplexity[0] < 140.0 < alone.perplexity[1]


def test_every_point_is_a_marker_of_its_group() -> None:
    drawn = traces(record())
    front = drawn["front: 3 models"]
    assert list(front.x) == [300_000, 700_000, 4_000_000]
    assert list(front.y) == [140.0, 110.0, 97.0]
    assert front.line.shape == "hv"
    assert list(drawn["dominated: 1 model"].x) == [900_000]
    assert "dense" in drawn["measured beside the search"].text[0]
    assert "knee: trial 1" in drawn["knee of the front"].text[0].replace("\xa0", " ")
    literature = [t for t in drawn.values() if t.legendgroup == "literature"]
    assert sum(len(trace.x) for trace in literature) == 25
    assert {trace.legendgrouptitle.text for trace in literature} == {"literature, test perplexity"}
    assert len({trace.marker.color for trace in literature}) == len(literature)


def test_what_is_over_a_limit_is_drawn_apart() -> None:
    over = replace(TRIALS[0], feasible=False)
    drawn = traces(record_of(front_of("s", [over, *TRIALS[1:]]), "none"))
    assert list(drawn["over a limit: 1 model"].x) == [over.size_bytes]
    assert drawn["over a limit: 1 model"].marker.symbol == "x"
    whole = figure(record_of(front_of("s", TRIALS), "none"))
    apart = figure(record_of(front_of("s", [over, *TRIALS[1:]]), "none"))
    assert f"{len(TRIALS)} models measured" in str(whole.layout)
    assert f"{len(TRIALS)} models measured" in str(apart.layout)


def test_axes_are_logarithmic_and_named() -> None:
    layout = figure(record()).layout
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "log")
    assert layout.xaxis.title.text == "size of the file"
    assert layout.yaxis.title.text == "perplexity (valid)"
    low, high = view_of(record()).size_bytes
    assert layout.xaxis.range == pytest.approx((math.log10(low), math.log10(high)))


def test_hovering_tells_what_a_point_is() -> None:
    drawn = traces(record())
    lines = drawn["front: 3 models"].hovertext[0].split("<br>")
    assert lines[:3] == ["<b>trial 0</b>", "300 kB, perplexity 140.00 (valid)", "12,346 tokens/s"]
    assert lines[3:] == recipe_lines(RECIPE)
    text = drawn["Zaremba et al. 2014"].hovertext[0]
    assert "published (paper)" in text
    assert "perplexity 114.50 (test), 120.70 (valid)" in text


def test_a_recipe_is_a_line_a_site() -> None:
    assert recipe_lines(RECIPE) == [
        "embedding: structure=svd(rank=40), bits=linear(bits=8)",
        "lstm.0.input: structure=dense, sparsity=0.5123",
        "biases: linear(bits=8)",
        "finetuning: epochs=1, schedule=linear",
    ]
    assert recipe_lines({}) == []
    assert recipe_lines({"key": 3, "note": None, "sites": {}}) == ["key: 3"]
    assert recipe_lines({f"part{i}": i for i in range(9)}, most=3) == ["part0: 0", "part1: 1", "…"]
    wrapped = recipe_lines({"site": {f"setting{i}": i for i in range(20)}}, width=40)
    assert [len(line) <= 40 for line in wrapped] == [True, True]
    assert wrapped[-1].endswith("…")


def test_labels_keep_off_each_other() -> None:
    beside = [Point(f"model {i}", None, 10**6, 100.0 + i / 10, None, None) for i in range(4)]
    drawn = figure(record_of(front_of("s", TRIALS), "none", beside))
    (named,) = [trace for trace in drawn.data if trace.name == "measured beside the search"]
    assert len(set(named.textposition)) == 4


@pytest.mark.parametrize("points", [[], [BROKEN], TRIALS[:1]])
@pytest.mark.parametrize("corpus", ["ptb", "none"])
def test_few_points_or_none_still_make_a_picture(points: list[Point], corpus: str) -> None:
    drawn = record_of(front_of("new", points), corpus)
    subtitle = figure(drawn).layout.title.subtitle.text
    assert subtitle.startswith("1 model measured" if drawn.front else "no trial measured")


def test_the_page_is_whole_and_needs_no_network() -> None:
    drawn = record(study="a </script><b>name</b> & more")
    text = page(figure(drawn))
    assert text == page(figure(drawn))
    assert '<meta charset="utf-8">' in text
    assert "<title>a &lt;/script&gt;&lt;b&gt;name&lt;/b&gt; &amp; more: " in text
    outside = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)
    assert "<script" in outside
    assert "name</b>" not in outside
    assert not re.search(r"(?:src|href)\s*=\s*(?![\"']data:)", outside)
    assert not re.search(r"https?:|@import|url\(", outside)
    settings = json.loads(re.findall(r'\{[^{}]*"showSendToCloud"[^{}]*\}', text)[-1])
    assert settings["showSendToCloud"] is False


def test_texts_of_the_record_are_no_markup() -> None:
    sneaky = Point("<a href='x'>x</a>", None, 10**6, 99.0, None, {"sites": {"<b>": {"bits": 1}}})
    drawn = figure(record_of(front_of("<i>s</i>", [sneaky]), "none", [sneaky]))
    shown = json.dumps(drawn.update_layout(meta=None).to_plotly_json(), default=list)
    assert not re.search(r"<a |<i>|<b>: bits", shown)


def test_a_picture_needs_a_known_suffix() -> None:
    with pytest.raises(UserError, match=r"ends in \.png, \.svg or \.pdf"):
        image(figure(record()), Path("front.bmp"))


def test_without_a_browser_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="apt install chromium"):
        image(figure(record()), tmp_path / "front.png")
    assert not list(tmp_path.iterdir())


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)),
    reason="drawing a PNG takes Chrome or Chromium: none found",
)
def test_a_png_is_drawn_at_twice_the_size(tmp_path: Path) -> None:
    path = tmp_path / "made" / "front.png"
    image(figure(record()), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (2000, 1280)


def test_many_baselines_are_told_apart_by_method() -> None:
    methods = ["dense", "control", *["svd"] * 8, *["bits"] * 8]
    baselines = [
        Point(f"b{index}", None, 10**6 + index, 100.0 + index, None, None, method)
        for index, method in enumerate(methods)
    ]
    collapsed = Point("collapsed", None, 10**6, 5000.0, None, None, "svd")
    record = record_of(front_of("many", []), "none", [*baselines, collapsed])
    traces = {trace.name: trace for trace in figure(record).data}
    assert set(traces) == {"dense and control", "svd", "bits"}
    assert [text.strip() for text in traces["dense and control"].text] == ["b0", "b1"]
    assert not any(text.strip() for text in (*traces["svd"].text, *traces["bits"].text))
    assert len(traces["svd"].x) == 9
    assert view_of(record).perplexity[1] < 200
