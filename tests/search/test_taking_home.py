"""Studies from Python, and the folder that is taken home: a tiny study, begun and used so."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import lmcore
from lmcore.errors import UserError
from lmcore.files import sha256_of
from search.api import OpenStudy, open_study
from studies import Shell, settings, sweep_here, write_text

FORMS = {"SHA256SUMS", "card.md", "metrics.json", "model.lmb", "recipe.yaml"}
ONNX = {"model.onnx", "model_nll.onnx", "tokens.txt"}


@dataclass
class Home:
    """A swept study, opened by its name, and what was exported of it."""

    study: OpenStudy
    cache: Path
    folder: Path
    document: dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    cache = tmp_path_factory.mktemp("home")
    write_text(cache / "text.txt", words=60, lines=400)
    sweep_here(settings(cache, trials=2))
    storage = f"storage.url=sqlite:///{cache}/studies.db"
    study = open_study("mine", "storage=url", storage, cache=str(cache))
    document = study.export(cache / "out" / "model", trial=1, safetensors=True)
    return Home(study, cache, cache / "out" / "model", document)


@pytest.fixture(scope="module")
def shell(home: Home) -> Any:
    with Shell(home.cache) as shell:
        yield shell


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_front_and_trials_are_data_frames(home: Home) -> None:
    front, trials = home.study.front, home.study.trials
    assert list(trials["trial"]) == [0, 1]
    assert set(trials["state"]) == {"complete"}
    assert any(name.startswith("params.") for name in trials)
    (own,) = trials[trials["trial"] == 1].to_dict("records")
    assert own["valid_perplexity"] == home.document["valid_perplexity"]
    assert list(front["size_bytes"]) == sorted(front["size_bytes"])
    assert set(front["trial"]) <= {0, 1}


def test_opening_refuses_what_is_wrong(home: Home) -> None:
    storage = ("storage=url", f"storage.url=sqlite:///{home.cache}/studies.db")
    with pytest.raises(UserError, match="there is no study mein"):
        open_study("mein", *storage, cache=str(home.cache))
    with pytest.raises(UserError, match="no such setting"):
        open_study("mine", *storage, cache=str(home.cache), tirals=3)
    with pytest.raises(UserError, match="trials"):
        open_study("mine", *storage, cache=str(home.cache), trials=0)


@pytest.mark.slow
def test_a_sweep_from_python(home: Home, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", words=60, lines=400)
    model = {"layers": 1, "hidden": 8, "embedding": 8}
    study = open_study(
        "quickstart",
        "corpus=text",
        f"corpus.file={text}",
        name="other",
        cache=str(tmp_path),
        prior="none",
        fidelity="whole",
        **{f"model.{name}": value for name, value in model.items()},
        **{"training.epochs": 1},
    )
    assert study.sweep(trials=1, workers=1)["complete"] == 1
    assert len(study.trials) == 1
    assert len(study.front) >= 1


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_is_whole_and_checks(home: Home) -> None:
    assert names_in(home.folder) == FORMS | ONNX | {"model.safetensors", "words.txt"}
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=home.folder, check=True)
    listed = re.findall(r"  (.+)", (home.folder / "SHA256SUMS").read_text())
    assert set(listed) == names_in(home.folder) - {"SHA256SUMS"}
    assert names_in(home.folder.parent) == {"model"}


def test_card_and_metrics_agree_with_the_file(home: Home) -> None:
    metrics = json.loads((home.folder / "metrics.json").read_text())
    card = (home.folder / "card.md").read_text()
    assert {**metrics, "bundle": str(home.folder / "model.lmb")} == home.document
    assert metrics["sha256"] == sha256_of(home.folder / "model.lmb")
    assert metrics["size_bytes"] == (home.folder / "model.lmb").stat().st_size
    assert sum(metrics["parts"].values()) == metrics["size_bytes"]
    for name in ONNX:
        assert f"| {name} | {(home.folder / name).stat().st_size:,} |" in card
    for part, size in metrics["parts"].items():
        assert f"| {part} | {size:,} |" in card
    assert f"| test perplexity | {metrics['test_perplexity']:.2f} |" in card
    assert f"{metrics['top1_recall']:.1%}, {metrics['top3_recall']:.1%}" in card
    assert f"{metrics['keystrokes_saved']:.1%}" in card


def test_the_code_on_the_card_runs(home: Home) -> None:
    lm = lmcore.load(home.folder / "model.lmb")
    blocks = re.findall(r"```python\n(.*?)```", (home.folder / "card.md").read_text(), re.S)
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=home.folder, capture_output=True, text=True, check=True)
    said = [lm.vocabulary.ids[line] for line in done.stdout.splitlines()]
    assert len(said) == 5
    likely = lm.start().log_probabilities
    assert likely[said[0]] > likely.max() - 0.05


def test_the_numbers_are_those_of_the_loaded_model(home: Home) -> None:
    lm = lmcore.load(home.folder / "model.lmb")
    lines = (home.cache / "text.txt").read_text().splitlines(keepends=True)
    test = "".join(line for number, line in enumerate(lines) if number % 10 == 9)
    assert lm.perplexity(test) == pytest.approx(home.document["test_perplexity"], rel=1e-6)
    shown = lm.recall(test)
    assert (shown.top1, shown.top3) == (home.document["top1_recall"], home.document["top3_recall"])


def test_plain_pytorch_gives_the_same_perplexity(home: Home) -> None:
    state = load_file(home.folder / "model.safetensors")
    words = (home.folder / "words.txt").read_text().split("\n")[:-1]
    (count, embedding), hidden = state["encoder.weight"].shape, state["rnn.weight_hh_l0"].shape[1]
    model = nn.ModuleDict(
        {
            "encoder": nn.Embedding(count, embedding),
            "rnn": nn.LSTM(embedding, hidden, num_layers=1),
            "decoder": nn.Linear(hidden, count),
        }
    )
    model.load_state_dict(state)
    lm = lmcore.load(home.folder / "model.lmb")
    assert tuple(words) == lm.vocabulary.words
    text = "w001 w007 w050\nw002 w014\n"
    ids = lm.vocabulary.encode(text)
    before = torch.cat([torch.tensor([lm.vocabulary.eos]), ids[:-1]])
    with torch.no_grad():
        output, _ = model["rnn"](model["encoder"](before))
        loss = nn.functional.cross_entropy(model["decoder"](output), ids)
    assert float(loss.exp()) == pytest.approx(lm.perplexity(text), rel=1e-5)


def test_exported_again_it_is_the_same(home: Home, tmp_path: Path) -> None:
    """Into a folder with a stranger's file, and one of an earlier export that is not made now."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    (folder / "model.onnx").write_text("old")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  model.onnx\n{'0' * 64}  ../mine.txt\n")
    home.study.export(folder, trial=1, onnx=False, safetensors=True)
    assert names_in(folder) == FORMS | {"model.safetensors", "words.txt", "mine.txt"}
    for name in ("model.lmb", "recipe.yaml", "model.safetensors", "words.txt"):
        assert (folder / name).read_bytes() == (home.folder / name).read_bytes()


