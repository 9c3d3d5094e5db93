"""The page of a report: one HTML file, with plotly.js beside it.

The page works offline, from a folder, without a server. Its styles, its scripts and its data are
inside; plotly.js, of 4.8 MB, lies beside it as `plotly.min.js`, so that all pages of a folder share
one copy. The data is one JSON document, packed by gzip and written in base64: nothing in it can act
as markup, and 50,000 trials take a few MB.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from lmcore.files import write_atomic
from search.show.report.record import Report

PAGE, PLOTLY = "report.html", "plotly.min.js"
# In the order in which they stand in the page, where they share one scope.
SCRIPTS = (
    *("elements.js", "numbers.js", "plots.js", "plane.js", "front.js", "chosen.js"),
    *("sections.js", "mattered.js", "filter.js", "table.js", "main.js"),
)
ASSETS = files("search.show.report") / "assets"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write the page and, where it is not there yet, plotly.js beside it; both paths.

    The same record always gives the same bytes. Raises DiskError where a file cannot be written.
    """
    page, plotly = folder / PAGE, folder / PLOTLY
    write_atomic(page, page_of(report).encode())
    script = plotly_script()
    if not plotly.is_file() or plotly.read_bytes() != script:
        write_atomic(plotly, script)
    return [page, plotly]


def page_of(report: Report) -> str:
    """The whole page. Texts of the record stand in it escaped, or packed with the data."""
    parts = {
        "TITLE": html.escape(report.title),
        "SENTENCE": html.escape(report.sentence),
        "STYLE": _asset("page.css"),
        "SCRIPT": "\n".join(map(_asset, SCRIPTS)),
        "DATA": packed(report),
    }
    text = _asset("page.html")
    before, *slots = text.split("{{")
    pieces = [before]
    for slot in slots:
        name, after = slot.split("}}", 1)
        pieces += [parts[name], after]
    return "".join(pieces)


def packed(report: Report) -> str:
    """The record as the page reads it: JSON, gzip, base64."""
    document = json.dumps(plain(report), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(document.encode(), 6, mtime=0)).decode()


def plain(value: Any) -> Any:
    """`value` as plain data: records as dicts, numbers to six digits, which is more than a page
    shows, None for NaN and infinity, and the text of whatever JSON has not."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return round(value) if abs(value) >= 1e6 else float(f"{value:.6g}")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    return str(value)


def plotly_script() -> bytes:
    """plotly.js, as the package plotly brings it."""
    return (files("plotly") / "package_data" / PLOTLY).read_bytes()


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
