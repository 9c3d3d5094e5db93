"""Train the dense model of a study."""

from __future__ import annotations

from search.commands.answer import Answer, tell_corpus
from search.config import StudyConfig
from search.show.tables import bits_in, in_bits
from search.study.context import StudyContext
from search.units import format_size

Config = StudyConfig


def run(config: StudyConfig) -> Answer:
    context = StudyContext(config)
    tell_corpus(context)
    own, *others = (_trained(context, name) for name in config.dense_names)
    document = dict(own.document)
    if others:
        documents = (one.document for one in others)
        document["models"] = dict(zip(config.models, documents, strict=True))
    return Answer(document, "\n".join(one.text for one in (own, *others)))


def _trained(context: StudyContext[StudyConfig], name: str) -> Answer:
    """What to say of the dense model of that name, which is trained now where it was not before."""
    known = context.find_checkpoint(name)
    checkpoint = known or context.checkpoint(name)
    measure = context.config.corpus.task.measure
    bits = context.corpus.bits_per_byte("valid", checkpoint.valid_measure)
    return Answer(
        {"bundle": str(checkpoint.path), **checkpoint.record, **bits_in("bits_per_byte", bits)},
        f"{checkpoint.path}: {format_size(checkpoint.size_bytes)}, "
        f"valid {measure.said(checkpoint.valid_measure)}{in_bits(bits)}"
        f"{' (trained before)' if known else ''}",
    )