def test_an_export_that_fails_leaves_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("it does not predict as the bundle does")

    monkeypatch.setattr("search.show.folder.export_onnx", refuse)
    with pytest.raises(UserError, match="does not predict"):
        home.study.export(tmp_path / "model", trial=1)
    assert names_in(tmp_path) == set()


@pytest.mark.slow
def test_a_bundle_alone_is_exported(home: Home, shell: Shell, tmp_path: Path) -> None:
    bundle = f"bundle={home.folder}/model.lmb"
    told = shell("export", bundle, f"to={tmp_path}/a", "onnx=false").ok()
    assert "no corpus= is given" in told.err
    assert names_in(tmp_path / "a") == FORMS - {"recipe.yaml"}
    text = ("corpus=text", f"corpus.file={home.cache}/text.txt")
    run = shell("export", bundle, f"to={tmp_path}/b", "onnx=false", *text, "format=json").ok()
    for name in ("valid_perplexity", "test_perplexity", "top3_recall", "parts"):
        assert run.document[name] == pytest.approx(home.document[name]), name
    shell("export", bundle, "study=mine", f"to={tmp_path}/c").refused("mine")


# --- build --------------------------------------------------------------------------------------


def build(shell: Shell, recipe: Path, to: Path, *more: str) -> Any:
    return shell("build", f"recipe={recipe}", f"to={to}", "onnx=false", "format=json", *more)


