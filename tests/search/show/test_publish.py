"""Publishing with names for limits: a tiny study, published and used by these names."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lmcore.errors import UserError
from lmcore.files import sha256_of
from lmcore.recipe import resolve
from lmcore.settings import parse
from search.bench.dense import DENSE
from search.commands import front, settings_of, sweep
from search.commands.typed import for_hydra
from search.config import FrontConfig, PublishConfig, SweepConfig
from search.show.export import bundle_of
from search.show.publish import publish
from search.show.report.computed import Source, report_of
from search.show.tables import front_document, front_table
from search.study.context import StudyContext
from search.study.history import History, history_of
from search.study.results import results_of
from studies import settings, sweep_here, write_text


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StudyContext[SweepConfig]:
    folder = tmp_path_factory.mktemp("limits")
    write_text(folder / "text.txt", words=60, lines=400)
    start = [{"all.bits.step": step, "finetuning.rate": 0.003} for step in (0.3, 1.0, 3.0)]
    return sweep_here(settings(folder, trials=3, start=start)).context


@pytest.fixture(scope="module")
def sizes(context: StudyContext[SweepConfig]) -> list[int]:
    """Of the front's files; there are three at least."""
    found = [point.size_bytes for point in results_of(context).front.points]
    assert len(found) >= 3
    return found


def named(
    context: StudyContext[SweepConfig], **bundles: int
) -> tuple[StudyContext[SweepConfig], History]:
    """The study with names for limits, and its history."""
    other = context.but(bundles=bundles)
    return other, history_of(other)


def rows_in(folder: Path) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in csv.DictReader((folder / "results.csv").open())}


def test_each_limit_names_the_best_model_within_it(
    context: StudyContext[SweepConfig], sizes: list[int], tmp_path: Path
) -> None:
    limits = {"tight": sizes[0], "wide": sizes[1] + 1, "same": sizes[1]}
    other, history = named(context, **limits)
    found = history.results
    smallest, second = found.front.points[:2]
    folder = tmp_path / "published" / "mine"
    table = publish(other, history, folder)
    files = {path.name: sha256_of(path) for path in folder.glob("bundles/*")}
    small, better = (found.measured(one.name).sha256 for one in (smallest, second))
    assert files == {"tight.lmb": small, "wide.lmb": better, "same.lmb": better}
    rows = rows_in(folder)
    assert rows[smallest.name]["limits"] == "tight"
    assert rows[second.name]["limits"] == "wide same"
    assert {row["limits"] for row in rows.values()} == {"tight", "wide same", ""}
    assert "bundles/tight.lmb" in rows[smallest.name]["command"]
    assert "lmpareto export study=mine" in rows[found.front.points[2].name]["command"]
    assert table is not None
    assert [one.model.name for one in table.models if one.model] == [
        smallest.name,
        second.name,
        second.name,
    ]
    test = float(rows[second.name]["test_perplexity"])
    assert table.models[-1].model
    assert table.models[-1].model.test_perplexity == test
    assert f"| {test:.2f} | {second.name} |" in (folder / "table.md").read_text()


