"""All that one study found, or several, as a page that works offline."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmcore.files import check_folder
from search.commands.answer import Answer
from search.config import ReportConfig
from search.show.report.computed import Source, report_of
from search.show.report.page import write_report
from search.show.report.record import Report
from search.store.outage import Patience
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.published import folder_of

Config = ReportConfig
LOOK_SECONDS = 5.0  # between looks for what is new, while a study is watched
REST = 2.0  # a look rests for at least so many times the seconds that the last page took
LONGEST = 100  # letters of a folder's name


def run(config: ReportConfig) -> Answer:
    names = config.names
    folder = Path(config.to) if config.to else config.folder / "plots" / _folder(names)
    check_folder(folder)
    report = _report(config, names, watching=config.watch)
    files = write_report(report, folder)
    if config.watch:
        print(
            f"{files[0]} is written anew when something changed, at most every "
            f"{LOOK_SECONDS:.0f} s; Ctrl-C ends that",
            file=sys.stderr,
        )
        report = _watch(config, names, report, lambda one: write_report(one, folder))
        files = write_report(report, folder)
    paths = [str(path) for path in files]
    document = {"studies": names, "sentence": report.sentence, "files": paths}
    return Answer(document, "\n".join([report.sentence, *paths]))


def _report(config: ReportConfig, names: list[str], watching: bool) -> Report:
    return report_of([_source(config, name) for name in names], watching)


def _source(config: ReportConfig, name: str) -> Source:
    context = StudyContext(config).but(name=name)
    try:
        return Source(
            history=history_of(context),
            bundles=config.folder / "bundles",
            published=folder_of(name),
            attributes=context.attributes,
        )
    finally:
        context.store.engine.dispose()


def _watch(
    config: ReportConfig, names: list[str], report: Report, write: Callable[[Report], Any]
) -> Report:
    """Write the page whenever a study changed, until all are complete or the person presses Ctrl-C.
    Returns the last report, as one that is not watched any more. A database that is away is waited
    for."""
    patience = Patience(math.inf, config.storage.shown)
    watched = StudyContext(config, patience)
    try:
        seen, took = None, 0.0
        while True:
            now, over = patience(_look, watched, names)
            if now != seen:
                began = time.monotonic()
                report = patience(_report, config, names, watching=not over)
                write(report)
                seen, took = now, time.monotonic() - began
            if over:
                break
            time.sleep(max(LOOK_SECONDS, REST * took))
    except KeyboardInterrupt:
        pass
    return replace(report, watching=False)


def _look(context: StudyContext[ReportConfig], names: list[str]) -> tuple[list[Any], bool]:
    """What changes when the studies do, and whether all of them are complete."""
    stored = [name for name in names if context.store.has_study(name)]
    pulses = [context.store.pulse(name) for name in stored]
    slots = (context.but(name=name).slots for name in stored)
    return pulses, not any(one.unfinished() for one in slots)


def _folder(names: list[str]) -> str:
    """A folder's name, of any names of studies."""
    return re.sub(r"[^\w.-]", "_", "_".join(names))[:LONGEST].strip(".") or "_"
