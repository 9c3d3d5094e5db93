"""A row that another program has changed: every command says which, and the others go on."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from lmcore.errors import UserError
from lmcore.settings import parse
from search.commands import status
from search.commands.answer import Answer
from search.config import ReadingConfig
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.note import ATTRIBUTE
from studies import settings, sweep_here, write_text


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two studies, `one` and `other`, each with a trial."""
    folder = tmp_path_factory.mktemp("damage")
    write_text(folder / "text.txt", words=60, lines=400)
    for name in ("one", "other"):
        sweep_here(settings(folder, name=name, trials=1, seed=1 + len(name)))
    return folder / "studies.db"


def changed(database: Path, folder: Path, statement: str, *values: str) -> ReadingConfig:
    """The settings of a reader of a copy in which the statement was run."""
    copy = folder / "studies.db"
    with sqlite3.connect(database) as whole, sqlite3.connect(copy) as half:
        whole.backup(half)
        half.execute(statement, values)
    shutil.copy(database.with_name("text.txt"), folder)
    plain = settings(folder).plain()
    known = {name: one for name, one in plain.items() if name in ReadingConfig.model_fields}
    return parse(ReadingConfig, known | {"name": None})


@pytest.mark.parametrize("field", ["recipe", "provenance"])
@pytest.mark.parametrize("text", ["{", "not JSON", ""])
def test_a_measurement_that_is_no_json_is_named(
    field: str, text: str, database: Path, tmp_path: Path
) -> None:
    key = "(select min(key) from lmpareto_rung where study = 'one')"
    statement = f"update lmpareto_measurement set {field} = ? where key = {key}"
    config = changed(database, tmp_path, statement, text)
    with sqlite3.connect(database) as known:
        (wrong,) = known.execute(f"select {key}").fetchone()
    with pytest.raises(UserError, match=f"^the measurement {wrong} is damaged in the database"):
        history_of(StudyContext(config).but(name="one"))
    assert history_of(StudyContext(config).but(name="other")).results.front.points


@pytest.mark.parametrize("note", ['{"failure": 3}', "[]", "{"])
def test_a_damaged_note_does_not_hide_the_other_studies(
    note: str, database: Path, tmp_path: Path
) -> None:
    studies = "(select study_id from studies where study_name = 'one')"
    trials = f"(select trial_id from trials where study_id = {studies})"
    statement = (
        f"update trial_user_attributes set value_json = ? "
        f"where key = '{ATTRIBUTE}' and trial_id in {trials}"
    )
    config = changed(database, tmp_path, statement, note)
    found: Answer = status.run(config)
    one, other = found.document["studies"]
    assert "is damaged" in one["error"]
    assert one["study"] == "one"
    assert (other["study"], other["complete"]) == ("other", 1)
    first, second = found.text.splitlines()
    assert first == f"one: {one['error']}"
    assert second == "other: 1 trials, 0 failed"
    with pytest.raises(UserError, match="is damaged"):
        status.run(config.model_copy(update={"name": "one"}))
