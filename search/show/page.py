"""Pages and pictures of a figure, as files."""

from __future__ import annotations

import html
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmcore.errors import UserError
from lmcore.files import write_atomic

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WIDTH = 1000  # pixels of a picture
FORMS = ("png", "svg", "pdf")
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


def page(figure: Figure) -> str:
    """A whole HTML page that needs no network. The same figure always gives the same page."""
    import plotly.io

    chart = plotly.io.to_html(
        figure,
        config=PAGE_CONFIG,
        full_html=False,
        include_plotlyjs=True,
        div_id="chart",
    )
    meta = figure.layout.meta
    return PAGE.format(title=html.escape(meta["title"]), least=3 * meta["height"] // 4, chart=chart)


def image(figure: Figure, path: Path) -> None:
    """Write the picture to `path`, 1000 wide and as high as it asks: SVG, PDF, or PNG with twice
    the pixels.

    Raises UserError for any other suffix, where Chrome or Chromium is not found or does not start,
    and where `path` cannot be written.
    """
    import kaleido
    from kaleido.errors import BrowserFailedError, ChromeNotFoundError

    form = path.suffix.lower().removeprefix(".")
    if form not in FORMS:
        raise UserError(f"cannot draw {path}: the name of a picture ends in .png, .svg or .pdf")
    height, scale = figure.layout.meta["height"], 2 if form == "png" else 1
    options = {"format": form, "width": WIDTH, "height": height, "scale": scale}
    try:
        data = kaleido.calc_fig_sync(figure, options, kopts={"mathjax": False})
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise UserError(
            f"cannot draw {path}: that takes Chrome or Chromium, which is not found or does not "
            "start. Install it (Debian, Ubuntu: apt install chromium; elsewhere: "
            "plotly_get_chrome), or give its path in BROWSER_PATH. HTML pages need neither."
        ) from error
    write_atomic(path, data)


def write_page(figure: Figure, folder: Path, name: str) -> list[str]:
    """Write NAME.html and the pictures beside it; the files that were written."""
    path = folder / f"{name}.html"
    write_atomic(path, page(figure).encode())
    return [str(one) for one in (path, *write_pictures(figure, folder, name))]


def draw(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME in each of `FORMS`; the files that were written. Raises UserError as `image`
    does."""
    paths = [folder / f"{name}.{form}" for form in FORMS]
    for path in paths:
        image(figure, path)
    return paths


def write_pictures(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg where a browser is at hand; else say what to install."""
    written = []
    for path in (folder / f"{name}.png", folder / f"{name}.svg"):
        try:
            image(figure, path)
        except UserError as error:
            print(f"lmpareto: no pictures: {error}", file=sys.stderr)
            break
        written.append(path)
    return written
