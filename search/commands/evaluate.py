"""What a task measures of a bundle, and its speed; of a language model its recall, too."""

from __future__ import annotations

from pathlib import Path

from lmcore.bundle import load
from lmcore.errors import UserError
from lmcore.model import LanguageModel
from lmcore.recall import recall
from lmcore.runtime import device
from lmcore.score import Score
from search.commands.answer import Answer
from search.config import EvaluateConfig
from search.show.export import check_words
from search.show.tables import bits_in, in_bits
from search.units import format_size

Config = EvaluateConfig


def run(config: EvaluateConfig) -> Answer:
    bundle = load(Path(config.bundle))
    own, asked = bundle.model.settings.task, config.corpus.task
    if own != asked:
        raise UserError(
            f"{config.bundle} is for {own.name}, and corpus={config.corpus.kind} is for "
            f"{asked.name}; task={own.name} chooses its own, with corpus.train=FILE a text of yours"
        )
    corpus = config.corpus.load(config.folder)
    check_words(bundle, corpus, config.bundle)
    model = bundle.model.to(device(config.device))
    measured, measure = model.score(corpus, config.split), model.settings.task.measure
    bits = corpus.bits_per_byte(config.split, measured.value)
    document = {
        "bundle": config.bundle,
        "corpus": corpus.name,
        "split": config.split,
        "size_bytes": bundle.size_bytes,
        measure.name: measured.value,
        **bits_in("bits_per_byte", bits),
        **{name.replace(" ", "_"): value for name, value in measured.more.items()},
        **({"answers": measured.asked} if measured.asked else {}),
        "tokens": measured.tokens,
        "tokens_per_second": measured.tokens_per_second,
    }
    said = (
        f"{config.bundle}: {format_size(bundle.size_bytes)}, {measure.said(measured.value)}"
        f"{in_bits(bits)}{_more(measured)} on the {_judged(measured)} of {corpus.name} "
        f"{config.split}, {measured.tokens_per_second:,.0f} tokens/s"
    )
    if not isinstance(model, LanguageModel):
        return Answer(document, said)
    shown = recall(model, corpus.split(config.split), bundle.vocabulary)
    saved = shown.keystrokes_saved
    keys = "" if saved is None else f", {saved:.1%} of keystrokes saved"
    return Answer(
        {**document, **shown.document()},
        f"{said}; next-word recall {shown.top1:.1%} (1), {shown.top3:.1%} (3){keys}",
    )


def _judged(measured: Score) -> str:
    """What the value is of: "44,932 tokens", "2,210 answers (44,932 tokens)"."""
    tokens = f"{measured.tokens:,} tokens"
    return f"{measured.asked:,} answers ({tokens})" if measured.asked else tokens


def _more(measured: Score) -> str:
    """ ", exact match 46.01%" of what has several measures."""
    every = "".join(f", {name} {value:.2f}%" for name, value in measured.more.items())
    is_perfect = measured.more.get("accuracy") == 100
    return f"{every} (no mistake counts as half a one)" if is_perfect else every
