"""The front as a picture: a record of what is drawn, then its figure, page and image."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import kaleido
import plotly.graph_objects as go
import plotly.io
from kaleido.errors import BrowserFailedError, ChromeNotFoundError

from lmcore.errors import UserError
from lmcore.files import write_atomic
from search.front import Front, Point
from search.published import PublishedPoint, published_points
from search.units import format_size

WIDTH, HEIGHT = 1000, 640
LEFT, RIGHT, TOP, BOTTOM = 76, 226, 84, 62
FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
LABEL_SIZE = 11
STUDY_GROUP = {"legendgroup": "study", "legendgrouptitle": {"text": "this study, valid perplexity"}}
# Plotly writes "500k" or "1MB" where people write a space; steps other than 1 to 9 stay "1.2MB".
SIZE_TICKS = {
    f"{digit}{zeros}{unit}{suffix}": f"{digit}{zeros} {unit}B"
    for digit in range(1, 10)
    for zeros in ("", "0", "00")
    for unit in ("k", "M")
    for suffix in ("", "B")
}
Box = tuple[float, float, float, float]  # left, top, right, bottom
SIDES = (
    *(("middle", "right"), ("middle", "left"), ("top", "center"), ("bottom", "center")),
    *(("top", "right"), ("bottom", "right"), ("top", "left"), ("bottom", "left")),
)

INK, MUTED, GRID, PALE = "#1f2933", "#52606d", "#e8ecf0", "#c5ced8"
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
main {{ height: 100vh; min-width: 760px; min-height: 480px; }}
</style>
</head>
<body>
<main>{chart}</main>
</body>
</html>
"""


@dataclass(frozen=True)
class PlotRecord:
    """Everything the picture shows. `pick` is the point of `front` that it points out.

    `unmeasured` have no place in the plane (see `front_of`); the picture says how many there are.
    """

    study: str
    corpus: str
    front: tuple[Point, ...]
    dominated: tuple[Point, ...]
    unmeasured: tuple[Point, ...]
    baselines: tuple[Point, ...]
    published: tuple[PublishedPoint, ...]
    pick: Point | None


@dataclass(frozen=True)
class View:
    """The part of the plane first seen: (low, high) in bytes and in perplexity."""

    size_bytes: tuple[float, float]
    perplexity: tuple[float, float]


def record_of(front: Front, corpus: str, baselines: Iterable[Point] = ()) -> PlotRecord:
    """What to draw of `front`: its knee picked, with `baselines` measured beside the search and
    what is published for `corpus`. An empty front has no pick.
    """
    others = (*front.dominated, *baselines)
    return PlotRecord(
        study=front.study,
        corpus=corpus,
        front=front.points,
        dominated=tuple(point for point in front.dominated if point.measured),
        unmeasured=tuple(point for point in others if not point.measured),
        baselines=tuple(point for point in baselines if point.measured),
        published=published_points(corpus),
        pick=front.knee() if front.points else None,
    )


def view_of(record: PlotRecord) -> View:
    """The frame round the front and the baselines, and round what else lies near.

    The front's points count up to twice its lowest perplexity, so that a few collapsed models do
    not press all others together. Dominated and published points stretch the frame where they lie
    within a factor 2 of it in size, and in perplexity within 1.3 below or 1.15 above. Zooming out
    reaches the others. With neither front nor baselines it goes round all points; with no point at
    all it is 100 kB to 10 MB and perplexity 80 to 150.
    """
    useful = [
        p for p in record.front if p.valid_perplexity <= 2 * record.front[-1].valid_perplexity
    ]
    own = [_place(point) for point in (*useful, *record.baselines)]
    others = [_place(point) for point in record.dominated + record.published]
    if own:
        (left, right), (low, high) = (_ends(values) for values in zip(*own, strict=True))
        shown = own + [
            (size, perplexity)
            for size, perplexity in others
            if left / 2 <= size <= right * 2 and low / 1.3 <= perplexity <= high * 1.15
        ]
    else:
        shown = others or [(10**5, 80), (10**7, 150)]
    sizes, perplexities = zip(*shown, strict=True)
    return View(_padded(sizes), _padded(perplexities))


