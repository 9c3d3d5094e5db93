"""card.md: what an exported folder says of its model, for people.

It renders the document of metrics.json and adds nothing that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmcore.methods import sentences
from lmcore.network_settings import LANGUAGE
from lmcore.task import PERPLEXITY, Measure
from search.units import format_size

Document = Mapping[str, Any]

LICENCES = {  # kind of a corpus -> what a person should know of its licence
    "ptb": "Penn Treebank belongs to the Linguistic Data Consortium (LDC99T42); its text in "
    "Mikolov's preprocessing is in wide use for research. Ask the LDC before a commercial use",
    "pydoc": "the documentation of Python 3.11, under the Python Software Foundation License",
    "tagged": "the English Web Treebank of Universal Dependencies is under CC BY-SA 4.0",
    "labelled": "the Stanford Sentiment Treebank is for research",
    "pairs": "SNLI is under CC BY-SA 4.0",
    "questions": "SQuAD 1.1 is under CC BY-SA 4.0",
    "paragraphs": "SQuAD 1.1 is under CC BY-SA 4.0; Penn Treebank belongs to the Linguistic Data "
    "Consortium (LDC99T42)",
}
MEANINGS = {  # kind of a network -> what its measure is, if not the share of wrong answers
    "reader": "The error is what F1 of the answers lacks to 100%.",
    "bilm": "Perplexity is exp of the mean negative log-likelihood a token, over both directions.",
}
CALLS = {  # kind of a network -> how it is used
    "tagger": (
        'tagger = lmcore.load_tagger("model.lmb")',
        'tagger.tag(["the", "dog", "barks"])',
    ),
    "classifier": (
        'classifier = lmcore.load_classifier("model.lmb")',
        'classifier.label("a lovely film")',
    ),
    "matcher": (
        'classifier = lmcore.load_classifier("model.lmb")',
        'classifier.label("a man sleeps", "nobody is awake")',
    ),
    "reader": (
        'reader = lmcore.load_reader("model.lmb")',
        'reader.answer("Who barked?", "In the evening Rex barked at the moon.")',
    ),
    "bilm": (
        "from pathlib import Path",
        "from lmcore.bundle import load",
        "",
        'network = load(Path("model.lmb")).model',
    ),
}
STREAM = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
about = session.get_modelmeta().custom_metadata_map
words = [line.rsplit(" ", 1)[0] for line in open("tokens.txt", encoding="utf-8")]
h = c = np.zeros((int(about["num_layers"]), 1, int(about["hidden_size"])), np.float32)
token = int(about["sos_id"])
for _ in range(5):
    log_softmax, h, c = session.run(None, {"x": np.array([[token]]), "h0": h, "c0": c})
    token = int(log_softmax[0].argmax())
    print(words[token])
"""
OWN_TEXT = "the text is its owner's, and so is the licence"


def card(document: Document) -> str:
    """The card as Markdown."""
    parts = [_title, _numbers, _sizes, _training, _text, _limits, _use]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part(document)))) + "\n"


def _title(found: Document) -> Iterator[str]:
    yield f"# {found['title']}"
    yield ""
    yield (
        f"A {_kind(found['model'])}, over {found['words']:,} {found['noun']}, in one file of "
        f"{format_size(found['size_bytes'])}: {found['ratio']:.1f} x smaller than the dense model "
        f"of its shape in 4-byte numbers."
    )


def _kind(model: Mapping[str, Any]) -> str:
    """ "language model of 2 x 200 LSTM units, tied", "tagger of 1 x 100 LSTM units a direction",
    "reader of layers of 50 LSTM units a direction", whose layers are unlike one another."""
    cell = model.get("cell", {"kind": "lstm"})["kind"].upper()
    units = f"{_widths(model['hidden'])} {cell} units"
    alike = _is_language(model) or model["kind"] in ("tagger", "bilm")
    units = f"{model.get('layers', 1)} x {units}" if alike else f"layers of {units}"
    if _is_language(model):
        return f"language model of {units}, {'tied' if model['tied'] else 'untied'}"
    fewer = ", some layers fewer" if model.get("hidden_of") else ""
    context = (model.get("words") or {}).get("context")
    reads = (
        f", which reads words by a language model of {context['layers']} x {context['hidden']} "
        f"units a direction"
        if context
        else ""
    )
    return f"{model['kind']} of {units} a direction{fewer}{reads}"


