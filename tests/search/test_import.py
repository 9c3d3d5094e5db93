"""A study that starts from a stranger's model, from the import to the replay of what was found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lmcore.bundle import load
from lmcore.corpus import Corpus, TextFiles, load_corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.imports.model import imported
from lmcore.imports.weight_files import read_weights
from lmcore.settings import parse
from lmcore.vocabulary_file import read_vocabulary
from search.bench.dense import dense_key, find_dense
from studies import SPACE_YAML, Run, Shell, lmpareto, settings, write_text

SPACE = "space=bits"


@dataclass
class Stranger:
    """A model that PyTorch saved, its words in no order, and a text; a study was begun from it."""

    folder: Path
    shell: Shell
    begun: Run
    swept: Run

    def typed(self, *more: str, name: str = "theirs") -> list[str]:
        text = ("corpus=text", f"corpus.file={self.folder / 'text.txt'}")
        files = (f"weights={self.folder / 'model.pt'}", f"vocabulary={self.folder / 'words.txt'}")
        return ["import", *files, *text, f"name={name}", *more]

    def __call__(self, command: str, *more: str, **environment: Any) -> Run:
        return self.shell(command, "study=theirs", "format=json", *more, **environment)

    @property
    def corpus(self) -> Corpus:
        text, words = (str(self.folder / name) for name in ("text.txt", "words.txt"))
        return load_corpus(TextFiles(file=text, vocabulary=words), self.folder)


def write_model(folder: Path) -> None:
    """One layer of 12, untied, trained for nothing; words.txt has its words."""
    torch.manual_seed(1)
    words = ["</s>", "w199", *(f"w{i:03d}" for i in range(0, 199)), "<UNK>", "never"]
    parts = nn.ModuleDict(
        {
            "encoder": nn.Embedding(len(words), 10),
            "rnn": nn.LSTM(10, 12),
            "decoder": nn.Linear(12, len(words)),
        }
    )
    torch.save({"state_dict": parts.state_dict(), "epoch": 7}, folder / "model.pt")
    (folder / "words.txt").write_text("\n".join(words) + "\n")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    folder = tmp_path_factory.mktemp("stranger")
    write_text(folder / "text.txt", lines=600)
    write_model(folder)
    (folder / "configs" / "space").mkdir(parents=True)
    (folder / "configs" / "space" / "mine.yaml").write_text(SPACE_YAML)
    cache = folder / "cache"
    none = Run(0, "", "")
    with Shell(cache) as shell:
        made = Stranger(folder, shell, none, none)
        own = ("--config-dir", str(folder / "configs"), "space=mine", "prior=none")
        made.begun = shell(*made.typed(*own, "fidelity=whole", "format=json")).ok()
        made.swept = lmpareto(
            *("sweep", "study=theirs", "trials=3", "workers=1", "format=json"), cache=cache
        ).ok()
        yield made


def test_an_import_gives_the_perplexity_of_its_weights(stranger: Stranger) -> None:
    document, corpus = stranger.begun.document, stranger.corpus
    words = read_vocabulary(stranger.folder / "words.txt")
    model = imported(read_weights(stranger.folder / "model.pt").arrays, words)
    spoken = model.spoken(corpus.vocabulary.words).model()
    expected = score(spoken, corpus.valid, corpus.vocabulary.eos).value
    assert document["float32_perplexity"] == pytest.approx(expected, rel=1e-9)
    assert document["valid_perplexity"] == pytest.approx(expected, rel=1e-4)
    assert document["model"] == {"layers": 1, "hidden": 12, "embedding": 10, "tied": False}
    assert document["training"]["kind"] == "imported"
    assert load(Path(document["bundle"])).vocabulary.words == tuple(sorted(words))
    assert "warning: " in stranger.begun.err  # it was never trained: words' frequencies do better


def test_a_study_starts_from_an_import(stranger: Stranger) -> None:
    assert stranger.swept.document["front"]
    status = stranger("status").ok().document
    assert (status["study"], status["complete"]) == ("theirs", 3)


def test_a_trial_of_an_import_is_exported_and_replayed(stranger: Stranger, tmp_path: Path) -> None:
    exported = stranger("export", f"to={tmp_path}/model", "trial=0").ok().document
    bundle = load(Path(exported["bundle"]))
    corpus = stranger.corpus
    measured = score(bundle.language, corpus.test, corpus.vocabulary.eos).value
    assert exported["test_perplexity"] == pytest.approx(measured, rel=1e-9)
    assert stranger("replay", "trial=0").ok().document["identical"]


def test_what_was_published_replays_without_the_cache(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published checkpoint is found by the key of its study, and makes the same files."""
    published = stranger.folder / "studies" / "theirs"
    stranger("publish", f"to={published}").ok()
    dense = stranger.folder / "cache" / "dense"
    shutil.move(dense, stranger.folder / "gone")
    try:
        stranger("replay", "trial=0").refused("is not at hand", "lmpareto import")
        monkeypatch.setattr("search.bench.dense.PUBLISHED", stranger.folder / "studies")
        record = json.loads((published / "dense.json").read_text())
        config = settings(
            stranger.folder,
            corpus={
                "kind": "text",
                "file": str(stranger.folder / "text.txt"),
                "vocabulary": str(stranger.folder / "words.txt"),
            },
            model=record["model"],
            training=record["training"],
        )
        found = find_dense(config, stranger.corpus)
        assert found is not None
        assert found.path == published / "dense.lmb"
    finally:
        shutil.move(stranger.folder / "gone", dense)
    assert stranger("replay", "trial=1").ok().document["identical"]


