"""The record of a report, of histories made by hand and of published studies."""

import json
import math
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from lmcore.files import finite
from lmcore.recipe import Recipe
from lmcore.spelling import Spelling
from search.commands import settings_of
from search.config import PUBLISHED, FrontConfig
from search.front import Point, hypervolume
from search.measurement import Measurement
from search.show.report.computed import Source, report_of, study_report
from search.show.report.course import Growing, reference_of
from search.show.report.mattered import LEAST
from search.show.report.record import StudyReport
from search.show.report.stored import SITES
from search.show.report.words import HOLE, Phrasebook, filled
from search.study.context import StudyContext
from search.study.history import History, TrialRecord, history_of
from search.study.results import Results

NOWHERE = Path("/nonexistent")
DAY = 1_700_000_000.0


def recipe(step: float = 1.0, epochs: float = 0.0) -> dict[str, Any]:
    sites = {
        name: {
            "structure": {"kind": "dense"},
            "sparsity": 0.0,
            "bits": {"kind": "uniform", "step": step, "rounding": 0.1, "scope": "matrix"},
        }
        for name in ("embedding", "lstm.0.input", "lstm.0.recurrent")
    }
    tuning = {"epochs": epochs, "optimizer": "sgd", "rate": 5.0, "dropout": {"rate": 0.2}}
    return {"sites": sites, "finetuning": tuning if epochs else None}


def measured(
    size_bytes: int, perplexity: float, given: dict[str, Any] | None = None, key: str = ""
) -> Measurement:
    given = recipe(size_bytes / 1e5) if given is None else given
    key = key or f"{size_bytes}_{perplexity}_{json.dumps(given)}"
    return Measurement(key, given, size_bytes, perplexity, 9000.0, 10, 2.0, "", {})


DENSE = measured(8_000_000, 120.0, {})
CONTROL = measured(8_000_000, 110.0, {"finetuning": {"epochs": 1.0}})


def history(
    files: Mapping[int, Sequence[Measurement]],
    trials: Sequence[TrialRecord] | None = None,
    baselines: Mapping[str, Measurement] | None = None,
    infeasible: Sequence[str] = (),
    study: str = "demo",
) -> History:
    results = Results(
        study,
        "text",
        {trial: dict(enumerate(rungs)) for trial, rungs in files.items()},
        {"dense": DENSE} if baselines is None else baselines,
        infeasible=frozenset(infeasible),
    )
    if trials is None:
        trials = [TrialRecord(trial, "complete", {}) for trial in files]
    return History(results, trials)


def report(given: History) -> StudyReport:
    found = study_report(Source(given, NOWHERE, NOWHERE))
    rows = {len(column) for column in (*found.trials.values(), *found.parameters.values())}
    assert rows <= {len(given.trials)}
    assert len({len(column) for column in found.files.values()}) == 1
    assert json.dumps(asdict(found), allow_nan=False)
    return found


