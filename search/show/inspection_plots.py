"""An inspection as a picture: where the bytes are, what codes cost, and the spectra."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lmcore.inspection import Inspection, SiteInspection
from search.show.style import AXIS, INK, MUTED, PALE, SOURCE_COLOURS, base_layout
from search.units import format_size

LONGEST_NAME = 56  # letters that fit into the title
LEFT_PANEL, RIGHT_PANEL = (0.0, 0.46), (0.55, 1.0)  # across the plot, from left to right
TOP, ROW, GAP, CURVES, BOTTOM = 124, 29, 90, 290, 76  # pixels; a row is a part of the file
KEY_ROW, KEYS = 28, 6  # pixels of a row of the legend, and how many sites stand in it
DASHES = ("solid", "dash", "dot")  # one for each time that the colours begin again
LEAST_SHOWN = 1e-5  # of a matrix's largest singular value: what is smaller is rounding
KINDS = (  # what is marked, and with what symbol and size: equal values lie inside each other
    ("before coding", "line-ns", 14),
    ("entropy of the codes", "circle-open", 14),
    ("in the file", "circle", 8),
)


def figure(inspection: Inspection, name: str) -> go.Figure:
    """Four panels: bytes by part of the file, bits a stored value, energy by rank, spectrum.

    A site has the same colour in all panels. `name` says what was inspected. The figure is made for
    `page` and `image` of `search.show.page`.
    """
    styles = _styles(inspection)
    traces = [
        _bytes(inspection, styles),
        *_bits(inspection, styles),
        *_curves(inspection, styles),
    ]
    return go.Figure(traces, _layout(inspection, name))


def _styles(inspection: Inspection) -> dict[str, dict[str, str]]:
    """Site -> how its curves are drawn."""
    looks = [(colour, dash) for dash in DASHES for colour in SOURCE_COLOURS]
    return {
        site: {"color": colour, "dash": dash}
        for site, (colour, dash) in zip(inspection.sites, cycle(looks), strict=False)
    }


def _bytes(inspection: Inspection, styles: dict[str, dict[str, str]]) -> go.Bar:
    sizes = inspection.parts
    shares = [f"{size / inspection.size_bytes:.1%}" for size in sizes.values()]
    return go.Bar(
        x=list(sizes.values()),
        y=[html.escape(part) for part in sizes],
        orientation="h",
        marker={"color": [styles[part]["color"] if part in styles else PALE for part in sizes]},
        text=[
            f"{format_size(size)}, {share}"
            for size, share in zip(sizes.values(), shares, strict=True)
        ],
        textposition="outside",
        textfont={"size": 12, "color": MUTED},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )


def _bits(inspection: Inspection, styles: dict[str, dict[str, str]]) -> Iterator[go.Scatter]:
    """Three marks for each site, on one line."""
    sites = inspection.sites
    values = {name: (one.bits, one.entropy_bits, one.coded_bits) for name, one in sites.items()}
    colours = [style["color"] for style in styles.values()]
    for index, (kind, symbol, size) in enumerate(KINDS):
        yield go.Scatter(
            x=[value[index] for value in values.values()],
            y=[html.escape(site) for site in sites],
            xaxis="x2",
            mode="markers",
            marker=_marker(symbol, size, colours),
            cliponaxis=False,
            hovertext=[_hover(name, site) for name, site in sites.items()],
            hoverinfo="text",
            showlegend=False,
        )
        yield go.Scatter(  # the key, without a colour of any site
            x=[None],
            y=[None],
            xaxis="x2",
            mode="markers",
            name=kind,
            marker=_marker(symbol, size, INK),
            legend="legend2",
        )


def _marker(symbol: str, size: int, colour: str | list[str]) -> dict[str, Any]:
    return {"symbol": symbol, "size": size, "color": colour, "line": {"width": 2, "color": colour}}


def _curves(inspection: Inspection, styles: dict[str, dict[str, str]]) -> Iterator[go.Scatter]:
    for name, site in inspection.sites.items():
        look = {
            "name": html.escape(name),
            "legendgroup": name,
            "mode": "lines",
            "line": {**styles[name], "width": 2},
        }
        values = np.array(site.singular_values)
        shown = values[values > LEAST_SHOWN * site.spectral]
        ranks = np.arange(len(values) + 1)
        yield go.Scatter(
            x=ranks.tolist(),
            y=site.energy.tolist(),
            xaxis="x3",
            yaxis="y3",
            hovertemplate="rank %{x} keeps %{y:.1%}",
            **look,
        )
        yield go.Scatter(
            x=ranks[1 : len(shown) + 1].tolist(),
            y=shown.tolist(),
            xaxis="x4",
            yaxis="y4",
            hovertemplate="value %{x} is %{y:.3g}",
            showlegend=False,
            **look,
        )


def _hover(name: str, site: SiteInspection) -> str:
    return "<br>".join(
        [
            f"<b>{html.escape(name)}</b>, {site.shape[0]} x {site.shape[1]}",
            f"{site.bits:.2f} bits a stored value before coding",
            f"{site.entropy_bits:.2f} at the entropy of the codes",
            f"{site.coded_bits:.2f} in the file",
            f"{site.bits_per_weight:.2f} bits a weight, all bytes counted",
        ]
    )


def _layout(inspection: Inspection, name: str) -> dict[str, Any]:
    short = name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
    title = f"{short}: why its matrices compress or do not"
    rows = ROW * len(inspection.parts)
    plot, keys = rows + GAP + CURVES, KEY_ROW * math.ceil(len(inspection.sites) / KEYS)
    height = TOP + plot + BOTTOM + keys
    upper, lower = ((GAP + CURVES) / plot, 1.0), (0.0, CURVES / plot)  # from the bottom up
    axis = AXIS | {"zerolinecolor": PALE}
    parts = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [html.escape(part) for part in inspection.parts],
        "autorange": "reversed",
        "domain": upper,
        "showgrid": False,
        "dtick": 1,
        "ticksuffix": "\N{NO-BREAK SPACE}",
    }
    ranks = {"title": {"text": "rank", "font": {"size": 13}}, "rangemode": "tozero"}
    most_bytes = max(inspection.parts.values())
    most_bits = max(site.bits for site in inspection.sites.values())
    subtitle = (
        f"{format_size(inspection.size_bytes)}; the earlier a curve of energy rises, "
        f"the better low rank fits the matrix"
    )
    base = base_layout(title, subtitle, height)
    return base | {
        "title": base["title"] | {"x": 0.02, "y": 1 - 30 / height, "yanchor": "top"},
        "margin": {"l": 140, "r": 40, "t": TOP, "b": BOTTOM + keys},
        "annotations": [
            _heading("where the bytes are", LEFT_PANEL, upper),
            _heading("bits a stored value", RIGHT_PANEL, upper),
            _heading("energy kept by the best matrix of a rank", LEFT_PANEL, lower),
            _heading("singular values", RIGHT_PANEL, lower),
        ],
        "xaxis": axis
        | {"domain": LEFT_PANEL, "anchor": "y", "range": [0, 1.35 * most_bytes]}
        | {"showgrid": False, "showline": False, "showticklabels": False, "ticks": ""},
        "yaxis": parts | {"anchor": "x"},
        "xaxis2": axis | {"domain": RIGHT_PANEL, "anchor": "y", "range": [0, 1.06 * most_bits]},
        "xaxis3": axis | ranks | {"domain": LEFT_PANEL, "anchor": "y3"},
        "yaxis3": axis | {"domain": lower, "anchor": "x3", "range": [0, 1.02], "tickformat": ".0%"},
        "xaxis4": axis | ranks | {"domain": RIGHT_PANEL, "anchor": "y4"},
        "yaxis4": axis
        | {"domain": lower, "anchor": "x4", "type": "log", "tickformat": "~g"}
        | {"dtick": "D2"},
        "legend": {
            "orientation": "h",
            "x": 0.5,
            "xanchor": "center",
            "y": 0.01,
            "yanchor": "bottom",
            "yref": "container",
        },
        "legend2": {
            "orientation": "h",
            "x": RIGHT_PANEL[0] + 0.005,
            "y": upper[0] + 0.005,
            "yanchor": "bottom",
            "font": {"size": 12},
            "itemclick": False,
            "itemdoubleclick": False,
        },
    }


def _heading(
    text: str, across: tuple[float, float], upwards: tuple[float, float]
) -> dict[str, Any]:
    """A bold line over a panel."""
    return {
        "text": f"<b>{text}</b>",
        "x": across[0],
        "y": upwards[1],
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 8,
        "showarrow": False,
        "font": {"size": 14},
    }
