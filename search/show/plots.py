"""The front as a picture."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from typing import Any

import plotly.graph_objects as go

from lmcore.methods import UNCOMPRESSED
from lmcore.task import PERPLEXITY, Measure
from search.describe import recipe_lines
from search.front import Point
from search.show.literature import LiteraturePoint
from search.show.plane import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_NAMED,
    RIGHT,
    TOP,
    Labels,
    PlotRecord,
    View,
    coordinates,
    view_of,
)
from search.show.style import (
    AXIS,
    FRONT_COLOUR,
    INK,
    KNEE_COLOUR,
    MUTED,
    PALE,
    SOURCE_COLOURS,
    base_layout,
    dot,
)
from search.units import format_size

# Plotly writes "500k" or "1MB" where people write a space; steps other than 1 to 9 stay "1.2MB".
SIZE_TICKS = {
    f"{number}{unit}{suffix}": f"{number} {unit}B"
    for number in (*range(1, 1000), 1.5, 2.5)
    for unit in ("k", "M")
    for suffix in ("", "B")
}


def _group(measure: Measure) -> dict[str, Any]:
    return {
        "legendgroup": "study",
        "legendgrouptitle": {"text": f"this study, valid {measure.name}"},
    }


def figure(record: PlotRecord) -> go.Figure:
    """The picture of `record`: log-log, file size to the right, the measure upwards.

    The figure has no size of its own: `page` fills the window, and `image` sets the size. Texts
    from the record are escaped, so none acts as markup.
    """
    view = view_of(record)
    labels = Labels(record, view)
    pick, baselines = _pick(record, labels), list(_baselines(record, labels))
    literature = _literature(record, labels)
    drawn = [_predicted(record), _dominated(record), _infeasible(record)]
    traces = [*drawn, *literature, *_front(record, view), *baselines, pick]
    return go.Figure([trace for trace in traces if trace.x], _layout(record, view))


def _scatter(
    points: Sequence[Point | LiteraturePoint], measure: Measure = PERPLEXITY, **settings: Any
) -> go.Scatter:
    at = [coordinates(point) for point in points]
    return go.Scatter(
        x=[size for size, _ in at],
        y=[perplexity for _, perplexity in at],
        hovertext=[_hover(point, measure) for point in points],
        hoverinfo="text",
        **settings,
    )


def _dominated(record: PlotRecord) -> go.Scatter:
    return _scatter(
        record.dominated,
        record.measure,
        mode="markers",
        name=f"dominated: {_models(len(record.dominated))}",
        marker={"color": PALE, "size": 7},
        legendrank=3,
        **_group(record.measure),
    )


def _infeasible(record: PlotRecord) -> go.Scatter:
    return _scatter(
        record.infeasible,
        record.measure,
        mode="markers",
        name=f"over a limit: {_models(len(record.infeasible))}",
        marker={"color": PALE, "size": 7, "symbol": "x"},
        legendrank=3,
        **_group(record.measure),
    )


def _predicted(record: PlotRecord) -> go.Scatter:
    """The staircase of the predicted front, which the search has to beat."""
    return go.Scatter(
        x=[size for size, _ in record.predicted],
        y=[perplexity for _, perplexity in record.predicted],
        mode="lines",
        name="predicted from parts alone, untrained",
        line={"color": MUTED, "width": 1.4, "dash": "dash", "shape": "hv"},
        hoverinfo="skip",
        legendrank=4,
        **_group(record.measure),
    )


def _front(record: PlotRecord, view: View) -> Iterator[go.Scatter]:
    """The front: its points, the staircase through them, and dotted lines that extend it."""
    if not record.front:
        return
    first, last = coordinates(record.front[0]), coordinates(record.front[-1])
    others = record.dominated + record.infeasible
    every = record.front + others + record.baselines + record.literature
    sizes, perplexities = zip(*map(coordinates, every), strict=True)
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
        record.measure,
        mode="lines+markers",
        name=f"front: {_models(len(record.front))}",
        line={"color": FRONT_COLOUR, "width": 2, "shape": "hv"},
        marker=dot(FRONT_COLOUR, 9),
        legendrank=1,
        **_group(record.measure),
    )


def _pick(record: PlotRecord, labels: Labels) -> go.Scatter:
    points = [record.pick] if record.pick else []
    return _scatter(
        points,
        record.measure,
        mode="markers+text",
        name="knee of the front",
        marker=dot(KNEE_COLOUR, 13),
        **labels.beside(points, [f"knee: {point.label}" for point in points], KNEE_COLOUR),
        legendrank=2,
        **_group(record.measure),
    )


def _baselines(record: PlotRecord, labels: Labels) -> Iterator[go.Scatter]:
    """The baselines: one trace of named points. Beyond `MOST_NAMED`, one trace a method, where only
    the uncompressed models are named."""
    if len(record.baselines) <= MOST_NAMED:
        yield _scatter(
            record.baselines,
            record.measure,
            mode="markers+text",
            name="measured beside the search",
            marker=dot(INK, 11) | {"symbol": "diamond"},
            **labels.beside(record.baselines, [point.label for point in record.baselines], INK),
            legendrank=4,
            **_group(record.measure),
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
            record.measure,
            mode="markers+text",
            name=name,
            marker=dot(colour, 9) | {"symbol": symbol},
            **labels.beside(points, texts, INK),
            legendrank=4,
            legendgroup="baselines",
            legendgrouptitle={"text": "beside the search"},
        )


def _literature(record: PlotRecord, labels: Labels) -> Iterator[go.Scatter]:
    """The literature: one trace a source."""
    sources = dict.fromkeys(point.source for point in record.literature)
    for source, colour in zip(sources, cycle(SOURCE_COLOURS), strict=False):
        points = [point for point in record.literature if point.source == source]
        yield _scatter(
            points,
            mode="markers+text",
            name=html.escape(source),
            marker={"color": colour, "size": 7, "symbol": "circle-open", "line": {"width": 1.8}},
            **labels.beside(points, [point.label for point in points], MUTED),
            legendrank=5,
            legendgroup="literature",
            legendgrouptitle={"text": "literature, test perplexity"},
        )


def _models(count: int) -> str:
    return f"{count} model{'' if count == 1 else 's'}"


def _hover(point: Point | LiteraturePoint, measure: Measure) -> str:
    lines = (
        _literature_lines(point)
        if isinstance(point, LiteraturePoint)
        else _point_lines(point, measure)
    )
    first, *rest = (html.escape(line) for line in lines)
    return "<br>".join([f"<b>{first}</b>", *rest])


def _point_lines(point: Point, measure: Measure) -> list[str]:
    speed = point.tokens_per_second
    return [
        point.label,
        f"{format_size(point.size_bytes)}, {measure.said(point.valid_measure)} (valid)",
        *([] if speed is None else [f"{speed:,.0f} tokens/s"]),
        *recipe_lines(point.recipe or {}),
    ]


def _literature_lines(point: LiteraturePoint) -> list[str]:
    valid = point.valid_measure
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
    title = f"{record.study}: compressed LSTM models on {record.corpus}"
    base, axis = base_layout(title, _summary(record), HEIGHT), AXIS | {"type": "log"}
    return base | {
        "title": base["title"] | {"x": 0, "xref": "paper"},
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
            "title": {"text": f"{record.measure.head} (valid)", "font": {"size": 14}},
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
    phrases = [measured, "lower left is better"]
    if record.pick:
        size = format_size(record.pick.size_bytes)
        phrases.append(
            f"the knee has {size} at {record.measure.said(record.pick.valid_measure, 1)}"
        )
    if record.unmeasured:
        phrases.append(f"{len(record.unmeasured)} without a measurement not drawn")
    return "; ".join(phrases)