# --- the sentence --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "baselines", "sentence"),
    [
        (
            [(2_000_000, 119.0), (500_000, 122.0)],
            {"dense": DENSE},
            "4.0 x smaller at equal perplexity; 16 x at 2% more.",
        ),
        ([(2_000_000, 119.0)], {"dense": DENSE}, "4.0 x smaller at equal perplexity."),
        (
            [(2_000_000, 119.0), (500_000, 122.0)],
            {"dense": DENSE, "control": CONTROL},
            "No model reaches the perplexity of the dense model fine-tuned likewise; "
            "the best is 4.0 x smaller at 8% more.",
        ),
        (
            [(2_000_000, 99.0), (500_000, 102.0)],
            {"dense": DENSE, "wide": measured(16_000_000, 100.0, {})},
            "4.0 x smaller at the perplexity of the dense model wide; 16 x at 2% more.",
        ),
        ([(500_000, 122.0)], {"dense": DENSE}, "16 x smaller at 2% more perplexity than the dense"),
        ([(500_000, 180.0)], {"dense": DENSE}, "the best is 16 x smaller at 50% more."),
        ([(16_000_000, 100.0)], {"dense": DENSE}, "2.0 x larger at equal perplexity."),
        ([(8_000_000, 100.0)], {"dense": DENSE}, "As large at equal perplexity."),
        ([(500_000, 122.0), (900_000, 99.0)], {}, "From 500 kB at perplexity 122.0 to 900 kB at"),
        ([(500_000, 122.0)], {}, "One model: 500 kB at perplexity 122.0."),
        ([(500_000, math.nan)], {"dense": DENSE}, "No model of 1 trials has a finite perplexity."),
        ([(500_000, 122.0)], {"dense": measured(8, math.inf, {})}, "One model: 500 kB"),
        ([], {"dense": DENSE}, "No trial yet."),
    ],
)
def test_the_sentence_compares_files_that_exist(
    files: list[tuple[int, float]], baselines: dict[str, Measurement], sentence: str
) -> None:
    made = history({n: [measured(*one)] for n, one in enumerate(files)}, baselines=baselines)
    assert sentence in report(made).sentence


def test_the_sentence_says_what_it_refers_to() -> None:
    given = history({0: [measured(2_000_000, 109.0)]}, baselines={"dense": DENSE, "c": CONTROL})
    found = report(given)
    assert found.sentence.startswith(
        "4.0 x smaller at the perplexity of the dense model fine-tuned"
    )
    said = " ".join(found.notes)
    assert "compared with the dense model's file, 8.00 MB" in said
    assert "perplexity 120.00: 4.0 x smaller at equal perplexity." in said


def test_trials_that_failed_are_the_sentence_where_no_other_is() -> None:
    trials = [
        TrialRecord(0, "failed", {}, failure="Traceback\n\nValueError: no room\n"),
        TrialRecord(1, "failed", {}, failure="diverged"),
        TrialRecord(2, "failed", {}, failure="ValueError: no room"),
    ]
    found = report(history({}, trials))
    assert found.sentence == "All 3 trials failed, most of them so: ValueError: no room"
    assert found.course.failures == {"ValueError: no room": 2, "diverged": 1}
    assert found.trials["state"] == ["failed"] * 3
    assert found.trials["failure"][0] == "ValueError: no room"
    many = [TrialRecord(n, "failed", {}, failure=f"no room for {n // 3}") for n in range(3000)]
    reasons = report(history({}, many)).course.failures
    assert (len(reasons), sum(reasons.values())) == (20, 3000)
    assert list(reasons)[-1] == "other reasons"
    running = [*trials, TrialRecord(3, "running", {})]
    assert "1 of 4 trials are running" in report(history({}, running)).sentence


# --- trials and files ----------------------------------------------------------------------------


def test_each_trial_is_a_row_and_each_further_file_another() -> None:
    files = {
        0: [measured(900_000, 130.0), measured(890_000, 115.0, recipe(9.0, 1.0))],
        1: [measured(950_000, 140.0)],
        2: [measured(100_000, 300.0)],
        4: [measured(50_000, 400.0)],
    }
    trials = [
        TrialRecord(0, "complete", {"step": 9.0}, DAY, DAY + 60, measured_at={0: DAY, 1: DAY + 50}),
        TrialRecord(1, "complete", {"step": 9.5}, DAY, DAY + 9, last_rung=1),
        TrialRecord(2, "running", {"step": 1.0}, DAY),
        TrialRecord(3, "complete", {}, duplicate=True),
        TrialRecord(4, "complete", {"step": math.nan, "kind": "a & b"}),
        TrialRecord(5, "waiting", {}),
    ]
    found = report(history(files, trials, infeasible=["4"]))
    assert found.trials["state"] == [
        *("front", "dominated", "front"),
        *("duplicate", "infeasible", "waiting"),
    ]
    assert found.trials["stopped_early"] == [False, True, False, False, False, False]
    assert found.trials["rung"] == [1, 0, 0, None, 0, None]
    assert found.trials["epochs"] == [1, 0, 0, None, 0, None]
    assert found.trials["seconds"] == [60, 9, None, None, None, None]
    assert found.parameters["step"] == [9, 9.5, 1, None, None, None]
    assert found.parameters["kind"][4] == "a & b"
    assert found.files == {
        "trial": [0],
        "rung": [0],
        "epochs": [0],
        "size_bytes": [900_000],
        "perplexity": [130],
        "state": ["dominated"],
    }
    assert [point.name for point in found.front] == ["2", "0"]
    assert found.front[1].export == "lmpareto export study=demo trial=0 to=model_0"