def figure(record: PlotRecord) -> go.Figure:
    """The picture of `record`: log-log, file size to the right, perplexity upwards.

    Its own size is left open: `page` fills the window and `image` sets it. The title as plain text
    is `layout.meta["title"]`. Texts from the record are escaped, so none acts as markup.
    """
    view = view_of(record)
    labels = _Labels(record, view)
    pick, baselines = _pick(record, labels), _baselines(record, labels)
    published = _published(record, labels)
    traces = [_dominated(record), *published, *_front(record, view), baselines, pick]
    return go.Figure([trace for trace in traces if trace.x], _layout(record, view))


def page(figure: go.Figure) -> str:
    """A whole HTML page that needs no network. The same figure always gives the same page."""
    chart = plotly.io.to_html(
        figure,
        config=PAGE_CONFIG,
        full_html=False,
        include_plotlyjs=True,
        div_id="front",
    )
    return PAGE.format(title=html.escape(figure.layout.meta["title"]), chart=chart)


def image(figure: go.Figure, path: Path) -> None:
    """Write the picture to `path`, 1000 x 640: SVG, or PNG with twice the pixels.

    Raises UserError for any other suffix, where Chrome or Chromium is not found or does not start,
    and where `path` cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise UserError(f"cannot draw {path}: the name of a picture ends in .png or .svg")
    options = {"format": form, "width": WIDTH, "height": HEIGHT, "scale": 2 if form == "png" else 1}
    try:
        data = kaleido.calc_fig_sync(figure, options, kopts={"mathjax": False})
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise UserError(
            f"cannot draw {path}: that takes Chrome or Chromium, which is not found or does not "
            "start. Install it (Debian, Ubuntu: apt install chromium; elsewhere: "
            "plotly_get_chrome), or give its path in BROWSER_PATH. The HTML page needs neither."
        ) from error
    write_atomic(path, data)


def recipe_lines(recipe: Mapping[str, Any], most: int = 20, width: int = 64) -> list[str]:
    """A recipe for people: "embedding: structure=low_rank(rank=40), bits=linear(bits=8)".

    A line a site and one for each other part, wrapped at `width` characters and cut after two
    lines, `most` lines in all. Settings that are None or empty are left out.
    """
    lines = []
    for line in _lines("", recipe):
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=2 * "\N{NO-BREAK SPACE}",
            max_lines=2,
            placeholder=" …",
            break_on_hyphens=False,
        )
    return lines if len(lines) <= most else [*lines[: most - 1], "…"]


def _lines(path: str, parts: Mapping[str, Any]) -> Iterator[str]:
    """The lines of `parts`; one that holds nothing but parts of its own gives a line for each."""
    for name, value in parts.items():
        part = f"{path}.{name}".removeprefix(".").removeprefix("sites.")
        if isinstance(value, Mapping) and value and all(map(_is_part, value.values())):
            yield from _lines(part, value)
        elif text := _settings(value) if _is_part(value) else _value(value):
            yield f"{part}: {text}"


def _is_part(value: Any) -> bool:
    """Whether a value has a line of its own: a mapping, but no setting with a "kind"."""
    return isinstance(value, Mapping) and "kind" not in value


def _settings(settings: Mapping[str, Any]) -> str:
    texts = {name: _value(value) for name, value in settings.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items() if text)


def _value(value: Any) -> str:
    """A setting's value in short; empty for None and for what is empty."""
    if isinstance(value, Mapping):
        inner = _settings({name: value for name, value in value.items() if name != "kind"})
        return f"{value.get('kind', '')}({inner})" if inner else str(value.get("kind", ""))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None or value == [] else str(value)


def _place(point: Point | PublishedPoint) -> tuple[float, float]:
    """Where a point is drawn: (bytes, perplexity), of the test text for a published one."""
    if isinstance(point, PublishedPoint):
        return point.size_bytes, point.test_perplexity
    return point.size_bytes, point.valid_perplexity


def _ends(values: Iterable[float]) -> tuple[float, float]:
    values = tuple(values)
    return min(values), max(values)


def _padded(values: Iterable[float]) -> tuple[float, float]:
    """The ends of `values`, each moved out by 6 % of their distance in logs, at least by 3 %."""
    low, high = _ends(values)
    factor = max((high / low) ** 0.06, 1.03)
    return low / factor, high * factor


