"""A model in use: what `lmcore.load` gives.

    import lmcore

    lm = lmcore.load("model.lmb")
    lm.perplexity("the company said it expects a loss\\n")
    lm.next_words("the company said", k=3)

A text has one sentence a line and blanks between words, spelled as the training text was (that of
Penn Treebank knows no capital letters). A word that the vocabulary has not is read as `<unk>`;
`unknown_words` tells which those are. `<unk>` itself is never suggested and never drawn.

The vocabulary may be one of pieces or characters: then a text is read to the byte, and what is said
of words below holds for its tokens, as `vocabulary.words` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcore.bundle import Bundle
from lmcore.bundle import load as load_bundle
from lmcore.cells import State
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.loss import logits_of, negative_log_likelihood
from lmcore.recall import Recall, recall
from lmcore.vocabulary import EOS, UNK, Vocabulary

CARRIED = Path(__file__).parent / "data" / "ptb_small.lmb"  # trial 49 of the study ptb_small
BATCH = 32  # sentences that are scored at once
Likely = list[tuple[str, float]]  # words and their probabilities, the most probable first


class LoadedModel:
    """A language model read from a bundle, ready to be asked.

    `bundle` has all that the file holds, `vocabulary` its words.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.vocabulary = bundle, bundle.vocabulary
        self._model = bundle.language
        self._reading = self.start()

    def __repr__(self) -> str:
        return f"<lmcore model: {len(self.vocabulary):,} words, {self.bundle.size_bytes:,} bytes>"

    def unknown_words(self, text: str) -> list[str]:
        """The words of the text that are outside the vocabulary, each once, in their order."""
        every = dict.fromkeys(self.vocabulary.split(text))
        if self.vocabulary.unknown is None and self.vocabulary.is_exact:
            return []
        return [word for word in every if word not in self.vocabulary.ids]

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-likelihood, in nats, of the text's words and of the `<eos>`
        after each line. The state is carried from line to line, as `lmpareto evaluate` does it.

        Raises UserError for a text without a line, and where a word is unknown and the vocabulary
        has no `<unk>`.
        """
        return score(self._model, self._text(text), self.vocabulary.eos).value

    @torch.no_grad()
    def score(self, sentences: Sequence[str]) -> list[float]:
        """The log-probability of each sentence in nats, that of its `<eos>` included: one number a
        sentence, 0 or below, higher for the likelier one. Every sentence is read on its own.

        Raises UserError where a text is given in place of a list of sentences, where a sentence
        has several lines, and as `perplexity` does for unknown words.
        """
        if isinstance(sentences, str):
            raise UserError("score takes a list of sentences, one text each: lm.score([text])")
        ids = [self._sentence(sentence) for sentence in sentences]
        found = [0.0] * len(ids)
        by_length = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for first in range(0, len(ids), BATCH):
            some = by_length[first : first + BATCH]
            for index, nats in zip(some, self._nats([ids[i] for i in some]), strict=True):
                found[index] = -nats
        return found

    def next_words(self, context: str = "", k: int = 5) -> Likely:
        """The k most probable words after the context, each with its probability, the most
        probable first. `<eos>` among them is the end of the sentence. The context is the beginning
        of a sentence, or several lines, of which the last is not over."""
        return self._after(context).next_words(k)

    def complete(self, text: str, k: int = 3) -> Likely:
        """The k most probable words that begin with the text's last letters, as a keyboard shows
        them: `lm.complete("the comp")`. After a blank, and for an empty text, any word goes on.

        Each has its probability as the next word after what stands before it. There are fewer
        than k, or none, where the vocabulary has no more words that begin so.
        """
        _check_count(k)
        context, prefix = _cut_prefix(text)
        return self._after(context).complete(prefix, k)

    def sample(
        self, context: str = "", words: int = 50, temperature: float = 1.0, seed: int = 0
    ) -> str:
        """A continuation of the context, drawn word by word until the sentence ends, or `words`
        words of it. The same seed draws the same words.

        The logits are divided by the temperature: below 1 likely words become likelier, and at 0
        the most probable word is taken each time. Raises UserError for a temperature below 0.
        """
        _check_count(words)
        if not 0 <= temperature < float("inf"):
            raise UserError(f"temperature: got {temperature}; it is a finite number from 0 on")
        generator = torch.Generator().manual_seed(seed)
        reading, drawn = self._after(context), list[int]()
        while len(drawn) < words:
            token = reading.draw(temperature, generator)
            if token == self.vocabulary.eos:
                break
            drawn.append(token)
            reading = self._read(reading.state, [token])
        return self.vocabulary.decode(drawn)

    def recall(self, text: str) -> Recall:
        """Top-1 and top-3 next-word recall and the share of keystrokes saved on the text; `Recall`
        defines them. Raises UserError for a text without a word."""
        ids, eos = self._text(text), self.vocabulary.eos
        if bool((ids == eos).all()):
            raise UserError("a text without a word has no recall")
        letters = None
        if self.vocabulary.kind == "words":
            letters = [
                0 if word in (EOS, UNK) else len(word)
                for word in self.vocabulary.split(_lines(text))
            ]
        return recall(self._model, ids, self.vocabulary, letters)

    def start(self) -> Reading:
        """Begin a sentence. `step` goes on with it; the reading that is returned can be gone on
        with by itself, too, so that one model serves several texts."""
        self._reading = self._after("")
        return self._reading

    def step(self, word: str) -> Reading:
        """Read the next word of the sentence that `start` began; "\\n" ends it and begins another
        one that knows what was read before. Returns the reading after the word."""
        self._reading = self._reading.step(word)
        return self._reading

    def _after(self, context: str) -> Reading:
        """The reading of the beginning of a sentence; of several lines, the last is not over."""
        ids = [self.vocabulary.sos, *self.vocabulary.encode(context).tolist()]
        return self._read(self._model.zero_state(1), ids)

    @torch.no_grad()
    def _read(self, state: list[State], ids: Sequence[int]) -> Reading:
        hidden, state = self._model(torch.tensor(ids).unsqueeze(1), state)
        z, matrix, bias = self._model.head(hidden[-1])
        logits = logits_of(z, matrix, bias)[0].double()
        return Reading(self, state, torch.log_softmax(logits, 0).numpy())

    def _text(self, text: str) -> Tensor:
        """The ids of a text, (tokens,)."""
        if not text:
            raise UserError("the text is empty; give at least one line")
        return self.vocabulary.encode(_lines(text))

    def _sentence(self, sentence: str) -> Tensor:
        whole = _lines(sentence)
        if whole.count("\n") > 1:
            raise UserError(f"a sentence is one line; this one has more: {sentence[:60]!r}")
        return self.vocabulary.encode(whole)

    def _nats(self, sentences: Sequence[Tensor]) -> list[float]:
        """The negative log-likelihood of each sentence, read from a zero state after `<eos>`."""
        lengths = torch.tensor([len(one) for one in sentences])
        ids = torch.full((int(lengths.max()), len(sentences)), self.vocabulary.eos)
        for column, one in enumerate(sentences):
            ids[: len(one), column] = one
        before = torch.cat([torch.full_like(ids[:1], self.vocabulary.sos), ids[:-1]])
        hidden, _ = self._model(before, self._model.zero_state(len(sentences)))
        nats = negative_log_likelihood(*self._model.head(hidden), ids.flatten())
        own = torch.arange(len(ids)).unsqueeze(1) < lengths
        summed: list[float] = (nats.double().view(ids.shape) * own).sum(0).tolist()
        return summed


@dataclass(frozen=True)
class Reading:
    """What a model knows after the words that it has read. It never changes: to go back, as a
    keyboard does at backspace, keep the earlier one.

    `log_probabilities` (words,) are those of the next word, in nats, in the vocabulary's order.
    """

    lm: LoadedModel = field(repr=False)
    state: list[State] = field(repr=False)
    log_probabilities: NDArray[np.float64] = field(repr=False)

    def step(self, word: str) -> Reading:
        """The reading after one more word; "\\n" ends the sentence. This one where the text has no
        word."""
        ids = self._vocabulary.encode(word).tolist()
        return self.lm._read(self.state, ids) if ids else self

    def next_words(self, k: int = 5) -> Likely:
        """As `LoadedModel.next_words`."""
        _check_count(k)
        return self._likeliest(k, lambda index: True)

    def complete(self, prefix: str = "", k: int = 3) -> Likely:
        """The k most probable words that begin with the prefix; any word begins with none."""
        _check_count(k)
        words, eos = self._vocabulary.words, self._vocabulary.eos
        return self._likeliest(k, lambda index: index != eos and words[index].startswith(prefix))

    def draw(self, temperature: float, generator: torch.Generator) -> int:
        """The id of a word of the distribution, as `LoadedModel.sample` describes it."""
        logits = torch.from_numpy(self.log_probabilities.copy())
        if (unknown := self._vocabulary.unknown) is not None:
            logits[unknown] = -torch.inf
        if temperature == 0:
            return int(logits.argmax())
        weights = torch.softmax((logits - logits.max()) / temperature, 0)
        return int(torch.multinomial(weights, 1, generator=generator))

    @property
    def _vocabulary(self) -> Vocabulary:
        return self.lm.vocabulary

    def _likeliest(self, k: int, accepts: Callable[[int], bool]) -> Likely:
        found: Likely = []
        for index in np.argsort(-self.log_probabilities, kind="stable").tolist():
            if len(found) == k:
                break
            if index != self._vocabulary.unknown and accepts(index):
                probability = float(np.exp(self.log_probabilities[index]))
                found.append((self._vocabulary.words[index], probability))
        return found


def load(path: str | Path | None = None) -> LoadedModel:
    """The model of a bundle; without a path, of the small one that this package carries: words of
    Penn Treebank, 0.5 MB.

    Raises UserError where the file is missing, damaged or no bundle.
    """
    return LoadedModel(load_bundle(CARRIED if path is None else Path(path)))


def _lines(text: str) -> str:
    """The text with an end of its last line."""
    return text if text.endswith("\n") else f"{text}\n"


def _cut_prefix(text: str) -> tuple[str, str]:
    """ "the comp" -> "the ", "comp"; nothing of a word is typed after a blank."""
    if not text or text[-1].isspace():
        return text, ""
    prefix = text.split()[-1]
    return text[: -len(prefix)], prefix


def _check_count(count: int) -> None:
    if not isinstance(count, int) or count < 1:
        raise UserError(f"got {count!r}; the number of words to give is a whole number from 1 on")