def test_a_file_below_the_last_rung_may_be_on_the_front() -> None:
    files = {7: [measured(100_000, 130.0), measured(900_000, 120.0, recipe(9.0, 1.0))]}
    found = report(history(files))
    assert [point.name for point in found.front] == ["7 rung 0", "7"]
    assert found.front[0].export.endswith("trial=7 rung=0 to=model_7_rung_0")
    assert found.files["state"] == ["front"]


def test_ties_and_what_is_no_number() -> None:
    files = {n: [measured(500_000, 120.0, key=str(n))] for n in range(3)}
    files |= {3: [measured(400_000, math.nan)], 4: [measured(300_000, math.inf)]}
    found = report(history(files))
    assert [point.name for point in found.front] == ["0"]
    assert found.trials["state"] == ["front", *["dominated"] * 4]
    assert found.trials["perplexity"] == [120, 120, 120, None, None]
    assert any(note.startswith("2 trials have no number as perplexity") for note in found.notes)
    assert found.course.hypervolume == [1, 1]


@pytest.mark.parametrize("files", [{}, {0: [measured(500_000, 120.0)]}])
def test_few_trials_or_none(files: dict[int, list[Measurement]]) -> None:
    found = report(history(files))
    assert found.importance == {}
    assert found.knee == ("0" if files else None)
    assert len(found.course.hypervolume) == len(files)
    assert len(found.front) == len(files)
    without = report(history(files, baselines={}))
    assert len(without.marks) == 0


def test_names_are_kept_as_they_are() -> None:
    name = "a & <b>\"c\"</b></script>'d'"
    trials = [TrialRecord(0, "complete", {name: "</script>"})]
    found = report(history({0: [measured(500_000, 120.0)]}, trials, study=name))
    assert found.name == name
    assert found.parameters == {name: ["</script>"]}
    assert shlex.split(found.front[0].export)[2] == f"study={name}"


def test_several_studies_stand_together() -> None:
    one = history({0: [measured(500_000, 120.0)]}, study="one")
    two = history({0: [measured(400_000, 99.0)]}, study="two")
    other = History(replace(two.results, study="three", corpus="ptb"), two.trials)
    sources = [Source(each, NOWHERE, NOWHERE) for each in (one, two)]
    made = report_of(sources)
    assert (made.title, made.sentence) == ("one and two", "2 studies of one text.")
    made = report_of([*sources, Source(other, NOWHERE, NOWHERE)])
    assert made.title == "one, two and three"
    assert "2 texts or vocabularies, whose numbers do not compare" in made.sentence
    assert report_of(sources[:1]).sentence == made.studies[0].sentence


def spelled(given: History, name: str, spelling: Spelling) -> History:
    """The history as a study of that name whose validation text spells so."""

    def told(one: Measurement) -> Measurement:
        return replace(one, provenance={"text": spelling.plain()})

    results = given.results
    files = {
        trial: {rung: told(one) for rung, one in rungs.items()}
        for trial, rungs in results.files.items()
    }
    baselines = {one: told(DENSE) for one in results.baselines}
    repeats = {one: list(map(told, every)) for one, every in given.repeats.items()}
    own = replace(results, study=name, files=files, baselines=baselines)
    return replace(given, results=own, repeats=repeats)