def test_build_makes_the_same_file(home: Home, shell: Shell, tmp_path: Path) -> None:
    run = build(shell, home.folder / "recipe.yaml", tmp_path / "again").ok()
    assert run.document["same"]
    assert run.document["sha256"] == home.document["sha256"]
    for name in ("model.lmb", "recipe.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (home.folder / name).read_bytes()


@pytest.mark.slow
def test_build_with_a_dense_model_given_and_trained_anew(
    home: Home, shell: Shell, tmp_path: Path
) -> None:
    """In a cache without anything: the text is found where the recipe says."""
    recipe, empty = home.folder / "recipe.yaml", f"cache={tmp_path}/cache"
    (dense,) = (home.cache / "dense").glob("*.lmb")
    given = build(shell, recipe, tmp_path / "a", f"dense={dense}", empty).ok()
    assert given.document["same"]
    assert not list((tmp_path / "cache").glob("dense/*"))
    anew = build(shell, recipe, tmp_path / "b", empty).ok()
    assert "trained anew" in anew.err
    assert anew.document["same"]
    wrong = home.folder / "model.lmb"
    build(shell, recipe, tmp_path / "c", f"dense={wrong}").refused("is not the dense model")


@pytest.mark.slow
def test_build_tells_a_difference(home: Home, shell: Shell, tmp_path: Path) -> None:
    data = yaml.safe_load((home.folder / "recipe.yaml").read_text())
    data["result"] |= {"sha256": hashlib.sha256().hexdigest(), "size_bytes": 1, "torch": "1.0"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    run = shell("build", f"recipe={tmp_path}/recipe.yaml", f"to={tmp_path}/to", "onnx=false").ok()
    assert "the file differs" in run.out
    assert "another torch" in run.out


def test_build_refuses(home: Home, shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    build(shell, path, tmp_path / "to").refused("cannot read", str(path))
    path.write_text("a: [")
    build(shell, path, tmp_path / "to").refused("is no recipe")
    path.write_text("a: 1")
    build(shell, path, tmp_path / "to").refused("is no recipe.yaml")
    data = yaml.safe_load((home.folder / "recipe.yaml").read_text())
    path.write_text(yaml.safe_dump(data | {"version": 2}))
    build(shell, path, tmp_path / "to").refused("newer lmpareto")
    other = write_text(tmp_path / "other.txt", words=50, lines=300)
    recipe = home.folder / "recipe.yaml"
    build(shell, recipe, tmp_path / "to", f"corpus.file={other}").refused("another text")


# --- complete -----------------------------------------------------------------------------------


def test_complete_reads_lines_of_a_pipe(home: Home) -> None:
    from studies import COMMAND, environment

    done = subprocess.run(
        [COMMAND, "complete", f"bundle={home.folder}/model.lmb", "format=json", "words=2"],
        input="w001 w00\nw001 zzz \n\n",
        env=environment(home.cache),
        capture_output=True,
        text=True,
        check=True,
    )
    begun, after, empty = map(json.loads, done.stdout.splitlines())
    lm = lmcore.load(home.folder / "model.lmb")
    assert begun["completions"] == [list(pair) for pair in lm.complete("w001 w00", 2)]
    assert begun["next_words"] == begun["unknown_words"] == []
    assert after["next_words"] == [list(pair) for pair in lm.next_words("w001 zzz", 2)]
    assert after["unknown_words"] == ["zzz"]
    assert len(empty["next_words"]) == 2
