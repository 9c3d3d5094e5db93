"""A loaded model: every number against a brute force over its words, one at a time."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_cells import CELLS, model_of
from test_onnx import built, lstm

import lmcore
from lmcore.api import CARRIED, LoadedModel
from lmcore.bundle import load as load_bundle
from lmcore.bundle import save
from lmcore.codec import Codec
from lmcore.errors import UserError
from lmcore.files import sha256_of
from lmcore.model import random_model
from lmcore.model_settings import ModelSettings
from lmcore.vocabulary import EOS, UNK, Vocabulary

WORDS = "a an and ant antler at b ba bat bath bathe be bee beet c ca cat cats cattle co cod code"
TEXT = "an ant bathe zzz\n\nthe cats cattle and <unk> at\ncode be bee\n"


def bundle_of(folder: Path, words: list[str]) -> Path:
    settings = ModelSettings(layers=2, hidden=12, embedding=12, tied=False)
    model = random_model(settings, len(words), 0.9, torch.Generator().manual_seed(3))
    path = folder / "model.lmb"
    save(path, model.eval(), Vocabulary(words))
    return path


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = bundle_of(tmp_path_factory.mktemp("api"), sorted([EOS, UNK, *WORDS.split()]))
    return lmcore.load(path)


@torch.no_grad()
def each(lm: LoadedModel, words: list[str]) -> list[np.ndarray]:
    """The log-probabilities before each of the words, and after the last: (words + 1, words)."""
    model, ids = lm.bundle.language, lm.vocabulary.ids
    state, found = model.zero_state(1), []
    for word in [EOS, *words]:
        hidden, state = model(torch.tensor([[ids.get(word, ids[UNK])]]), state)
        z, matrix, bias = model.head(hidden)
        found.append(torch.log_softmax((z @ matrix.T + bias).double().flatten(), 0).numpy())
    return found


def nats(lm: LoadedModel, words: list[str]) -> list[float]:
    ids = lm.vocabulary.ids
    rows = each(lm, words)
    return [float(row[ids.get(word, ids[UNK])]) for row, word in zip(rows, words, strict=False)]


def tokens(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in [*line.split(), EOS]]


def shown(lm: LoadedModel, row: np.ndarray, prefix: str, k: int) -> list[str]:
    """The k most probable words with the prefix, by sorting all of them."""
    pairs = [(-value, index) for index, value in enumerate(row)]
    words = [lm.vocabulary.words[index] for _, index in sorted(pairs)]
    return [word for word in words if word.startswith(prefix) and word not in (EOS, UNK)][:k]


def test_perplexity(lm: LoadedModel) -> None:
    every = nats(lm, tokens(TEXT))
    assert lm.perplexity(TEXT) == pytest.approx(math.exp(-sum(every) / len(every)), rel=1e-5)
    assert lm.perplexity(TEXT.rstrip("\n")) == lm.perplexity(TEXT)


def test_score_reads_each_sentence_on_its_own(lm: LoadedModel) -> None:
    sentences = ["an ant", "", "the cats zzz be bee code at a", "an ant\n", *["cod"] * 40]
    found = lm.score(sentences)
    for sentence, value in zip(sentences, found, strict=True):
        assert value == pytest.approx(sum(nats(lm, [*sentence.split(), EOS])), rel=1e-5)
    assert lm.score([]) == []


def test_next_words(lm: LoadedModel) -> None:
    row = each(lm, ["an", "ant"])[-1]
    order = [i for i in np.argsort(-row) if lm.vocabulary.words[i] != UNK][:5]
    found = lm.next_words("an ant", k=5)
    assert [word for word, _ in found] == [lm.vocabulary.words[i] for i in order]
    assert [p for _, p in found] == pytest.approx(list(np.exp(row[order])), rel=1e-5)
    assert lm.next_words("an ant ") == lm.next_words("an ant")
    two_lines = each(lm, ["an", EOS, "ant"])[-1]
    after = dict(lm.next_words("an\nant", k=100))
    assert after["bee"] == pytest.approx(math.exp(two_lines[lm.vocabulary.ids["bee"]]), rel=1e-5)
    assert len(after) == len(lm.vocabulary) - 1


@pytest.mark.parametrize("prefix", ["", "b", "bath", "cat", "bathe", "x"])
def test_complete(prefix: str, lm: LoadedModel) -> None:
    row = each(lm, ["an", "zzz"])[-1]
    found = lm.complete(f"an zzz {prefix}", k=4)
    assert [word for word, _ in found] == shown(lm, row, prefix, 4)
    for word, probability in found:
        assert probability == pytest.approx(math.exp(row[lm.vocabulary.ids[word]]), rel=1e-5)


def test_start_and_step(lm: LoadedModel) -> None:
    reading = lm.start()
    for word, row in zip(
        ["an", "zzz", EOS, "be"], each(lm, ["an", "zzz", EOS, "be"]), strict=False
    ):
        np.testing.assert_allclose(reading.log_probabilities, row, atol=1e-5)
        earlier, reading = reading, lm.step("\n" if word == EOS else word)
    likely, expected = dict(reading.next_words(3)), dict(lm.next_words("an zzz\nbe", 3))
    assert likely == pytest.approx(expected)
    other = earlier.step("cat")  # back at the last word, and on with another one
    expected = dict(lm.complete("an zzz\ncat c", 2))
    assert dict(other.complete("c", 2)) == pytest.approx(expected)
    assert lm.start().log_probabilities == pytest.approx(each(lm, [])[0], abs=1e-5)


def test_sample(lm: LoadedModel) -> None:
    drawn = lm.sample("an", words=30, seed=4)
    assert drawn == lm.sample("an", words=30, seed=4)
    assert {lm.sample("an", words=30, seed=seed) for seed in range(5)} != {drawn}
    assert set(drawn.split()) <= set(WORDS.split())
    greedy = lm.sample("an", words=4, temperature=0).split()
    for count, word in enumerate(greedy):
        best, _ = lm.next_words(" ".join(["an", *greedy[:count]]), k=1)[0]
        assert word == best


def test_sample_draws_the_distribution(lm: LoadedModel) -> None:
    counts = dict.fromkeys(lm.vocabulary.words, 0)
    generator, reading = torch.Generator().manual_seed(0), lm.start().step("an")
    for _ in range(4000):
        counts[lm.vocabulary.words[reading.draw(0.5, generator)]] += 1
    weights = {word: p**2 for word, p in reading.next_words(100)}
    for word, weight in weights.items():
        share = weight / sum(weights.values())
        assert counts[word] / 4000 == pytest.approx(share, abs=4 * math.sqrt(0.25 / 4000))
    assert counts[UNK] == 0


@pytest.mark.parametrize("text", [TEXT, "cattle bathe antler\n" * 9, "an\n"])
def test_recall(text: str, lm: LoadedModel) -> None:
    words, rows = tokens(text), each(lm, tokens(text))
    top1 = top3 = keys = pressed = count = 0
    for word, row in zip(words, rows, strict=False):
        if word == EOS:
            continue
        count += 1
        top1 += word in shown(lm, row, "", 1)
        top3 += word in shown(lm, row, "", 3)
        if word == UNK:
            continue
        keys += len(word) + 1
        taken = [n for n in range(len(word)) if word in shown(lm, row, word[:n], 3)]
        pressed += taken[0] + 1 if taken else len(word) + 1
    found = lm.recall(text)
    assert (found.top1, found.top3) == (top1 / count, top3 / count)
    assert found.keystrokes_saved == pytest.approx(1 - pressed / keys, abs=1e-12)
    assert found.words == count


def test_recall_of_equally_probable_words(lm: LoadedModel, tmp_path: Path) -> None:
    """All words are equally probable: the keyboard shows the first three of the vocabulary."""
    bundle = load_bundle(bundle_of(tmp_path, [EOS, "d", "c", "bb", "ba", UNK]))
    with torch.no_grad():
        for leaf in [*bundle.language.decoder.leaves.values(), bundle.language.decoder_bias]:
            leaf.data.zero_()
    found = LoadedModel(bundle).recall("d c bb ba\n")
    assert (found.top1, found.top3) == (1 / 4, 3 / 4)
    assert found.keystrokes_saved == 1 - (1 + 1 + 1 + 2) / (2 + 2 + 3 + 3)
    assert LoadedModel(bundle).recall("<unk>").keystrokes_saved is None


def test_what_is_refused(lm: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="list of sentences"):
        lm.score("an ant")
    with pytest.raises(UserError, match="one line"):
        lm.score(["an\nant"])
    with pytest.raises(UserError, match="empty"):
        lm.perplexity("")
    with pytest.raises(UserError, match="without a word"):
        lm.recall("\n")
    with pytest.raises(UserError, match="temperature"):
        lm.sample(temperature=-1)
    with pytest.raises(UserError, match="from 1 on"):
        lm.next_words("an", k=0)
    with pytest.raises(UserError, match="cannot read"):
        lmcore.load(tmp_path / "none.lmb")
    assert lm.unknown_words("an Ant zzz an zzz\n") == ["Ant", "zzz"]
    closed = lmcore.load(bundle_of(tmp_path, [EOS, "a"]))
    assert closed.perplexity("a a\n") > 1
    with pytest.raises(UserError, match="no <unk>"):
        closed.perplexity("a b\n")


# --- what the package carries, and what it needs ------------------------------------------------


def test_the_carried_model_is_a_published_one() -> None:
    assert CARRIED.stat().st_size <= 500_000
    assert sha256_of(CARRIED) == sha256_of(ROOT / "studies" / "ptb_small" / "bundles" / "49.lmb")


ALONE = """
import sys