def test_a_study_whose_tokens_spell_the_text_is_shown_in_bits_per_byte() -> None:
    plain = history(
        {0: [measured(900_000, 128.0), measured(500_000, 64.0)], 1: [measured(1, 256.0)]}
    )
    results = replace(plain.results, predicted=[(700_000, 32.0)])
    plain = replace(plain, results=results, repeats={"0": [measured(500_000, 16.0)]})
    subword = Spelling(tokens=1000, size_bytes=2000)
    found = report(spelled(plain, "subword", subword))
    assert found.unit == "bits per byte"
    assert [(one.name, one.perplexity) for one in found.front] == [("1", 4.0), ("0", 3.0)]
    assert found.trials["perplexity"] == [3.0, 4.0]
    assert found.files["perplexity"] == [3.5]
    assert found.predicted == [(700_000, 2.5)]
    assert [one.perplexity for one in found.marks] == [
        pytest.approx(subword.bits_per_byte(120.0), rel=1e-5)
    ]
    sure = found.front[1].sure
    assert sure
    assert list(sure.perplexity) == pytest.approx([2.5, math.sqrt(0.5)], rel=1e-5)  # of 3 and 2
    assert found.bands["best"][-1] == (500_000, 2.0)
    was = report(plain)
    assert (found.knee, found.course, found.sentence) == (was.knee, was.course, was.sentence)
    assert (was.unit, was.trials["perplexity"]) == ("perplexity", [64.0, 256.0])


def test_studies_compare_by_bits_per_byte_where_all_have_them() -> None:
    plain = history({0: [measured(500_000, 120.0)]})
    one = spelled(plain, "one", Spelling(1000, 2000))
    two = spelled(plain, "two", Spelling(1500, 2000))
    other = spelled(plain, "other", Spelling(1500, 3000))

    def made(*given: History) -> tuple[set[str], str]:
        found = report_of([Source(each, NOWHERE, NOWHERE) for each in given])
        return {study.unit for study in found.studies}, found.sentence

    assert made(one, two) == ({"bits per byte"}, "2 studies of one text.")
    units, sentence = made(one, other)
    assert (units, "bits per byte of different texts do not" in sentence) == (
        {"bits per byte"},
        True,
    )
    ptb = replace(plain, results=replace(plain.results, corpus="ptb"))
    assert made(one, ptb)[0] == {"perplexity"}
    assert "whose numbers do not compare" in made(one, ptb)[1]


# --- words ---------------------------------------------------------------------------------------


def test_recipes_that_differ_in_numbers_share_their_words() -> None:
    book = Phrasebook()
    first, values = book.words(recipe(0.71, 0.25))
    assert book.words(recipe(2.5, 3.0)) == (first, "2.5 3 5 0.2")
    assert values == "0.71 0.25 5 0.2"
    assert book.templates[first].count(HOLE) == 4
    assert filled(book.templates[first], values).split("\n") == [
        "every site: rounded to multiples of 0.71 standard deviations",
        "fine-tuned for 0.25 epochs by sgd at rate 5, dropout 0.2",
    ]
    apart = recipe(0.71)
    apart["sites"]["embedding"]["bits"] = {"kind": "linear", "bits": 4, "scope": "row"}
    assert book.lines(apart)[:2] == [
        "embedding: 4 bits in equal steps",
        "lstm.*.input lstm.*.recurrent: rounded to multiples of 0.71 standard deviations",
    ]
    assert book.lines({}) == ["not fine-tuned"]
    assert book.lines(recipe(0.5, 1.0))[-1].startswith("fine-tuned for 1 epoch by")


