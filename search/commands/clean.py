"""What the cache holds, and what of it can go."""

from __future__ import annotations

import sys

from search.commands.answer import Answer, agreed
from search.config import AgreedConfig
from search.show.tables import shares_document, shares_table
from search.study.cache import free, survey
from search.study.context import StudyContext
from search.units import format_size

Config = AgreedConfig


def run(config: AgreedConfig) -> Answer:
    shares = survey(StudyContext(config))
    unneeded = sum(one.unneeded_bytes for one in shares)
    table = f"{config.folder}\n{shares_table(shares)}"
    size, freed = format_size(unneeded), False
    if unneeded and (config.yes or sys.stdin.isatty()):
        print(table, file=sys.stderr)
        freed = agreed(config.yes, f"Delete what no study needs, {size}?")
    if freed:
        free(shares)
    said = f"freed {size}" if freed else f"{table}\nnothing was deleted"
    if unneeded and not freed:
        said += f"; yes=true deletes what no study needs, {size}"
    return Answer({**shares_document(shares), "freed": freed}, said)
