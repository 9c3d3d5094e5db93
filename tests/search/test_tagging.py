"""A study that is no study of texts: every command on a tiny study of tagged sentences."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import re
import shlex
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

import lmcore
from lmcore.building import build
from lmcore.bundle import load, save
from lmcore.recipe import Recipe, resolve
from search.study.results import Results, results_of
from studies import Shell, Sweep, settings, sweep_here

TAGS = {"the": "D", "a": "D", "dog": "N", "cat": "N", "sees": "V", "hears": "V", "Rex": "P"}
BOTH = {"low": 0.3, "high": 2.0, "log": True}
SPACE = {
    "sites": {
        "*": {
            "tie": "all",
            "structure": {"choice": ["dense", {"kind": "svd", "rank": 0.6}]},
            "bits": {"choice": [{"kind": "uniform", "step": BOTH}, {"kind": "kmeans", "bits": 4}]},
        }
    },
    "finetuning": {
        "epochs": 1,
        "batch": 8,
        "optimizer": "adam",
        "rate": {"low": 0.001, "high": 0.01, "log": True},
        "dropout": {"kind": "element", "rate": 0.1},
        "average": 0.3,
    },
}


def write_sentences(path: Path, count: int = 120) -> Path:
    draw, lines = random.Random(0), []
    for _ in range(count):
        words = draw.choices([*TAGS], k=draw.randint(2, 8))
        tags = (TAGS[word] if draw.random() < 0.9 else "X" for word in words)
        lines += [f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)]
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tagging")


@pytest.fixture(scope="module")
def swept(cache: Path) -> Sweep:
    config = settings(
        cache,
        corpus={"kind": "tagged", "train": str(write_sentences(cache / "mine.tsv"))},
        model={"kind": "tagger", "hidden": 6, "words": {"embedding": 5, "letters": {}}},
        training={
            "epochs": 6,
            "batch": 8,
            "optimizer": "adam",
            "rate": 0.02,
            "dropout": {"kind": "element", "rate": 0.1},
            "init": 0.1,
        },
        space=SPACE,
        baselines={"half": {"sites": {"*": {"bits": "float16"}}}},
        fidelity={"kind": "front", "rungs": [0.25, 1.0]},
        trials=3,
    )
    return sweep_here(config)


@pytest.fixture(scope="module")
def results(swept: Sweep) -> Results:
    return results_of(swept.context)


@pytest.fixture(scope="module")
def shell(cache: Path, swept: Sweep) -> Iterator[Shell]:
    assert swept.ended
    with Shell(cache) as shell:
        yield shell


def test_its_trials_are_judged_by_their_errors(swept: Sweep, results: Results) -> None:
    assert results.measure.name == "error"
    assert len(results.trials) == 3
    for one in results.trials.values():
        assert 0 < one.valid_measure <= 100  # the measure's value, in percent
    assert all(", error " in one.outcome and one.outcome.endswith("%") for one in swept.ended)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("front", ["error %", "error on valid"]),
        ("front scatter=true", ["error %", "knee"]),
        ("status", ["3 of 3 trials complete"]),
        ("sensitivity prior=sensitivity", ["error on valid, without training", "letters.filters"]),
        ("space", ["encoder_forward.0.input"]),
        ("train", ["valid error", "trained before"]),
        ("confirm repeats=1", ["over 2 seeds", "error on valid"]),
        ("replay trial=1", ["the same to the bit", "error"]),
        ("report to=report", ["report/report.html"]),
        ("plot to=plots", ["plots/front.png"]),
    ],
)
def test_a_command_names_the_measure(
    command: str, said: list[str], shell: Shell, cache: Path
) -> None:
    name, *more = command.split()
    out = shell(name, "name=mine", *more, cwd=cache).ok().out
    assert "perplexity" not in out
    for part in said:
        assert part in out


def test_a_page_names_the_measure(shell: Shell, cache: Path) -> None:
    shell("report", "name=mine", "to=page", cwd=cache).ok()
    page = (cache / "page" / "report.html").read_text()
    packed = re.search(r'id="data">([^<]+)<', page)
    assert packed
    document = json.loads(gzip.decompress(b64decode(packed[1])))
    (study,) = document["studies"]
    assert study["unit"] == "error %"
    said = json.dumps([document["sentence"], study["sentence"], study["notes"]])
    assert "error" in said
    assert "perplexity" not in said


def test_a_document_has_the_measure_by_its_name(shell: Shell, results: Results) -> None:
    document = shell("front", "name=mine", "format=json").ok().document
    for one, point in zip(document["front"], results.front.points, strict=True):
        assert one["valid_error"] == point.valid_measure
        assert "valid_perplexity" not in one


def test_what_is_stored_has_the_measure_by_its_name(shell: Shell, cache: Path) -> None:
    shell("publish", "name=mine", "to=published", cwd=cache).ok()
    for line in (cache / "published" / "trials.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert 0 < record["valid_error"] <= 100
        assert "valid_perplexity" not in record
    (dense,) = (cache / "dense").glob("*.json")
    assert 0 < json.loads(dense.read_text())["valid_error"] <= 100
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{cache / 'studies.db'}")
    assert study.metric_names == ["size_bytes", "valid_error"]


def test_a_model_is_taken_home_and_made_again(shell: Shell, cache: Path, results: Results) -> None:
    out = shell("export", "name=mine", "trial=1", "to=home", cwd=cache).ok().out
    metrics = json.loads((cache / "home" / "metrics.json").read_text())
    assert metrics["valid_error"] == results.trials[1].valid_measure
    assert (
        f"error {metrics['valid_error']:.2f}% (valid), {metrics['test_error']:.2f}% (test)" in out
    )
    assert metrics["onnx"]["error"] == pytest.approx(metrics["test_error"], abs=0.1)
    card = (cache / "home" / "card.md").read_text()
    assert f"| test error | {metrics['test_error']:.2f}% |" in card
    assert "erplexity" not in card
    tagger = lmcore.load_tagger(cache / "home" / "model.lmb")
    assert tagger.tag(["the", "dog"]) == ["D", "N"]
    recipe = (cache / "home" / "recipe.yaml").read_text()
    assert f"valid_error: {metrics['valid_error']!r}" in recipe
    assert "perplexity" not in recipe
    again = shell("build", "recipe=home/recipe.yaml", "to=again", cwd=cache).ok().out
    assert "the file is the same to the byte" in again


def test_a_file_is_measured_on_its_data_alone(shell: Shell, cache: Path) -> None:
    shell("export", "name=mine", "trial=1", "to=alone", cwd=cache).ok()
    asked = ("evaluate", "bundle=alone/model.lmb", "task=tagging", "corpus.train=mine.tsv")
    said = shell(*asked, "split=test", cwd=cache).ok().out
    metrics = json.loads((cache / "alone" / "metrics.json").read_text())
    error = metrics["test_error"]
    assert f"error {error:.2f}%, accuracy {100 - error:.2f}%" in said
    assert "recall" not in said
    assert re.search(r" on the \d+ answers \(\d+ tokens\) of tagged mine.tsv test", said)
    other = write_sentences(cache / "other.tsv").read_text().replace("\tD", "\tDET")
    (cache / "other.tsv").write_text(other)
    shell(*asked[:3], "corpus.train=other.tsv", cwd=cache).refused("with other labels than tagged")
    (cache / "text.txt").write_text("the dog sees the cat\n" * 900)
    of_text = shell(*asked[:2], "corpus=text", "corpus.file=text.txt", cwd=cache)
    of_text.refused("is for tagging, and corpus=text is for language; task=tagging chooses")
    shell("complete", "bundle=alone/model.lmb", cwd=cache).refused("needs a language model")
    shell("export", "bundle=alone/model.lmb", "safetensors=true", "to=x", cwd=cache).refused(
        "safetensors=true writes a language model, and the file has a tagger"
    )
    good = load(cache / "alone" / "model.lmb")
    broken = build(good.model, resolve(Recipe(), good.model.settings, good.model.words))
    broken.biases["output.bias"].data.data[0] = math.nan
    save(cache / "broken.lmb", broken.eval(), good.vocabulary)
    shell("export", "bundle=broken.lmb", "to=x", cwd=cache).refused(
        "output.bias holds infinities or NaN; such a network answers nothing"
    )
    assert not (cache / "x").exists()


def test_a_published_study_is_looked_at_alike(shell: Shell, cache: Path) -> None:
    shell("publish", "name=mine", "to=studies", "bundles={20kB: 20 kB}", cwd=cache).ok()
    rows = list(csv.DictReader((cache / "studies" / "results.csv").open()))
    assert all(0 < float(row["test_error"]) <= 100 for row in rows)
    (row,) = [row for row in rows if "evaluate" in row["command"]]
    lmpareto, *typed = shlex.split(row["command"])
    said = shell(*typed, cwd=cache).ok().out
    assert lmpareto == "lmpareto"
    assert f"error {float(row['test_error']):.2f}%" in said
    assert (
        "| at most | size | valid % | test % | model |"
        in (cache / "studies" / "table.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("task=tagging", "LMPARETO_DATA=FOLDER with ud_ewt/train.tsv in it"),
        ("task=tagging corpus.train=none.tsv", "cannot read none.tsv: No such file"),
        ("task=tagging corpus.valid=mine.tsv", "corpus.train, corpus.valid and corpus.test, or"),
        ("task=tagging corpus.train=mine.tsv corpus.column=2", "corpus.column=2 asks for another"),
        (
            "task=tagging corpus.train=mine.tsv +training.start=no.lmb",
            "training.start: there is no file no.lmb",
        ),
        ("task=taging corpus.train=mine.tsv", "tagging"),
        (
            "task=tagging corpus.train=mine.tsv +model.hidden_of={nowhere:3}",
            "model: it has no layer 'nowhere'",
        ),
        (
            "task=tagging corpus.train=mine.tsv model=small",
            "task=language or task=tagging chooses both",
        ),
    ],
)
def test_what_is_wrong_is_said(arguments: str, said: str, shell: Shell, cache: Path) -> None:
    shell("train", *arguments.split(), cwd=cache).refused(said)


def test_a_sweep_without_what_it_begins_with_begins_nothing(shell: Shell, cache: Path) -> None:
    typed = ("task=tagging", "corpus.train=mine.tsv", "+training.start=no.lmb", "name=other")
    shell("sweep", *typed, cwd=cache).refused("training.start: there is no file no.lmb")
    shell("status", "name=other", cwd=cache).refused("there is no study other")


@pytest.mark.parametrize("task", ["sentiment", "entailment"])
def test_a_model_of_another_task_is_taken_home(task: str, shell: Shell, cache: Path) -> None:
    """That of pairs without a form for other programs, which is said."""
    draw, texts = random.Random(0), 1 if task == "sentiment" else 2
    lines = ["\t".join((label, *[f"it is {label}"] * texts)) for label in draw.choices("ab", k=60)]
    (cache / f"{task}.tsv").write_text("\n".join(lines) + "\n")
    small = ("model.hidden=4", "model.words.embedding=4", "training.epochs=1")
    data = (f"task={task}", f"corpus.train={task}.tsv")
    trained = shell("train", *data, *small, "format=json", cwd=cache).ok().document
    out = shell("export", f"bundle={trained['bundle']}", *data, f"to={task}", cwd=cache).ok().out
    assert ("there is no ONNX form" in out) == (texts == 2)
    card = (cache / task / "card.md").read_text()
    assert ("there is no ONNX form of a network of the kind matcher" in card) == (texts == 2)
    assert "| test error |" in card
    assert "Licence: the text is its owner's" in card
    called = re.search(r'classifier.label\(".*"\)', card)
    assert called
    classifier = lmcore.load_classifier(cache / task / "model.lmb")
    assert classifier.label(*["it is a"] * texts) in ("a", "b")
    assert (cache / task / "labels.txt").exists() == (texts == 1)
