"""A database that is away is waited for; one that stays away, or is not wanted any more, is not."""

from __future__ import annotations

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from lmcore.errors import UserError
from search.store import outage
from search.store.outage import AwayError, Patience
from search.store.settings import StorageSettings
from search.store.store import Store

GONE = OperationalError("select 1", {}, Exception("the server closed the connection\nat once"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "PAUSES", (0.01,))


class Away:
    """Is away for so many calls."""

    def __init__(self, calls: float, error: Exception = GONE) -> None:
        self.left, self.error = calls, error

    def __call__(self, answer: str) -> str:
        if self.left > 0:
            self.left -= 1
            raise self.error
        return answer


@pytest.mark.parametrize("error", [GONE, StorageInternalError("as Optuna says"), AwayError("no")])
def test_it_is_waited_for_and_that_is_said(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Patience(60, "the database")(Away(9, error), "here") == "here"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("waiting for the database: ")


def test_a_short_absence_is_not_worth_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert Patience(60, "the database")(Away(2), "here") == "here"
    assert capsys.readouterr().err == ""


def test_at_last_it_is_a_persons_turn() -> None:
    said = r"the database was away for more than 0 s \(the server closed the connection\); the same"
    with pytest.raises(UserError, match=said):
        Patience(0.1, "the database")(Away(float("inf")), "here")


def test_what_is_no_outage_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        Patience(60, "the database")(Away(1, ZeroDivisionError()), "here")


def test_who_is_to_stop_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt):
        Patience(60, "the database", lambda: True)(Away(float("inf")), "here")
    for times in (0, 1):  # as the last word of a worker
        assert Patience(60, "the database", lambda: True)(Away(times), "here") == "here"


def test_a_server_that_does_not_answer_is_away() -> None:
    """A person who typed its URL is told at once; a worker waits for it."""
    with pytest.raises(AwayError, match="cannot open the storage postgresql"):
        Store(StorageSettings(url="postgresql://nobody@/none?host=/nowhere"))
