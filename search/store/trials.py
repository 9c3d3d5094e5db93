"""Optuna's trials, read at once. Optuna's own call builds an object for each parameter: it needs
half a minute for 50,000 trials, this needs a few seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState
from sqlalchemy import DateTime, Engine, String, column, select, table
from sqlalchemy.orm import Session

from lmcore.errors import UserError

_STUDIES = table("studies", column("study_id"), column("study_name"))
_TRIALS = table(
    "trials",
    column("trial_id"),
    column("number"),
    column("study_id"),
    column("state", String),
    column("datetime_start", DateTime),
    column("datetime_complete", DateTime),
)
_PARAMS = table(
    "trial_params",
    column("param_id"),
    column("trial_id"),
    column("param_name"),
    column("param_value"),
    column("distribution_json"),
)
_ATTRIBUTES = table(
    "trial_user_attributes", column("trial_id"), column("key"), column("value_json")
)


@dataclass
class StoredTrial:
    """A trial as Optuna stores it. `user_attrs` has the one attribute that was asked for, if the
    trial has it. Times are local to the machine that ran it, as Optuna writes them."""

    number: int
    state: TrialState
    started: datetime | None
    ended: datetime | None
    parameters: dict[str, Any] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)


def read_trials(engine: Engine, study: str, attribute: str) -> list[StoredTrial]:
    """All trials of the study by number, with this attribute. Raises UserError where one is
    damaged."""
    of_study = select(_STUDIES.c.study_id).where(_STUDIES.c.study_name == study).scalar_subquery()
    trials = select(
        _TRIALS.c.trial_id,
        _TRIALS.c.number,
        _TRIALS.c.state,
        _TRIALS.c.datetime_start,
        _TRIALS.c.datetime_complete,
    ).where(_TRIALS.c.study_id == of_study)
    own = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == of_study)
    parameters = (
        select(
            _PARAMS.c.trial_id,
            _PARAMS.c.param_name,
            _PARAMS.c.param_value,
            _PARAMS.c.distribution_json,
        )
        .where(_PARAMS.c.trial_id.in_(own))
        .order_by(_PARAMS.c.param_id)
    )
    attributes = select(_ATTRIBUTES.c.trial_id, _ATTRIBUTES.c.value_json).where(
        _ATTRIBUTES.c.trial_id.in_(own), _ATTRIBUTES.c.key == attribute
    )
    found: dict[int, StoredTrial] = {}
    number: int | None = None
    try:
        with Session(engine) as session:
            for trial, number, state, started, ended in session.execute(trials):
                found[trial] = StoredTrial(number, TrialState[state], started, ended)
            # a trial that another process begins meanwhile is in the next reading
            for trial, name, value, distribution in session.execute(parameters):
                if (row := found.get(trial)) is not None:
                    number = row.number
                    row.parameters[name] = _distribution(distribution).to_external_repr(value)
            for trial, value in session.execute(attributes):
                if (row := found.get(trial)) is not None:
                    number = row.number
                    row.user_attrs[attribute] = json.loads(value)
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(
            f"study {study}: trial {number} is damaged in the database; restore it from a copy"
        ) from None
    return sorted(found.values(), key=lambda row: row.number)


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
