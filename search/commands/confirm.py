"""Train the points of the front again with other seeds."""

from __future__ import annotations

import sys

from search.commands.answer import Answer, tell_corpus
from search.config import ConfirmConfig
from search.show.confirmed import confirmed_document, confirmed_text
from search.show.tables import front_document, front_table
from search.study.context import WorkContext
from search.study.history import history_of
from search.study.sureness import sureness_of
from search.work.confirming import confirm

Config = ConfirmConfig


def run(config: ConfirmConfig) -> Answer:
    context = WorkContext(config)
    print(f"study {context.name} in {context.store.settings.shown}", file=sys.stderr)
    tell_corpus(context)
    confirmed, history = confirm(context), history_of(context)
    sure, results = sureness_of(history), history.results
    shown = results.front, results.beside, sure, results.limits
    return Answer(
        {**confirmed_document(confirmed), **front_document(*shown)},
        f"{confirmed_text(confirmed)}\n{front_table(*shown)}",
    )
