"""A bidirectional language model (Peters et al. 2018, "Deep contextualized word representations",
section 3.1): two language models over one embedding, of which one reads the text from its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcore.evaluation import TextComparison, score
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.lessons import Lessons, Windows
from lmcore.model import LanguageModel
from lmcore.network import Network
from lmcore.networks.bilm_settings import DIRECTIONS, BiLMSettings
from lmcore.score import Score
from lmcore.text_calibration import moments, window_losses
from lmcore.training_settings import TrainingSettings
from lmcore.weight import Weight

if TYPE_CHECKING:
    from lmcore.corpus import Corpus


class BiLM(Network):
    """A bidirectional language model over Weights."""

    settings: BiLMSettings

    def __init__(
        self, settings: BiLMSettings, weights: dict[str, Weight], biases: dict[str, Leaf]
    ) -> None:
        super().__init__(settings, weights, biases)
        self.ahead, self.back = (
            LanguageModel(
                settings.of(direction),
                {name: weights[named] for name, named in names.items() if named in weights},
                {name: biases[named] for name, named in names.items() if named in biases},
            )
            for direction, names in zip(DIRECTIONS, map(settings.named, DIRECTIONS), strict=True)
        )

    @property
    def named_layers(self) -> dict[str, Layer]:
        return {
            f"{direction}.{index}": layer
            for direction, model in zip(DIRECTIONS, (self.ahead, self.back), strict=True)
            for index, layer in enumerate(model.layers)
        }

    def readers(self, text: Tensor) -> tuple[tuple[LanguageModel, Tensor], ...]:
        """Each of the two, and the text (tokens,) as it reads it."""
        return (self.ahead, text), (self.back, text.flip(0))

    def lessons(
        self, examples: Tensor, settings: TrainingSettings, seed: int, teacher: BiLM | None = None
    ) -> Lessons:
        """The windows of a text (tokens,), for each direction those of its own reading."""
        return _Both(self, examples, settings, teacher)

    def score(self, data: Corpus, split: str, streams: int = 1) -> Score:
        """The perplexity: exp of the mean of what both predict, in nats a token."""
        found = [
            score(model, text, data.vocabulary.eos, streams)
            for model, text in self.readers(data.split(split))
        ]
        value = math.sqrt(found[0].value) * math.sqrt(found[1].value)
        return Score(value, found[0].tokens, sum(one.seconds for one in found))

    def comparison(self, data: Corpus) -> _Comparison:
        return _Comparison(self, data)

    def moments(self, examples: Tensor) -> dict[str, Tensor]:
        return moments(self, self.readers(examples))

    def sampled_losses(self, examples: Tensor, most: int) -> Iterator[tuple[Tensor, float]]:
        both = [window_losses(model, text, most) for model, text in self.readers(examples)]
        for (ahead, share), (back, _) in zip(*both, strict=True):
            yield (ahead + back) / 2, share

    def word_counts(self, examples: Tensor) -> Tensor:
        return torch.bincount(examples, minlength=self.words)


class _Both(Lessons):
    """The windows of both directions, one of each an update."""

    def __init__(
        self, model: BiLM, text: Tensor, settings: TrainingSettings, teacher: BiLM | None
    ) -> None:
        self._model = model
        teachers = (teacher.ahead, teacher.back) if teacher else (None, None)
        self._lessons = [
            Windows(one, ids, settings, taught)
            for (one, ids), taught in zip(model.readers(text), teachers, strict=True)
        ]
        self.updates, self.tokens = self._lessons[0].updates, self._lessons[0].tokens

    def loss(self, update: int, sampled: bool) -> Tensor:
        model = self._model
        model.ahead.dropout = model.back.dropout = model.dropout
        ahead, back = (one.loss(update, sampled) for one in self._lessons)
        return (ahead + back) / 2

    def carried(self) -> dict[str, Tensor]:
        return {
            f"{direction}.{name}": value
            for direction, one in zip(DIRECTIONS, self._lessons, strict=True)
            for name, value in one.carried().items()
        }

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        for direction, one in zip(DIRECTIONS, self._lessons, strict=True):
            own = f"{direction}."
            one.restore({n.removeprefix(own): v for n, v in carried.items() if n.startswith(own)})

    def close(self) -> None:
        for one in self._lessons:
            one.close()


class _Comparison:
    """What other models lose over a base, by both directions."""

    def __init__(self, base: BiLM, data: Corpus) -> None:
        self._text, eos = data.valid, data.vocabulary.eos
        self._both = [TextComparison(model, text, eos) for model, text in base.readers(self._text)]

    def __call__(self, model: BiLM, most: float = math.inf) -> tuple[float, int]:
        readers = model.readers(self._text)
        found = [
            compare(one, most / 2) for compare, (one, _) in zip(self._both, readers, strict=True)
        ]
        return sum(lost for lost, _ in found) / 2, sum(tokens for _, tokens in found)