class _Labels:
    """Names points in the plane where the names hide the least; who asks first chooses first.

    It works in pixels of the first view of the 1000 x 640 picture, x rightwards and y downwards.
    """

    def __init__(self, record: PlotRecord, view: View) -> None:
        self._view = view
        marked = [self._pixels(p) for p in record.front + record.baselines + record.published]
        self._taken = [_box(at, at, 6) for at in marked]
        stairs = _stairs([self._pixels(point) for point in record.front], TOP, WIDTH - RIGHT)
        self._taken += [_box(*ends, 2) for ends in pairwise(stairs)]

    def beside(
        self, points: Sequence[Point | PublishedPoint], texts: Iterable[str], colour: str
    ) -> dict[str, Any]:
        """Plotly's settings for `texts`, each beside its point.

        Texts of the study are bold and always written; a muted one that would lose more than a
        quarter of its area is left to the hover.
        """
        bold = colour != MUTED
        chosen = [
            self._choose(self._pixels(p), t, bold) for p, t in zip(points, texts, strict=True)
        ]
        return {
            "text": [f"\N{NO-BREAK SPACE}{html.escape(t)}\N{NO-BREAK SPACE}" for t, _ in chosen],
            "textposition": [side for _, side in chosen],
            "textfont": {
                "color": colour,
                "size": LABEL_SIZE + bold,
                "weight": "bold" if bold else "normal",
            },
        }

    def _choose(self, at: tuple[float, float], text: str, bold: bool) -> tuple[str, str]:
        """The text, empty where it is left out, and its side."""
        x, y = at
        width, height, gap = (0.6 if bold else 0.54) * LABEL_SIZE * len(text), 1.2 * LABEL_SIZE, 9
        across = {"right": x + gap, "left": x - gap - width, "center": x - width / 2}
        down = {"middle": y - height / 2, "top": y - gap - height, "bottom": y + gap}
        boxes = {
            f"{one} {other}": (across[other], down[one], across[other] + width, down[one] + height)
            for one, other in SIDES
        }
        seen = LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
        side = min(boxes, key=lambda side: self._lost(boxes[side], seen))
        if not bold and self._lost(boxes[side], seen) > width * height / 4:
            return "", side
        self._taken.append(boxes[side])
        return text, side

    def _lost(self, box: Box, seen: bool) -> float:
        """Square pixels of `box` that cover something, and four times those that leave the plane.

        A label whose point lies outside the plane is to stay there instead.
        """
        inside = _overlap(box, (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))
        astray = _overlap(box, box) - inside if seen else inside
        return 4 * astray + sum(_overlap(box, taken) for taken in self._taken)

    def _pixels(self, point: Point | PublishedPoint) -> tuple[float, float]:
        size_bytes, perplexity = _place(point)
        x = _share(size_bytes, *self._view.size_bytes)
        y = _share(perplexity, *self._view.perplexity)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _stairs(
    corners: Sequence[tuple[float, float]], start_y: float, end_x: float
) -> list[tuple[float, float]]:
    """The corners of the staircase through `corners`, from `start_y` down and on to `end_x`."""
    if not corners:
        return []
    (first_x, _), (_, last_y) = corners[0], corners[-1]
    steps = [at for (_, y), (x, below) in pairwise(corners) for at in ((x, y), (x, below))]
    return [(first_x, start_y), corners[0], *steps, (end_x, last_y)]


def _box(one: tuple[float, float], other: tuple[float, float], margin: float) -> Box:
    (left, right), (top, bottom) = (sorted(ends) for ends in zip(one, other, strict=True))
    return left - margin, top - margin, right + margin, bottom + margin


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _scatter(points: Sequence[Point | PublishedPoint], **settings: Any) -> go.Scatter:
    places = [_place(point) for point in points]
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


def _front(record: PlotRecord, view: View) -> Iterator[go.Scatter]:
    """The staircase of what is reached with its points, carried on upwards and to the right."""
    if not record.front:
        return
    first, last = _place(record.front[0]), _place(record.front[-1])
    every = record.front + record.dominated + record.baselines + record.published
    sizes, perplexities = zip(*map(_place, every), strict=True)
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


def _pick(record: PlotRecord, labels: _Labels) -> go.Scatter:
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


def _baselines(record: PlotRecord, labels: _Labels) -> go.Scatter:
    return _scatter(
        record.baselines,
        mode="markers+text",
        name="measured beside the search",
        marker=_marker(INK, 11) | {"symbol": "diamond"},
        **labels.beside(record.baselines, [point.label for point in record.baselines], INK),
        legendrank=4,
        **STUDY_GROUP,
    )


def _published(record: PlotRecord, labels: _Labels) -> Iterator[go.Scatter]:
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
        "meta": {"title": title},
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
    front, count = len(record.front), len(record.front) + len(record.dominated)
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
