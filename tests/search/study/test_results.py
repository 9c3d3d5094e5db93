"""The results of a study: every measured file counts, from the database and from a folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import grid
from lmcore.errors import UserError
from search.front import Point, front_of
from search.measurement import Measurement, best_of
from search.rules.limits import Limits
from search.study.context import StudyContext, WorkContext
from search.study.note import ATTRIBUTE
from search.study.published import RECORDS
from search.study.results import PREDICTED, Results, results_of, write_records
from search.study.study import keep_limits
from studies import settings


def measured(key: str, size_bytes: int, perplexity: float) -> Measurement:
    return Measurement(
        key=key,
        recipe={},
        size_bytes=size_bytes,
        valid_measure=perplexity,
        tokens_per_second=1.0,
        updates=0,
        seconds=0.0,
        sha256=key,
        provenance={},
    )


SIZES = st.integers(1, 9)
PERPLEXITIES = st.one_of(
    st.integers(2, 9).map(float), st.sampled_from([float("inf"), float("nan")])
)
RUNGS = st.dictionaries(st.integers(0, 3), st.tuples(SIZES, PERPLEXITIES), min_size=1)
FILES = st.dictionaries(st.integers(0, 6), RUNGS)


def results_with(files: dict[int, dict[int, tuple[int, float]]], **more: Any) -> Results:
    made = {
        trial: {rung: measured(f"{trial}/{rung}", *at) for rung, at in rungs.items()}
        for trial, rungs in files.items()
    }
    return Results("mine", "text", made, {}, **more)


@given(FILES)
def test_nothing_that_was_measured_is_missing_from_the_front(
    files: dict[int, dict[int, tuple[int, float]]],
) -> None:
    every = [at for rungs in files.values() for at in rungs.values() if at[1] < float("inf")]
    wanted = {
        (size, perplexity)
        for size, perplexity in every
        if not any(s <= size and p <= perplexity and (s, p) != (size, perplexity) for s, p in every)
    }
    front = results_with(files).front
    assert {(point.size_bytes, point.valid_measure) for point in front.points} == wanted


@given(FILES)
def test_off_the_front_a_trial_has_one_point_its_best_file(
    files: dict[int, dict[int, tuple[int, float]]],
) -> None:
    found = results_with(files)
    front = found.front
    assert all(point.of_best for point in front.dominated)
    own = [point for point in (*front.points, *front.dominated) if point.of_best]
    assert sorted(point.trial or 0 for point in own) == sorted(files)
    for point in own:
        least = best_of(found.files[point.trial or 0].values())
        assert point.recipe == least.recipe


@given(FILES)
@hypothesis.settings(max_examples=30)
def test_a_folder_gives_the_same_results(files: dict[int, dict[int, tuple[int, float]]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.study.published.PUBLISHED", Path(folder))
        names = [name for name, *_ in results_with(files).named()]
        found = results_with(files, infeasible=frozenset(names[:2]))
        path = Path(folder, "mine", RECORDS)
        path.parent.mkdir()
        write_records(found, path)
        config = settings(Path(folder))
        again = results_of(StudyContext(config))
        assert repr(again.files) == repr(found.files)  # NaN is not equal to itself
        assert again.infeasible == found.infeasible


def test_nothing_of_the_recorded_grid_is_missing_from_the_front() -> None:
    looks = enumerate(grid.read(grid.SMALL).looks.values())
    files = {
        trial: {look.rung: (look.size_bytes, look.perplexity) for look in rungs}
        for trial, rungs in looks
    }
    every = [at for rungs in files.values() for at in rungs.values()]
    points = [Point("", number, *at, None, None) for number, at in enumerate(every)]
    wanted = [(one.size_bytes, one.valid_measure) for one in front_of("", points).points]
    front = results_with(files).front.points
    assert [(one.size_bytes, one.valid_measure) for one in front] == wanted


def test_a_file_is_found_by_its_trial_and_its_rung() -> None:
    found = results_with({17: {0: (5, 9.0), 1: (5, 7.0), 2: (6, 8.0)}, 3: {0: (1, 1.5)}})
    assert found.find(17).name == "17"
    assert found.find(17).label == "trial 17"
    assert found.find("17").rung == 1
    assert found.find(17, 1).name == "17"
    assert found.find(17, 2).name == "17 rung 2"
    assert found.find(17, 2).label == "trial 17 rung 2"
    assert found.measured("17 rung 2").key == "17/2"
    assert found.measured("17").key == "17/1"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((5,), "mine has no measured trial 5; it has 3, 17"),
        ((17, 4), "trial 17 of mine was not measured at rung 4; it was at 0-1"),
        (("control",), "trial: got control; it takes a number, or the name of a baseline: dense"),
        (("dense", 0), "rung: dense is a baseline, and only trials have rungs"),
    ],
)
def test_what_was_not_measured_is_not_found(asked: tuple[Any, ...], message: str) -> None:
    files = {17: {0: (5, 9.0), 1: (5, 7.0)}, 3: {0: (1, 1.5)}}
    made = results_with(files)
    found = Results("mine", "text", made.files, {"dense": measured("dense", 9, 2.0)})
    with pytest.raises(UserError) as error:
        found.find(*asked)
    assert str(error.value) == message


def published(line: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published study `mine` with two measured files; the second one's line has other values."""
    monkeypatch.setattr("search.study.published.PUBLISHED", folder)
    path = folder / "mine" / RECORDS
    path.parent.mkdir()
    write_records(results_with({0: {0: (1, 2.0)}, 1: {0: (2, 1.0)}}), path)
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps(json.loads(second) | line)}\n")
    return path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"size_bytes": "large"}, "size_bytes: got 'large'"),
        ({"valid_perplexity": None}, "valid_measure: got None"),
        ({"tokens_per_second": "fast"}, "tokens_per_second: got 'fast'"),
        ({"trial": "x"}, "trial: got 'x'"),
        ({"rung": -1}, "rung: got -1"),
        ({"recipe": [1]}, "recipe: got [1]"),
        ({"recipe": {"sites": {"*": 3}}}, "recipe.sites.*: got 3; input should be"),
    ],
)
def test_a_published_value_of_another_kind_is_named(
    line: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(line, tmp_path, monkeypatch)
    with pytest.raises(UserError) as error:
        results_of(StudyContext(settings(tmp_path)))
    assert f"{RECORDS}, line 2 is no record of a study: {said}" in str(error.value)


@pytest.mark.parametrize("text", ["{", "[[1]]", '[["a", 2]]', '{"a": 1}', "\xff", "[" * 100_000])
def test_a_damaged_predicted_front_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published({}, tmp_path, monkeypatch).with_name(PREDICTED)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"predicted\.json is no predicted front of a study: "):
        results_of(StudyContext(settings(tmp_path)))


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "{",
        "[]",
        "{}",
        '{"name": "../../evil"}',
        '{"name": "17", "size_bytes": 3}',
        "\xff",
        "null",
    ],
)
def test_a_published_line_that_lies_is_named(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.published.PUBLISHED", tmp_path)
    path = tmp_path / "mine" / RECORDS
    path.parent.mkdir()
    write_records(results_with({0: {0: (1, 2.0)}}), path)
    path.write_bytes(path.read_bytes() + line.encode("latin-1"))
    with pytest.raises(UserError, match=r"trials\.jsonl, line 2 is no record of a study"):
        results_of(StudyContext(settings(tmp_path)))


def test_a_study_shows_files_that_optuna_was_not_told_of(tmp_path: Path) -> None:
    """A trial that ended worse than it began, told by an earlier version; one that still runs; one
    from before there were rungs; a limit."""
    context = WorkContext(settings(tmp_path))
    study = optuna.create_study(
        storage=context.store.optuna, study_name="mine", directions=["minimize"] * 2
    )

    def stored(trial: int, rung: int | None, size_bytes: int, perplexity: float) -> str:
        one = measured(f"{trial}/{rung}", size_bytes, perplexity)
        context.store.keep(one)
        if rung is not None:
            context.store.keep_rung("mine", trial, rung, one.key)
        return one.key

    for told in (True, False, True):
        trial = study.ask()
        number = trial.number
        keys = (
            [stored(number, None, 7, 3.0)]
            if number == 2
            else [stored(number, 0, 3, 66.3 + number), stored(number, 1, 2 - number, 91.5)]
        )
        if told:
            trial.set_user_attr(ATTRIBUTE, {"key": keys[-1]})
            study.tell(number, [3, 91.5])
    found = results_of(context)
    assert {trial: one.key for trial, one in found.trials.items()} == {
        0: "0/0",
        1: "1/0",
        2: "2/None",
    }
    assert [point.name for point in found.front.points] == ["1 rung 1", "0", "2"]
    assert [point.name for point in found.front.dominated] == ["1"]
    keep_limits(study, Limits(max_perplexity=80.0))
    limited = results_of(context)
    assert [point.name for point in limited.front.points] == ["0", "2"]
    assert limited.infeasible == {"0 rung 1", "1 rung 1"}
    assert not limited.front.infeasible
