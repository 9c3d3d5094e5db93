"""A network that labels words or texts as ONNX, tried by a process that reads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lmcore import letters
from lmcore.bundle import Bundle
from lmcore.classified import ClassifiedTexts
from lmcore.codec import Array
from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.networks.classifier import Classifier
from lmcore.networks.tagger import Tagger
from lmcore.onnx import label_scoring
from lmcore.onnx.alone import sizes_of, tried
from lmcore.onnx.classifying import classifying
from lmcore.onnx.networks import TOKENS_FILE, Network, shown, tokens_text
from lmcore.onnx.tagging import tagging
from lmcore.score import error_of
from lmcore.sentences import Sentences
from lmcore.tagged import TaggedSentences

Labelled = TaggedSentences | ClassifiedTexts
LETTERS_FILE, TAGS_FILE, LABELS_FILE = "letters.txt", "tags.txt", "labels.txt"
DRAWN = 20  # sentences of as many words, where none are given
WORSE = 0.1  # percentage points by which a file's error may be above the bundle's


@dataclass(frozen=True)
class LabellingRecord:
    """What was exported, and what a process found that read nothing but the files: the error of
    model.onnx on so many `tokens`, beside the bundle's own."""

    bytes: dict[str, int]  # file -> its size
    compressed_bytes: dict[str, int]  # file -> its size as it is downloaded, by zlib
    tokens: int
    bundle_error: float
    error: float
    tokens_per_second: float  # a sentence at a time, one thread, in onnxruntime
    integer_activations: bool  # whether products of integers round what they multiply
    operators: dict[str, str]  # site -> the operators that compute with it

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@torch.no_grad()
def export_labelling(
    bundle: Bundle, folder: Path, examples: Labelled | None = None, error: float = 0.0
) -> LabellingRecord:
    """Write the model.onnx of a tagger or classifier, tokens.txt, tags.txt or labels.txt, and the
    letters.txt of a network that spells its words into the folder.

    The file is scored on the `examples`, on which the bundle has this `error` in percent. Without
    examples, its answers to some that are drawn are held against the bundle's. Where products of
    integers, which round what they multiply, cost too much, the file multiplies floats.

    Raises UserError where its error is more than `WORSE` above the bundle's, and writes nothing
    then.
    """
    model, write = bundle.model, _writer(bundle)
    spells = model.settings.words.letters is not None
    given = _asked(_drawn(bundle) if examples is None else examples, spells)
    for integers in (True, False):
        written = write(integers)
        files = {
            label_scoring.MODEL: written.data,
            TOKENS_FILE: tokens_text(bundle.vocabulary).encode(),
            TAGS_FILE if isinstance(model, Tagger) else LABELS_FILE: _numbered(
                model.settings.labels, 0
            ),
        }
        if spells:
            files[LETTERS_FILE] = _numbered(model.settings.alphabet, letters.OTHERS)
        found = tried(files, label_scoring.__file__, given)
        if found["error"] <= error + WORSE:
            break
    else:
        raise UserError(
            f"the exported ONNX file does not answer as the bundle does: error "
            f"{found['error']:.2f}% against {error:.2f}%; nothing was written"
        )
    for name, data in files.items():
        write_atomic(folder / name, data)
    sizes, compressed = sizes_of(files)
    half_a_mistake = error_of(0, len(given["labels"]))  # which no mistake counts as
    return LabellingRecord(
        bytes=sizes,
        compressed_bytes=compressed,
        tokens=int(given["lengths"].sum()),
        bundle_error=error,
        error=max(found["error"], min(error, half_a_mistake)),
        tokens_per_second=found["tokens_per_second"],
        integer_activations=integers,
        operators=written.operators,
    )


def _writer(bundle: Bundle) -> Callable[[bool], Network]:
    """How the file is written, with products of integers or without."""
    eos = bundle.vocabulary.eos
    match bundle.model:
        case Tagger() as tagger:
            return lambda integers: tagging(tagger, eos, integers)
        case Classifier() as classifier:
            return lambda integers: classifying(classifier, eos, integers)
    raise AssertionError("only taggers and classifiers are written here")


def _drawn(bundle: Bundle) -> Labelled:
    """Sentences that are drawn from the vocabulary. Right is what the bundle answers."""
    model, generator = bundle.model, torch.Generator().manual_seed(0)
    ids = torch.randint(len(bundle.vocabulary), (DRAWN, DRAWN), generator=generator)
    words = [[bundle.vocabulary.words[id] for id in row] for row in ids.tolist()]
    made = Sentences.of(words, bundle.vocabulary, model.settings.alphabet)
    places = [torch.tensor([place]) for place in range(DRAWN)]
    if isinstance(model, Tagger):
        tagged = TaggedSentences(made, torch.zeros(ids.numel(), dtype=torch.int64))
        answers = [model(tagged.batch(place)).argmax(1) for place in places]
        return replace(tagged, tags=torch.cat(answers))
    texts = ClassifiedTexts((made,), torch.zeros(DRAWN, dtype=torch.int64))
    answers = [model(texts.batch(place)).argmax(1) for place in places]
    return replace(texts, labels=torch.cat(answers))


def _asked(examples: Labelled, spells: bool) -> dict[str, Array]:
    """What `label_scoring` reads, of a network that spells its words or not."""
    if isinstance(examples, TaggedSentences):
        sentences, right, asked = examples.sentences, examples.tags, examples.lengths
    else:
        (sentences,), right = examples.texts, examples.labels
        asked = torch.ones_like(right)
    forms = sentences.forms
    spelled = {"letters": forms.letters[sentences.words].numpy()} if spells else {}
    return {
        **spelled,
        "words": forms.ids[sentences.words].numpy(),
        "lengths": sentences.lengths.numpy(),
        "asked": asked.numpy(),
        "labels": right.numpy(),
    }


def _numbered(names: Iterable[str], first: int) -> bytes:
    """A name and its number a line."""
    return "".join(f"{shown(name)} {number}\n" for number, name in enumerate(names, first)).encode()