SEARCH = ("optuna", "hydra", "omegaconf", "sqlalchemy", "alembic", "plotly", "kaleido", "psycopg",
          "rich", "onnx", "onnxruntime", "tokenizers", "pandas", "search")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in SEARCH:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import lmcore

for path in sys.argv[1:]:
    lm = lmcore.load(path)
    assert lm.perplexity("the company said\\n") > 1
    assert 0 < lm.next_words("the company", k=1)[0][1] < 1
print(len(sys.argv) - 1)
"""


def run_alone(bundles: list[Path]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, bundles)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_any_model_needs_nothing_of_the_search(tmp_path: Path) -> None:
    """The carried one, and one of each cell and of each codec."""
    models = [model_of(cell, "plain") for cell in CELLS]
    for family in cast(list[type[Codec]], Codec.members.values()):
        bits = {"kind": family.model_fields["kind"].default, **family.examples()[0][0]}
        models.append(built(lstm(60, 8), {"sites": {"*": {"bits": bits}}}))
    words = Vocabulary([EOS, UNK, *(f"w{i:02d}" for i in range(58))])
    bundles = [tmp_path / f"{number}.lmb" for number in range(len(models))]
    for path, model in zip(bundles, models, strict=True):
        save(path, model, words)
    assert run_alone([CARRIED, *bundles]) == 1 + len(models) > 10