def test_the_same_import_again_changes_nothing(stranger: Stranger) -> None:
    bundle = Path(stranger.begun.document["bundle"])
    before = bundle.stat().st_mtime_ns
    again = stranger.shell("import", "study=theirs", *stranger.typed("format=json")[1:3]).ok()
    assert again.out
    assert bundle.stat().st_mtime_ns == before


def test_an_import_that_is_gone_is_made_again(stranger: Stranger) -> None:
    bundle = Path(stranger.begun.document["bundle"])
    before = bundle.read_bytes()
    bundle.unlink()
    stranger("replay", "trial=0").refused("is not at hand", "study=theirs weights=FILE")
    stranger.shell("import", "study=theirs", *stranger.typed()[1:3]).ok()
    assert bundle.read_bytes() == before


def test_other_weights_under_the_same_name_are_refused(stranger: Stranger, tmp_path: Path) -> None:
    state = torch.load(stranger.folder / "model.pt", weights_only=True)["state_dict"]
    state["decoder.bias"][0] += 1
    torch.save(state, tmp_path / "other.pt")
    words = f"vocabulary={stranger.folder / 'words.txt'}"
    refused = stranger.shell("import", "study=theirs", f"weights={tmp_path / 'other.pt'}", words)
    refused.refused("study theirs was begun with other settings", "sha256")


def test_words_are_corrected_by_id(stranger: Stranger) -> None:
    typed = stranger.typed("words={202: often, 3: W}", SPACE, "format=json")
    typed = [one for one in typed if not one.startswith("name=")]
    document = stranger.shell(*typed).ok().document
    assert document["study"] == "model"  # the name of the weights
    words = load(Path(document["bundle"])).vocabulary.words
    assert {"often", "W"} <= set(words)
    assert not {"never", "w001"} & set(words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["weights=none.pt"], ["cannot read weights from none.pt", "No such file"]),
        (["vocabulary=none.txt"], ["cannot read none.txt"]),
        (["corpus=pydoc"], ["203 words and the text 1,500", "corpus=text corpus.file=FILE"]),
        (["words={500: x}"], ["no word for ids 203, 204"]),
        (["words={203: x}"], ["model.pt: embedding: encoder.weight is 203 x 10"]),
        (["layout=caffe"], ["layout", "pytorch"]),
        (["layout=keras"], ["no part of an embedding"]),
        (["names={decoder: nowhere}"], ["there is no array 'nowhere'"]),
        (["name=a/b"], ["name"]),
    ],
)
def test_what_cannot_be_imported_is_said(
    changes: list[str], said: list[str], stranger: Stranger
) -> None:
    settings_ = {one.partition("=")[0] for one in changes}
    typed = [
        one
        for one in stranger.typed(SPACE, name="bad")
        if one.partition("=")[0] not in settings_
        and not ("corpus" in settings_ and one.startswith("corpus"))
    ]
    stranger.shell(*typed, *changes).refused(*said)


def test_nothing_is_begun_by_an_import_that_fails(stranger: Stranger) -> None:
    stranger.shell("status", "study=bad").refused("there is no study bad")


def test_trained_studies_keep_their_keys(tmp_path: Path) -> None:
    """An import is another kind of training; what was trained keeps its plain data."""
    config = settings(tmp_path, corpus={"kind": "pydoc"})
    corpus = load_corpus(config.corpus, Path())
    assert "kind" not in config.training.plain()
    assert "vocabulary" not in TextFiles(file="x").plain()
    assert dense_key(config, corpus) == "3c75394896d94815"


def test_a_training_setting_is_explained_as_before(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", lines=100)
    good = settings(tmp_path).model_dump(mode="json")
    for training, said in (
        ({**good["training"], "batch": 0}, "training.batch: got 0"),
        ({**good["training"], "speed": 1}, "training.speed: there is no such setting"),
        ({"kind": "imported", "sha256": "x"}, "training.sha256: got 'x'"),
        ({"kind": "imported"}, "training.sha256: this setting is missing"),
        (5, "training"),
    ):
        with pytest.raises(UserError, match=said):
            parse(type(settings(tmp_path)), {**good, "training": training})