def _is_language(model: Mapping[str, Any]) -> bool:
    return str(model.get("kind", LANGUAGE)) == LANGUAGE


def _widths(hidden: Any) -> str:
    return "/".join(map(str, hidden)) if isinstance(hidden, list | tuple) else str(hidden)


def _numbers(found: Document) -> Iterator[str]:
    rows = list(_number_rows(found))
    if not rows:
        return
    yield "## Numbers"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in rows:
        yield f"| {name} | {value} |"
    yield ""
    if not _is_language(found["model"]):
        meaning = MEANINGS.get(
            found["model"]["kind"],
            "The error is the share of wrong answers, where none counts as half a one.",
        )
        yield (
            f"{meaning} All numbers are of the test split unless another is named. Only speed "
            f"differs when they are measured again."
        )
        return
    yield (
        "Perplexity is exp of the mean negative log-likelihood a token, ends of sentences "
        "included. Recall is the share of words that are the likeliest next one, or among the "
        "three likeliest; keystrokes are those that a keyboard with three words to choose from "
        "saves. All are of the test text unless another is named. Only speed differs when they "
        "are measured again."
    )


def _number_rows(found: Document) -> Iterator[tuple[str, str]]:
    measure = Measure(**found["measure"]) if "measure" in found else PERPLEXITY
    for split in ("valid", "test"):
        if (value := found.get(measure.key(split))) is not None:
            bits = found.get(f"{split}_bits_per_byte")
            beside = "" if bits is None else f", {bits:.3f} bits per byte"
            yield f"{split} {measure.name}", f"{measure.number(value)}{beside}"
    if seeds := found.get("seeds"):
        mean, deviation = seeds["perplexity"]
        yield (
            f"valid {measure.name} over {seeds['seeds']} seeds",
            f"{measure.number(mean)} ± {measure.number(deviation)}",
        )
    if found.get("top1_recall") is not None:
        yield "next-word recall, 1 and 3", f"{found['top1_recall']:.1%}, {found['top3_recall']:.1%}"
    if found.get("keystrokes_saved") is not None:
        yield "keystrokes saved", f"{found['keystrokes_saved']:.1%}"
    if found.get("tokens_per_second"):
        yield (
            "speed, reading",
            f"{found['tokens_per_second']:,.0f} tokens/s in PyTorch on {found['machine']}",
        )
    language = _is_language(found["model"])
    if onnx := found.get("onnx"):
        yield (
            "speed, a token at a time" if language else "speed, a sentence at a time",
            f"{onnx['tokens_per_second']:,.0f} tokens/s in onnxruntime, one thread",
        )


def _sizes(found: Document) -> Iterator[str]:
    yield "## Size"
    yield ""
    yield "| part of model.lmb | bytes |"
    yield "|---|---:|"
    for name, size in found["parts"].items():
        yield f"| {name} | {size:,} |"
    yield f"| **the file** | **{found['size_bytes']:,}** |"
    if onnx := found.get("onnx"):
        yield ""
        yield "| other form | bytes | compressed, as downloaded |"
        yield "|---|---:|---:|"
        for name, size in onnx["bytes"].items():
            yield f"| {name} | {size:,} | {onnx['compressed_bytes'][name]:,} |"


def _training(found: Document) -> Iterator[str]:
    recipe = found.get("recipe")
    if recipe is None:
        return
    training = found["training"]
    yield "## How it was made"
    yield ""
    if "epochs" in training:
        yield (
            f"The dense model was trained for {_epochs(training)} by "
            f"{training['optimizer']} at a rate of {training['rate']:g}, seed {found['seed']}."
        )
    else:
        yield f"The dense model was {training.get('kind', 'given')}, not trained by lmpareto."
    if start := training.get("start"):
        frozen = f"; {', '.join(training['frozen'])} stayed so" if training.get("frozen") else ""
        yield f"It began with the parts of {start}{frozen}."
    if vectors := training.get("vectors"):
        yield f"Its vectors of words are those of {vectors}."
    for where, lines in sentences(recipe).items():
        yield f"- {where}: {'; '.join(lines)}"
    if tuning := recipe.get("finetuning"):
        yield f"- then fine-tuned for {_epochs(tuning)}, at a rate of {tuning['rate']:g}"
    yield ""
    yield "`recipe.yaml` has every setting; `lmpareto build recipe=recipe.yaml to=DIR` repeats it."