@pytest.mark.parametrize("study", ["ptb_small", "methods"])
def test_words_with_holes_say_the_same_as_without(study: str) -> None:
    """Each recipe through a book that has no template yet, and through one that has many."""
    shared = Phrasebook()
    lines = (PUBLISHED / study / "trials.jsonl").read_text().splitlines()
    for one in (json.loads(line)["recipe"] for line in lines):
        assert Recipe.model_validate(one)
        assert shared.lines(one) == Phrasebook().lines(one)
    assert len(shared.templates) < len(lines) / 2


# --- course --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_the_hypervolume_grows_as_brute_force_says(whole: bool) -> None:
    draw, reference = random.Random(1), (100.0, 100.0)
    for _ in range(60):
        area, points = Growing(reference), list[Point]()
        for number in range(30):
            size = draw.randint(1, 120) if whole else draw.uniform(1, 120)
            perplexity = draw.choice([math.nan, math.inf, *(draw.randint(1, 120) for _ in "12345")])
            points.append(Point(str(number), number, int(size), perplexity, None, None))
            before = area.area
            grew = area.add(int(size), perplexity)
            assert area.area == pytest.approx(hypervolume(points, reference), abs=1e-9)
            assert grew == (area.area > before)


def test_the_course_goes_by_time_where_that_is_known() -> None:
    files = {
        0: [measured(900_000, 130.0, recipe(9)), measured(890_000, 115.0, recipe(9, 2.0))],
        1: [measured(400_000, 125.0, recipe(4)), measured(390_000, 118.0, recipe(4, 0.5))],
    }
    trials = [
        TrialRecord(0, "complete", {}, DAY, measured_at={0: DAY + 36, 1: DAY + 3600}),
        TrialRecord(1, "complete", {}, DAY + 9, measured_at={0: DAY + 72, 1: DAY + 360}),
    ]
    given = history(files, trials)
    course = report(given).course
    assert course.reference == (8_000_000, 240)
    assert course.hours == [0.01, 0.02, 0.1, 1]
    assert course.epochs == [0, 0, 0.5, 2.5]
    assert course.hypervolume == sorted(course.hypervolume)
    assert course.hypervolume[-1] == 1
    assert course.rungs == {"0 epochs": 2, "0.5 epochs": 1, "2 epochs": 1}
    untimed = report(history(files)).course
    assert (untimed.hours, untimed.epochs) == ([], [0, 2, 2, 2.5])
    shared = report(history({0: files[0], 1: files[0]})).course
    assert shared.epochs[-1] == 2  # the same files were paid for once
    assert reference_of(history({}, baselines={}).results) == (1, 1)


def test_seconds_go_by_stage() -> None:
    timed = {"seconds": {"build": 1.0, "finetune": 4.5, "score": 0.5}}
    one = replace(measured(900_000, 130.0), provenance=timed)
    assert report(history({0: [one]})).course.stages == {
        "building the model": 1,
        "fine-tuning": 4.5,
        "measuring": 0.5,
    }
    assert report(history({0: [measured(900_000, 1.0)]})).course.stages == {"fine-tuning": 2}


# --- importance ----------------------------------------------------------------------------------


def many(count: int, draw: random.Random) -> History:
    """The step decides the size, the rate decides the perplexity, the kind nothing."""
    files, trials = {}, []
    for number in range(count):
        step, rate = draw.uniform(0.1, 3), draw.uniform(0.001, 0.1)
        files[number] = [measured(int(1e6 / step), 100 + 1000 * abs(rate - 0.05))]
        kind = draw.choice(["a", "b"])
        trials.append(TrialRecord(number, "complete", {"step": step, "rate": rate, "kind": kind}))
    return history(files, trials)


def test_what_decides_an_objective_is_found() -> None:
    found = report(many(300, random.Random(1))).importance
    assert next(iter(found["size"])) == "step"
    assert next(iter(found["perplexity"])) == "rate"
    assert all(sum(shares.values()) == pytest.approx(1, abs=1e-3) for shares in found.values())
    assert found["perplexity"]["kind"] < 0.05


