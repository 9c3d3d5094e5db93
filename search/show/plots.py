"""The front as a picture: the record's figure, page and image."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import kaleido
import plotly.graph_objects as go
import plotly.io
from kaleido.errors import BrowserFailedError, ChromeNotFoundError

from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.methods import UNCOMPRESSED
from search.describe import recipe_lines
from search.front import Point
from search.show.literature import PublishedPoint
from search.show.plane import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_NAMED,
    MUTED,
    RIGHT,
    TOP,
    WIDTH,
    Labels,
    PlotRecord,
    View,
    place,
    view_of,
)
from search.units import format_size

FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
STUDY_GROUP = {"legendgroup": "study", "legendgrouptitle": {"text": "this study, valid perplexity"}}
# Plotly writes "500k" or "1MB" where people write a space; steps other than 1 to 9 stay "1.2MB".
SIZE_TICKS = {
    f"{digit}{zeros}{unit}{suffix}": f"{digit}{zeros} {unit}B"
    for digit in range(1, 10)
    for zeros in ("", "0", "00")
    for unit in ("k", "M")
    for suffix in ("", "B")
}
INK, GRID, PALE = "#1f2933", "#e8ecf0", "#c5ced8"
FRONT_COLOUR, KNEE_COLOUR = "#0b5cad", "#d9480f"
# One a source: Paul Tol's colour-blind safe "muted" scheme (SRON/EPS/TN/09-002, 2021).
SOURCE_COLOURS = (
    *("#882255", "#44AA99", "#AA4499", "#117733", "#999933"),
    *("#CC6677", "#332288", "#88CCEE", "#DDCC77"),
)

# Plotly would offer to upload the chart to its makers' server.
PAGE_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ margin: 0; background: #fff; overflow-x: auto; }}
main {{ height: 100vh; min-width: 760px; min-height: {least}px; }}
</style>
</head>
<body>
<main>{chart}</main>
</body>
</html>
"""


def figure(record: PlotRecord) -> go.Figure:
    """The picture of `record`: log-log, file size to the right, perplexity upwards.

    Its own size is left open: `page` fills the window and `image` sets it. The title as plain text
    is `layout.meta["title"]`, the height of its picture `layout.meta["height"]`. Texts from the
    record are escaped, so none acts as markup.
    """
    view = view_of(record)
    labels = Labels(record, view)
    pick, baselines = _pick(record, labels), list(_baselines(record, labels))
    published = _published(record, labels)
    drawn = [_predicted(record), _dominated(record), _infeasible(record)]
    traces = [*drawn, *published, *_front(record, view), *baselines, pick]
    return go.Figure([trace for trace in traces if trace.x], _layout(record, view))