def _epochs(training: Mapping[str, Any]) -> str:
    count = training["epochs"]
    return f"{count:g} epoch{'' if count == 1 else 's'}"


def _text(found: Document) -> Iterator[str]:
    corpus = found.get("corpus")
    if corpus is None:
        return
    yield "## Text"
    yield ""
    yield f"{corpus['text']}."
    yield f"Licence: {LICENCES.get(corpus['kind'], OWN_TEXT)}."
    if (found["training"] or {}).get("start") == "elmo":
        yield f"Its words were learned from other texts, too: {LICENCES['paragraphs']}."


def _limits(found: Document) -> Iterator[str]:
    yield "## Limits"
    yield ""
    if found["model"].get("words", {}).get("letters"):
        yield f"- It has rows for {found['words']:,} words; others it reads by their letters alone."
    else:
        yield f"- It knows {found['words']:,} {found['noun']} and no other{found['unknown']}."
    if _is_language(found["model"]):
        yield "- It writes as its text does, with that text's errors, prejudices and dates."
        yield "- It may repeat passages of the training text."
    yield "- Numbers of other texts or vocabularies do not compare with those above."


def _use(found: Document) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    if found["model"].get("kind") != "bilm":
        yield "import lmcore"
        yield ""
    if _is_language(found["model"]):
        yield 'lm = lmcore.load("model.lmb")'
        yield 'lm.next_words("the", k=5)'
        yield "```"
        yield ""
        yield "- At the keyboard: `lmpareto complete bundle=model.lmb`"
    else:
        yield from CALLS[found["model"]["kind"]]
        yield "```"
        yield ""
        if found["model"]["kind"] == "bilm":
            hidden, layers = found["model"]["hidden"], found["model"]["layers"]
            yield (
                "- Another network reads words by it: `lmpareto train task=sentiment "
                "embeddings=elmo "
                "corpus.vocabulary=model.lmb training.start=model.lmb "
                f"model.words.embedding={hidden} model.words.context.hidden={hidden} "
                f"model.words.context.layers={layers}`"
            )
        if found.get("onnx"):
            tags = found["model"]["kind"] == "tagger"
            shape, file = ("N, L, tags", "tags.txt") if tags else ("N, labels", "labels.txt")
            spells = bool(found["model"]["words"].get("letters"))
            yield (
                f"- `model.onnx`: `x` (N, L) and `x_lens` (N,), both int64 -> `log_softmax` "
                f"({shape}) float32. `x` has the ids of words, `x_lens` how many words a row has; "
                f"what stands behind them may be anything"
            )
            if spells:
                yield (
                    "- its input `letters` (N, L, 16) int64 has the ids of each word's first 16 "
                    "letters, 0 behind the last one"
                )
            ids = "`tokens.txt`, `letters.txt`" if spells else "`tokens.txt`"
            yield (
                f"- {ids} and `{file}` have the ids, `name id` a line. A word that is not there "
                f"has the id of `<unk>`" + (", a letter that is not there 1" if spells else "")
            )
            if not tags:
                yield (
                    "- a text becomes words in lower case; every sign is a word of its own, and "
                    "`don't` is `do n't`, `it's` `it 's`: `lmcore.tokens.words_of` in Python"
                )
        if found.get("no_onnx"):
            yield f"- {found['no_onnx']}"
    if found.get("onnx") and _is_language(found["model"]):
        yield (
            "- `model.onnx` is a streaming language model as sherpa-onnx reads it: `x` (N, L) "
            "int64, of which the first token is read, `h0` and `c0` (num_layers, N, hidden_size) "
            "float32 -> `log_softmax` (N, words) in nats, `next_h0`, `next_c0`"
        )
        yield (
            "- `model_nll.onnx` scores whole sentences: `x` (N, L) and `x_lens` (N,), both int64 "
            "-> `nll` (N,) in nats; it adds sos and eos itself"
        )
        yield "- `tokens.txt` has the ids, `token id` a line"
    if found.get("safetensors"):
        yield (
            "- `model.safetensors` loads into `nn.Embedding`, `nn.LSTM` and `nn.Linear`; "
            "`words.txt` has a line for each row"
        )
    yield "- `sha256sum -c SHA256SUMS` checks the files"
    if found.get("onnx") and _is_language(found["model"]):
        yield ""
        yield "In onnxruntime, from the beginning of a sentence, always the most probable token:"
        yield ""
        yield f"```python\n{STREAM}```"
