"""The folder that is taken home: the bundle, its recipe, its numbers, and forms for other programs.

Made twice from the same file, all is the same to the byte but for what is measured in seconds: the
speeds in metrics.json and card.md, and with them the lines of these two in SHA256SUMS.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lmcore.bundle import Bundle, load
from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.files import finite, write_atomic, write_json, written_at_once
from lmcore.inspection import parts_of
from lmcore.model import LanguageModel
from lmcore.networks.classifier import Classifier
from lmcore.networks.tagger import Tagger
from lmcore.onnx.export import export_onnx
from lmcore.onnx.labelling import export_labelling
from lmcore.plain_weights import plain_weights
from lmcore.recall import recall
from lmcore.vocabulary import UNK
from search.bench.recipe_file import RecipeFile
from search.show.card import card
from search.show.tables import bits_in
from search.study.sureness import Sure

BUNDLE, RECIPE, METRICS, CARD = "model.lmb", "recipe.yaml", "metrics.json", "card.md"
SAFETENSORS, WORDS = "model.safetensors", "words.txt"
NO_ONNX = "there is no ONNX form of a network of the kind {}"


@dataclass(frozen=True)
class Forms:
    """Which files there are beside the bundle."""

    onnx: bool = True
    safetensors: bool = False


@dataclass(frozen=True)
class Exported:
    """What is known of a file that is taken home. Without `corpus`, nothing is measured on a text;
    without `valid_measure`, that is measured now."""

    source: Path
    recipe: RecipeFile | None = None
    corpus: Data | None = None
    valid_measure: float | None = None
    seeds: Sure | None = None
    provenance: dict[str, Any] | None = None


def take_home(exported: Exported, folder: Path, forms: Forms) -> dict[str, Any]:
    """Write the folder; all of it, or nothing where something fails. Returns the document of
    metrics.json, with the bundle's path.

    Numbers are measured here, from the file. Raises UserError where an asked form cannot be
    written or does not predict as the bundle does.
    """
    with written_at_once(folder) as part:
        data = exported.source.read_bytes()
        write_atomic(part / BUNDLE, data)
        bundle = load(part / BUNDLE)
        _check(bundle, forms)
        document = _document(exported, bundle)
        if forms.onnx:
            document |= _written_onnx(bundle, exported, part, document)
        if forms.safetensors:
            _write_plain(bundle, part)
            document["safetensors"] = SAFETENSORS
        if exported.recipe:
            write_atomic(part / RECIPE, exported.recipe.to_yaml().encode())
        document = finite(document)
        write_json(part / METRICS, document)
        write_atomic(part / CARD, card(document).encode())
    return {**document, "bundle": str(folder / BUNDLE)}


def _check(bundle: Bundle, forms: Forms) -> None:
    """Raises UserError where no form of the network would be of use, and where it has none that is
    asked."""
    if broken := bundle.model.broken:
        raise UserError(f"{broken[0]} holds infinities or NaN; such a network answers nothing")
    if forms.safetensors and not isinstance(bundle.model, LanguageModel):
        kind = bundle.model.settings.kind
        raise UserError(f"safetensors=true writes a language model, and the file has a {kind}")


def _document(exported: Exported, bundle: Bundle) -> dict[str, Any]:
    recipe, vocabulary = exported.recipe, bundle.vocabulary
    model = bundle.model.settings
    dense = recipe.dense.model if recipe else model
    dense_size = 4 * dense.weights(len(vocabulary))
    unknown = f"; all else is {UNK}" if vocabulary.unknown is not None else ""
    return {
        "title": _title(exported),
        "study": recipe and recipe.study,
        "trial": recipe and recipe.trial,
        "rung": recipe and recipe.rung,
        "name": recipe and recipe.name,
        "bundle": BUNDLE,
        "size_bytes": bundle.size_bytes,
        "dense_size_bytes": dense_size,
        "ratio": dense_size / bundle.size_bytes,
        **_measured(exported, bundle),
        "seeds": exported.seeds and asdict(exported.seeds),
        "sha256": bundle.sha256,
        "parts": parts_of(bundle),
        "words": len(vocabulary),
        "noun": vocabulary.noun,
        "unknown": unknown,
        "model": model.plain(),
        "corpus": exported.corpus
        and {
            "kind": "" if recipe is None or recipe.corpus.places else recipe.corpus.kind,
            "text": exported.corpus.describe(),
            "key": exported.corpus.key,
        },
        "machine": _machine(),
        "recipe": recipe and recipe.recipe,
        "training": recipe and recipe.dense.training,
        "seed": recipe and recipe.seed,
        "provenance": exported.provenance,
    }


def _title(exported: Exported) -> str:
    if exported.recipe is None:
        return exported.source.stem
    name = exported.recipe.name
    return f"{'Trial ' if name[:1].isdigit() else ''}{name} of {exported.recipe.study}"


def _measured(exported: Exported, bundle: Bundle) -> dict[str, Any]:
    corpus, valid = exported.corpus, exported.valid_measure
    if corpus is None:
        return {}
    if valid is None:
        valid = bundle.model.score(corpus, "valid").value
    test = bundle.model.score(corpus, "test")
    shown, measure = {}, bundle.model.settings.task.measure
    if isinstance(bundle.model, LanguageModel):
        shown = recall(bundle.model, corpus.test, bundle.vocabulary).document()
    return {
        "measure": asdict(measure),
        measure.key("valid"): valid,
        measure.key("test"): test.value,
        **bits_in("valid_bits_per_byte", corpus.bits_per_byte("valid", valid)),
        **bits_in("test_bits_per_byte", corpus.bits_per_byte("test", test.value)),
        "tokens_per_second": test.tokens_per_second,
        **shown,
    }


def _written_onnx(
    bundle: Bundle, exported: Exported, folder: Path, document: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the ONNX form of a network, if its kind has one. Returns the entries that tell it."""
    examples: Any = exported.corpus and exported.corpus.test
    test = document.get(bundle.model.settings.task.measure.key("test"))
    match bundle.model:
        case LanguageModel():
            text = _sentences_of(bundle) if examples is None else examples
            return {"onnx": export_onnx(bundle, folder, text, test).plain()}
        case Tagger() | Classifier():
            return {"onnx": export_labelling(bundle, folder, examples, test or 0.0).plain()}
        case other:
            return {"no_onnx": NO_ONNX.format(other.settings.kind)}


def _sentences_of(bundle: Bundle) -> Any:
    """A text that the model writes itself, for it has no other: ids (tokens,)."""
    from lmcore.api import LoadedModel

    lm = LoadedModel(bundle)
    return lm.vocabulary.encode("".join(f"{lm.sample(words=20, seed=i)}\n" for i in range(10)))


def _write_plain(bundle: Bundle, folder: Path) -> None:
    from safetensors.torch import save

    write_atomic(folder / SAFETENSORS, save(plain_weights(bundle.language), {"format": "pt"}))
    words = bundle.vocabulary.words
    if any(word.splitlines() != [word] for word in words):
        raise UserError(f"{WORDS}: a line for each word cannot hold a word that breaks the line")
    write_atomic(folder / WORDS, "".join(f"{word}\n" for word in words).encode())


@cache
def _machine() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
