"""Optuna's dashboard of a study, in a browser of this machine."""

from __future__ import annotations

import sys

from lmcore.errors import UserError
from search.commands.answer import Answer
from search.config import DashboardConfig
from search.describe import command_line
from search.show.dashboard import serve
from search.study.context import StudyContext
from search.study.published import folder_of

Config = DashboardConfig


def run(config: DashboardConfig) -> Answer:
    context, addresses = StudyContext(config), list[str]()

    def tell(address: str) -> None:
        addresses.append(address)
        line = f"the dashboard of study {context.name} is at {address}; Ctrl-C ends it"
        print(line, file=sys.stderr, flush=True)

    if not context.store.has_study(context.name) and folder_of(context.name):
        raise UserError(
            f"study {context.name} is published and not in {context.store.settings.shown}, which "
            f"is what the dashboard shows; {command_line('report', context.name)} shows it"
        )
    serve(context, config.port, tell)
    return Answer({"study": context.name, "address": addresses[0]}, "the dashboard has ended")