def test_nothing_is_said_of_importance_without_enough_to_say_it_of() -> None:
    few = many(LEAST - 1, random.Random(1))
    assert report(few).importance == {}
    same = {n: [measured(500_000, 120.0)] for n in range(LEAST)}
    trials = [TrialRecord(n, "complete", {"step": float(n)}) for n in same]
    assert report(history(same, trials)).importance == {}
    alike = [TrialRecord(n, "complete", {"step": 1.0}) for n in same]
    various = {n: [measured(500_000 + n, 120.0 + n)] for n in same}
    assert report(history(various, alike)).importance == {}


# --- published studies ---------------------------------------------------------------------------


def test_a_published_study_of_an_earlier_version_is_shown_with_what_it_has(tmp_path: Path) -> None:
    with initialize_config_module("search.conf", version_base="1.3"):
        config = settings_of(
            FrontConfig, compose("front", ["study=ptb_small", f"cache={tmp_path}"])
        )
    given = history_of(StudyContext(config))
    found = study_report(Source(given, tmp_path, PUBLISHED / "ptb_small"))
    assert json.dumps(finite(asdict(found))) == json.dumps(asdict(found))
    assert found.sentence == (
        "16 x smaller at the perplexity of the dense model fine-tuned likewise; 25 x at 2% more."
    )
    assert found.front[-1].ratio == 15.58
    for point in found.front:
        sites = [site.size_bytes for site in point.sites]
        assert all(sites)
        assert sum(size for size in sites if size) < point.size_bytes
    assert found.front[-1].sites[0].bits == "uniform, step 0.7"
    assert {mark.source for mark in found.marks} > {"", "Zaremba et al. 2014"}
    assert found.provenance["versions"]["torch"] == "2.13.0+cpu"
    assert any("parameters of the trials are not known" in note for note in found.notes)
    assert not any("packed" in note for note in found.notes)


def test_sites_of_a_published_classifier_are_shown_without_their_files(tmp_path: Path) -> None:
    with initialize_config_module("search.conf", version_base="1.3"):
        config = settings_of(FrontConfig, compose("front", ["study=sst", f"cache={tmp_path}"]))
    given = history_of(StudyContext(config))
    earlier = tmp_path / "sst"  # as one that was published without the bytes of its sites
    earlier.mkdir()
    for path in PUBLISHED.glob("sst/*"):
        if path.name != SITES:
            (earlier / path.name).symlink_to(path)

    def sizes(published: Path) -> tuple[list[int], bool]:
        """How many bytes all sites have, point by point, and whether they are called packed."""
        found = study_report(Source(given, tmp_path, published))
        assert all(site.bits_a_weight for point in found.front for site in point.sites)
        own = [sum(site.size_bytes or 0 for site in point.sites) for point in found.front]
        return own, any("packed" in note for note in found.notes)

    (packed, is_packed), (real, not_packed) = sizes(earlier), sizes(PUBLISHED / "sst")
    assert (is_packed, not_packed) == (True, False)
    files = [point.size_bytes for point in given.results.front.points]
    assert all(one <= most for one, most in zip(real, packed, strict=True))
    assert sum(real) < sum(packed) / 2
    assert all(one < most for one, most in zip(real, files, strict=True))


def test_a_page_tells_files_by_their_names_and_nothing_of_this_machine() -> None:
    settings = {
        "corpus": {"kind": "text", "file": "/home/ada/secret place/my.txt", "max_words": 100},
        "storage": {"url": "postgresql://ada:s3cret@db/studies"},
        "cache": "/home/ada/.cache/lmpareto",
    }
    found = report(replace(history({}), settings=settings)).provenance
    assert found["corpus"]["file"] == "my.txt"
    assert "my.txt" in found["settings"]
    assert all(word not in json.dumps(found) for word in ("secret", "s3cret", "ada"))
