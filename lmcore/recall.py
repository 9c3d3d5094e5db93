"""What a keyboard gains by a model: next-word recall and keystrokes saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcore.evaluation import WINDOW
from lmcore.loss import logits_of
from lmcore.model import LanguageModel
from lmcore.vocabulary import Vocabulary

SHOWN = 3  # words that a keyboard has room for


@dataclass(frozen=True)
class Recall:
    """How often a keyboard that shows the model's words shows the right one.

    `top1` and `top3` are the shares of the text's words that are the most probable next word, or
    among the three most probable (Hard et al. 2018, "Federated learning for mobile keyboard
    prediction", section 5.1). A word outside the vocabulary is missed; the ends of sentences are
    no words.

    `keystrokes_saved` is the share of keys that need not be pressed (Trnka and McCoy 2008,
    "Evaluating word prediction: framing keystroke savings", eq. 1). Without a model, a word takes
    a key a letter and one for the blank. With it, the keyboard shows the three most probable words
    that begin with what is typed of the word, before its first letter, too. One key takes a shown
    word with its blank. The person takes the word as soon as it is shown. A word outside the
    vocabulary is typed in full; one of which the text has no letters, for it says `<unk>`, is left
    out. None where no word of the text has letters.
    """

    top1: float
    top3: float
    keystrokes_saved: float | None
    words: int

    def document(self) -> dict[str, float | None]:
        """As programs read it, beside a perplexity of the same text."""
        return {
            "top1_recall": self.top1,
            "top3_recall": self.top3,
            "keystrokes_saved": self.keystrokes_saved,
        }


@torch.no_grad()
def recall(
    model: LanguageModel, ids: Tensor, vocabulary: Vocabulary, letters: Sequence[int] | None = None
) -> Recall:
    """The recall on the text `ids` (tokens,), which is read as `evaluation.score` reads it.

    `letters` has the length of each token as it is typed, where the ids of unknown words do not
    tell it. Raises ValueError for a text without a word.
    """
    eos, unknown = vocabulary.eos, vocabulary.unknown
    lengths = [
        len(word) if vocabulary.kind == "words" and index not in (eos, unknown) else 0
        for index, word in enumerate(vocabulary.words)
    ]
    typed = [lengths[i] for i in ids.tolist()] if letters is None else letters
    table = _Prefixes(vocabulary)
    words = found1 = found3 = keys = saved = 0
    position = 0
    for better, targets in _ranked(model, ids, vocabulary):
        ranks, letters_typed = table.looked_up(better, targets)
        rank, taken = ranks.tolist(), letters_typed.tolist()
        for row, target in enumerate(targets.tolist()):
            length = typed[position]
            position += 1
            if target == eos:
                continue
            known = target != unknown
            words += 1
            found1 += known and rank[row] < 1
            found3 += known and rank[row] < SHOWN
            if length:
                keys += length + 1
                saved += length - taken[row] if known else 0
    if not words:
        raise ValueError("a text without a word has no recall")
    return Recall(found1 / words, found3 / words, saved / keys if keys else None, words)


def _ranked(
    model: LanguageModel, ids: Tensor, vocabulary: Vocabulary
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each window: which words come before the next one when words are suggested, (window,
    words), and the ids of the next ones, (window,). Of equally probable words the first comes
    first; `<eos>` and `<unk>` are never suggested."""
    model.eval()
    before = torch.cat([ids.new_tensor([vocabulary.eos]), ids[:-1]])
    silent = [i for i in (vocabulary.eos, vocabulary.unknown) if i is not None]
    device, state = model.decoder_bias.data.device, model.zero_state(1)
    order = torch.arange(len(vocabulary), device=device)
    for start in range(0, len(ids), WINDOW):
        window = slice(start, start + WINDOW)
        hidden, state = model(before[window].unsqueeze(1).to(device), state)
        logits = logits_of(*model.head(hidden))  # (window, words)
        targets = ids[window].to(device).unsqueeze(1)
        own = logits.gather(1, targets)
        better = logits > own
        equal = logits == own
        if torch.count_nonzero(equal) > len(own):
            better |= equal & (order < targets)
        better[:, silent] = False
        yield better.cpu(), ids[window]


class _Prefixes:
    """Where the words that begin with the first letters of a word stand among all sorted words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        words = sorted(vocabulary.words)
        ranges: dict[str, list[int]] = {}
        for place, word in enumerate(words):
            for length in range(len(word) + 1):
                ranges.setdefault(word[:length], [place, place])[1] = place + 1
        self._order = torch.tensor([vocabulary.ids[word] for word in words])
        self._is_sorted = tuple(words) == vocabulary.words
        starts, counts = [0] * len(vocabulary), [0] * len(vocabulary)
        flat: list[list[int]] = []  # the range of each word's first 0, 1, 2, ... letters
        for word in words:
            starts[vocabulary.ids[word]], counts[vocabulary.ids[word]] = len(flat), len(word)
            flat += [ranges[word[:length]] for length in range(len(word))]
        self._starts, self._counts = torch.tensor(starts), torch.tensor(counts)
        self._ends = torch.tensor(flat).T.contiguous()  # (2, letters of all words)

    def looked_up(self, better: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of each target: how many words are suggested before it, (window,), and how many of its
        letters are typed until it is shown, (window,); all of them where it is not.

        `better` (window, words): which words come before it.
        """
        # the words that come before a row's own: their places, row after row, ascending
        places = (better if self._is_sorted else better[:, self._order]).flatten().nonzero()[:, 0]
        rows, counts = len(self._order) * torch.arange(len(targets)), self._counts[targets]
        typed = rank = counts
        for length in range(int(counts.max()) - 1, -1, -1):
            at = (self._starts[targets] + length).clamp(max=self._ends.shape[1] - 1)
            low, high = (torch.searchsorted(places, rows + end[at]) for end in self._ends)
            rank = high - low
            typed = torch.where((length < counts) & (rank < SHOWN), length, typed)
        return rank, typed  # the last rank is that among all words