def test_the_names_are_known_where_the_study_is_published(
    context: StudyContext[SweepConfig],
    sizes: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.study.published.PUBLISHED", tmp_path / "published")
    other, history = named(context, tight=sizes[0], wide=sizes[-1])
    folder = tmp_path / "published" / "mine"
    publish(other, history, folder)
    storage = {"url": f"sqlite:///{tmp_path}/none.db"}
    there = StudyContext(settings(context.config.folder, storage=storage, cache=str(tmp_path)))
    found = results_of(there)
    assert found.bundles == {"tight": sizes[0], "wide": sizes[-1]}
    point = found.find("tight")
    assert point == results_of(context).find(point.name)
    path, _ = bundle_of(there, point.name, found.measured(point.name))
    assert path == folder / "bundles" / "tight.lmb"
    with pytest.raises(UserError, match="rung: wide is the name of one file"):
        found.find("wide", 0)
    with pytest.raises(UserError, match="a baseline: nothing, or of a limit: tight, wide"):
        found.find("mean")
    source = Source(history_of(there), tmp_path / "none", folder)
    labels = [one.label for one in report_of([source]).studies[0].front]
    assert (labels[0], labels[-1]) == (f"{point.label}, tight", f"{found.find('wide').label}, wide")
    (folder / "study.json").write_text('{"bundles": {"../evil": 3}}')
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        results_of(there)


def test_a_published_page_has_the_bytes_of_sites_whose_files_are_not_at_hand(
    context: StudyContext[SweepConfig], sizes: list[int], tmp_path: Path
) -> None:
    other, history = named(context, wide=sizes[-1])
    folder = tmp_path / "mine"
    here = Source(history, context.config.folder / "bundles", None)

    def of_sites(source: Source) -> list[list[tuple[str, int | None]]]:
        points = report_of([source]).studies[0].front
        return [[(site.site, site.size_bytes) for site in point.sites] for point in points]

    publish(other, history, folder)
    assert len([*folder.glob("bundles/*")]) == 1 < len(sizes)
    there = Source(history, tmp_path / "none", folder)
    assert of_sites(there) == of_sites(here)
    assert not any("packed" in note for note in report_of([there]).studies[0].notes)
    (folder / "sites.json").write_text('{"a": {"all": -1}}')
    smallest, *_, best = zip(of_sites(there), of_sites(here), strict=True)
    assert best[0] == best[1]  # its file is at hand, by the name of a limit
    assert smallest[0] != smallest[1]
    assert any("packed" in note for note in report_of([there]).studies[0].notes)
    publish(other, history, folder)
    assert of_sites(there) == of_sites(here)


def test_a_sweep_says_that_a_published_study_has_its_name(
    context: StudyContext[SweepConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("search.study.published.PUBLISHED", tmp_path)
    publish(context, history_of(context), tmp_path / "mine")
    storage = {"url": f"sqlite:///{tmp_path}/new.db"}
    config = settings(context.config.folder, storage=storage, trials=1, workers=0)
    said = f"{tmp_path / 'mine'} has a study of this name, too."
    sweep.run(config)
    assert said in capsys.readouterr().err
    sweep.run(config)  # goes on with its own
    assert said not in capsys.readouterr().err


def test_a_limit_that_nothing_fits_stops_publishing_before_it_writes(
    context: StudyContext[SweepConfig], sizes: list[int], tmp_path: Path
) -> None:
    other, history = named(context, tiny=sizes[0] - 1)
    with pytest.raises(UserError, match=r"bundles\.tiny: no point of mine has at most .*smallest"):
        publish(other, history, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert history.results.limits == {}
    with pytest.raises(UserError, match=r"bundles\.tiny: no point"):
        history.results.find("tiny")


def test_publishing_with_other_limits_deletes_its_own_files_alone(
    context: StudyContext[SweepConfig], sizes: list[int], tmp_path: Path
) -> None:
    publish(*named(context, a=sizes[0], b=sizes[1]), tmp_path)
    (tmp_path / "bundles" / "theirs.lmb").write_text("theirs")
    tested = rows_in(tmp_path)
    publish(*named(context, b=sizes[1], c=sizes[2]), tmp_path)
    assert {path.name for path in tmp_path.glob("bundles/*")} == {"b.lmb", "c.lmb", "theirs.lmb"}
    assert json.loads((tmp_path / "study.json").read_text())["bundles"].keys() == {"b", "c"}
    assert publish(*named(context), tmp_path) is None
    names = {path.name for path in tmp_path.glob("bundles/*")}
    front = {f"{one.name}.lmb".replace(" ", "_") for one in results_of(context).front.points}
    assert names == {"theirs.lmb", *front}
    assert not (tmp_path / "table.md").exists()
    again = rows_in(tmp_path)
    assert "limits" not in next(iter(again.values()))
    for name, row in tested.items():  # timed and tested once
        assert row["tokens_per_second"] == again[name]["tokens_per_second"]


def test_a_baseline_may_be_the_best_of_a_limit(context: StudyContext[SweepConfig]) -> None:
    found = history_of(context).results
    measured = found.measured(found.front.best().name)
    better = replace(measured, valid_measure=measured.valid_measure / 2)
    most = {"most": measured.size_bytes}
    found = replace(found, baselines={"hand": better}, bundles=most)
    assert found.find("most").name == "hand"
    assert found.limits == {"hand": ["most"]}
    assert "hand" in front_table(found.front, found.beside, {}, found.limits)
    assert "most" in front_table(found.front, found.beside, {}, found.limits)


def test_the_front_says_which_limit_a_point_is_the_best_of(
    context: StudyContext[SweepConfig], sizes: list[int]
) -> None:
    _, history = named(context, tight=sizes[0])
    found = history.results
    document = front_document(found.front, [], {}, found.limits)["front"]
    assert [one.get("limits") for one in document] == [["tight"]] + [None] * (len(sizes) - 1)
    first = front_table(found.front, [], {}, found.limits).splitlines()[1]
    assert first.split()[-1] == "tight" or first.endswith("tight  <- knee")


@pytest.mark.parametrize(
    ("name", "size"),
    [("17", "1 MB"), ("1_rung_0", "1 MB"), ("null", 1), ("a b", 1), ("dense", 1), ("ok", "much")],
)
def test_a_name_that_cannot_be_one_is_refused(name: str, size: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^bundles\.{name}: "):
        settings(tmp_path, bundles={name: size})


def test_a_study_without_names_is_kept_as_before(tmp_path: Path) -> None:
    assert "bundles" not in settings(tmp_path).plain()
    assert settings(tmp_path, bundles={"1MB": "1 MB"}).plain()["bundles"] == {"1MB": 10**6}


def composed(command: str, *typed: str) -> Any:
    with initialize_config_module("search.conf", version_base="1.3"):
        return compose(command, for_hydra(list(typed)))


def test_limits_are_typed_and_added_to_those_of_the_study() -> None:
    own = ("study=quickstart", "to=x", "++bundles.small=1 kB")
    both = composed("publish", *own, "bundles={0.5MB: 0.5 MB, 1MB: 1 MB}")
    found: PublishConfig = settings_of(PublishConfig, both)
    assert found.bundles == {"small": 1000, "0.5MB": 500_000, "1MB": 10**6}


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        ("[methods]", "bundles: give the limits"),
        ("[methods, nowhere]", "study nowhere is not published"),
    ],
)
def test_a_table_of_studies_says_what_it_lacks(studies: str, said: str) -> None:
    made = OmegaConf.to_container(composed("front", f"studies={studies}"), resolve=True)
    assert isinstance(made, dict)
    config = parse(FrontConfig, {str(name): value for name, value in made.items()})
    with pytest.raises(UserError, match=said):
        front.run(config)


def test_a_limit_that_a_dense_model_is_best_within_names_its_file(
    context: StudyContext[SweepConfig], tmp_path: Path
) -> None:
    """No file is there twice, and the row has the command that measures the one there is."""
    own = history_of(context)
    dense = context.bench().measure(resolve(DENSE, context.config.model, context.words))
    best = replace(dense, valid_measure=0.5 * dense.valid_measure)
    results = replace(
        own.results, baselines={**own.results.baselines, "dense": best}, bundles={"any": 10**9}
    )
    assert results.within("any").name == "dense"
    folder = tmp_path / "published" / "mine"
    publish(context, replace(own, results=results), folder)
    assert not [*folder.glob("bundles/*")]
    row = rows_in(folder)["dense"]
    assert row["limits"] == "any"
    assert f"bundle={folder / 'dense.lmb'}" in row["command"]