def page(figure: go.Figure) -> str:
    """A whole HTML page that needs no network. The same figure always gives the same page."""
    chart = plotly.io.to_html(
        figure,
        config=PAGE_CONFIG,
        full_html=False,
        include_plotlyjs=True,
        div_id="chart",
    )
    meta = figure.layout.meta
    return PAGE.format(title=html.escape(meta["title"]), least=3 * meta["height"] // 4, chart=chart)


def image(figure: go.Figure, path: Path) -> None:
    """Write the picture to `path`, 1000 wide and as high as it asks: SVG, or PNG with twice the
    pixels.

    Raises UserError for any other suffix, where Chrome or Chromium is not found or does not start,
    and where `path` cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise UserError(f"cannot draw {path}: the name of a picture ends in .png or .svg")
    height, scale = figure.layout.meta["height"], 2 if form == "png" else 1
    options = {"format": form, "width": WIDTH, "height": height, "scale": scale}
    try:
        data = kaleido.calc_fig_sync(figure, options, kopts={"mathjax": False})
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise UserError(
            f"cannot draw {path}: that takes Chrome or Chromium, which is not found or does not "
            "start. Install it (Debian, Ubuntu: apt install chromium; elsewhere: "
            "plotly_get_chrome), or give its path in BROWSER_PATH. The HTML page needs neither."
        ) from error
    write_atomic(path, data)


def _scatter(points: Sequence[Point | PublishedPoint], **settings: Any) -> go.Scatter:
    places = [place(point) for point in points]
    return go.Scatter(
        x=[size for size, _ in places],
        y=[perplexity for _, perplexity in places],
        hovertext=[_hover(point) for point in points],
        hoverinfo="text",
        **settings,
    )


def _dominated(record: PlotRecord) -> go.Scatter:
    return _scatter(
        record.dominated,
        mode="markers",
        name=f"dominated: {_models(len(record.dominated))}",
        marker={"color": PALE, "size": 7},
        legendrank=3,
        **STUDY_GROUP,
    )


def _infeasible(record: PlotRecord) -> go.Scatter:
    return _scatter(
        record.infeasible,
        mode="markers",
        name=f"over a limit: {_models(len(record.infeasible))}",
        marker={"color": PALE, "size": 7, "symbol": "x"},
        legendrank=3,
        **STUDY_GROUP,
    )


def _predicted(record: PlotRecord) -> go.Scatter:
    """The staircase that the search has to beat."""
    return go.Scatter(
        x=[size for size, _ in record.predicted],
        y=[perplexity for _, perplexity in record.predicted],
        mode="lines",
        name="predicted from parts alone, untrained",
        line={"color": MUTED, "width": 1.4, "dash": "dash", "shape": "hv"},
        hoverinfo="skip",
        legendrank=4,
        **STUDY_GROUP,
    )


def _front(record: PlotRecord, view: View) -> Iterator[go.Scatter]:
    """The staircase of what is reached with its points, carried on upwards and to the right."""
    if not record.front:
        return
    first, last = place(record.front[0]), place(record.front[-1])
    others = record.dominated + record.infeasible
    every = record.front + others + record.baselines + record.published
    sizes, perplexities = zip(*map(place, every), strict=True)
    yield go.Scatter(
        x=[first[0], first[0], None, last[0], max(*sizes, view.size_bytes[1])],
        y=[max(*perplexities, view.perplexity[1]), first[1], None, last[1], last[1]],
        mode="lines",
        line={"color": FRONT_COLOUR, "width": 1.2, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    yield _scatter(
        record.front,
        mode="lines+markers",
        name=f"front: {_models(len(record.front))}",
        line={"color": FRONT_COLOUR, "width": 2, "shape": "hv"},
        marker=_marker(FRONT_COLOUR, 9),
        legendrank=1,
        **STUDY_GROUP,
    )


def _pick(record: PlotRecord, labels: Labels) -> go.Scatter:
    points = [record.pick] if record.pick else []
    return _scatter(
        points,
        mode="markers+text",
        name="knee of the front",
        marker=_marker(KNEE_COLOUR, 13),
        **labels.beside(points, [f"knee: {point.label}" for point in points], KNEE_COLOUR),
        legendrank=2,
        **STUDY_GROUP,
    )


def _baselines(record: PlotRecord, labels: Labels) -> Iterator[go.Scatter]:
    """One trace of named points; of many, one a method, where only those without one are named."""
    if len(record.baselines) <= MOST_NAMED:
        yield _scatter(
            record.baselines,
            mode="markers+text",
            name="measured beside the search",
            marker=_marker(INK, 11) | {"symbol": "diamond"},
            **labels.beside(record.baselines, [point.label for point in record.baselines], INK),
            legendrank=4,
            **STUDY_GROUP,
        )
        return
    methods = sorted({point.method for point in record.baselines} - set(UNCOMPRESSED))
    looks = product(("diamond", "square", "star"), SOURCE_COLOURS)
    plain = (" and ".join(UNCOMPRESSED), UNCOMPRESSED, ("diamond", INK))
    compressed = ((one, (one,), look) for one, look in zip(methods, cycle(looks), strict=False))
    for name, members, (symbol, colour) in (plain, *compressed):
        points = [point for point in record.baselines if point.method in members]
        texts = [point.label if members is UNCOMPRESSED else "" for point in points]
        yield _scatter(
            points,
            mode="markers+text",
            name=name,
            marker=_marker(colour, 9) | {"symbol": symbol},
            **labels.beside(points, texts, INK),
            legendrank=4,
            legendgroup="baselines",
            legendgrouptitle={"text": "beside the search"},
        )


def _published(record: PlotRecord, labels: Labels) -> Iterator[go.Scatter]:
    """One trace a source."""
    sources = dict.fromkeys(point.source for point in record.published)
    for source, colour in zip(sources, cycle(SOURCE_COLOURS), strict=False):
        points = [point for point in record.published if point.source == source]
        yield _scatter(
            points,
            mode="markers+text",
            name=html.escape(source),
            marker={"color": colour, "size": 7, "symbol": "circle-open", "line": {"width": 1.8}},
            **labels.beside(points, [point.label for point in points], MUTED),
            legendrank=5,
            legendgroup="published",
            legendgrouptitle={"text": "published, test perplexity"},
        )


def _marker(colour: str, size: int) -> dict[str, Any]:
    """Filled, with a white rim that parts it from what it covers."""
    return {"color": colour, "size": size, "line": {"color": "white", "width": 1.3}}


def _models(count: int) -> str:
    return f"{count} model{'' if count == 1 else 's'}"


def _hover(point: Point | PublishedPoint) -> str:
    lines = _published_lines(point) if isinstance(point, PublishedPoint) else _point_lines(point)
    first, *rest = (html.escape(line) for line in lines)
    return "<br>".join([f"<b>{first}</b>", *rest])


def _point_lines(point: Point) -> list[str]:
    speed = point.tokens_per_second
    return [
        point.label,
        f"{format_size(point.size_bytes)}, perplexity {point.valid_perplexity:.2f} (valid)",
        *([] if speed is None else [f"{speed:,.0f} tokens/s"]),
        *recipe_lines(point.recipe or {}),
    ]


def _published_lines(point: PublishedPoint) -> list[str]:
    valid = point.valid_perplexity
    weights = point.weights_millions
    return [
        point.name,
        f"{point.source}, published ({point.source_type})",
        f"{format_size(point.size_bytes)} as published",
        f"perplexity {point.test_perplexity:.2f} (test)"
        + ("" if valid is None else f", {valid:.2f} (valid)"),
        f"{point.method} on {point.base}" + ("" if weights is None else f", {weights:g} M weights"),
        *([point.note] if point.note else []),
    ]


def _layout(record: PlotRecord, view: View) -> dict[str, Any]:
    title = f"{record.study}: compressed LSTM language models on {record.corpus}"
    axis = {
        "type": "log",
        "gridcolor": GRID,
        "linecolor": PALE,
        "ticks": "outside",
        "tickcolor": PALE,
    }
    return {
        "template": "none",
        "meta": {"title": title, "height": HEIGHT},
        "title": {
            "text": f"<b>{html.escape(title)}</b>",
            "font": {"size": 19},
            "subtitle": {
                "text": html.escape(_summary(record)),
                "font": {"size": 13, "color": MUTED},
            },
            "x": 0,
            "xref": "paper",
        },
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": LEFT, "r": RIGHT, "t": TOP, "b": BOTTOM},
        "xaxis": axis
        | {
            "title": {"text": "size of the file", "font": {"size": 14}},
            "range": _logs(view.size_bytes),
            "nticks": _size_ticks(view),
            "tickformat": "~s",
            "ticksuffix": "B",
            "labelalias": SIZE_TICKS,
        },
        "yaxis": axis
        | {
            "title": {"text": "perplexity (valid)", "font": {"size": 14}},
            "range": _logs(view.perplexity),
            "nticks": 5,
            "tickformat": "~f",
        },
        "legend": {
            "x": 1.02,
            "y": 1,
            "groupclick": "toggleitem",
            "tracegroupgap": 14,
            "font": {"size": 12},
            "grouptitlefont": {"size": 12, "weight": "bold"},
        },
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 12, "color": INK}},
    }


def _logs(ends: tuple[float, float]) -> list[float]:
    """A range as Plotly takes it for a log axis: powers of ten."""
    return [math.log10(end) for end in ends]


def _size_ticks(view: View) -> int:
    """The number of ticks to ask for so that Plotly labels 1, 2 and 5 of each decade in view.

    It does so where a decade gets 1.5 to 3.3 ticks; it labels all nine for more, only tens for
    fewer, and from less than one decade it steps linearly.
    """
    low, high = _logs(view.size_bytes)
    return max(4, round(2.2 * (high - low)))


def _summary(record: PlotRecord) -> str:
    """The sentence under the title."""
    front = len(record.front)
    count = front + len(record.dominated) + len(record.infeasible)
    measured = (
        f"{_models(count)} measured, {front} on the front" if count else "no trial measured yet"
    )
    parts = [measured, "lower left is better"]
    if record.pick:
        size = format_size(record.pick.size_bytes)
        parts.append(f"the knee has {size} at perplexity {record.pick.valid_perplexity:.1f}")
    if record.unmeasured:
        parts.append(f"{len(record.unmeasured)} without a measurement not drawn")
    return "; ".join(parts)
