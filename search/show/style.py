"""How pictures look: fonts, colours, and the layout that all of them begin with."""

from __future__ import annotations

import html
from typing import Any

FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
INK, GRID, PALE = "#1f2933", "#e8ecf0", "#c5ced8"
MUTED = "#52606d"  # the colour of what is said aside
FRONT_COLOUR, KNEE_COLOUR = "#0b5cad", "#d9480f"
# One a source: Paul Tol's colour-blind safe "muted" scheme (SRON/EPS/TN/09-002, 2021).
SOURCE_COLOURS = (
    *("#882255", "#44AA99", "#AA4499", "#117733", "#999933"),
    *("#CC6677", "#332288", "#88CCEE", "#DDCC77"),
)
AXIS = {"gridcolor": GRID, "linecolor": PALE, "ticks": "outside", "tickcolor": PALE}


def base_layout(title: str, subtitle: str, height: int) -> dict[str, Any]:
    """Plotly's layout with a bold title, a line below it and our colours.

    The title as plain text is `meta["title"]`, the picture's height in pixels `meta["height"]`:
    `page` and `image` of `search.show.page` read them. Neither text acts as markup.
    """
    return {
        "template": "none",
        "meta": {"title": title, "height": height},
        "title": {
            "text": f"<b>{html.escape(title)}</b>",
            "font": {"size": 19},
            "subtitle": {"text": html.escape(subtitle), "font": {"size": 13, "color": MUTED}},
        },
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 12, "color": INK}},
    }


def dot(colour: str, size: int) -> dict[str, Any]:
    """A filled mark with a white rim that parts it from what it covers."""
    return {"color": colour, "size": size, "line": {"color": "white", "width": 1.3}}
