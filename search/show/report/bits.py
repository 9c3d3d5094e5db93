"""A study's history in bits per byte, the unit in which different vocabularies compare."""

from __future__ import annotations

from dataclasses import replace

from lmcore.spelling import Spelling
from search.measurement import Measurement
from search.study.history import History


def spelling_of(history: History) -> Spelling | None:
    """What the validation text of a study spells. None where the tokens are words, and where one of
    its measurements does not say it."""
    results = history.results
    measured = [*(one for _, _, _, one in results.named()), *results.baselines.values()]
    measured += [one for every in history.repeats.values() for one in every]
    spellings = {Spelling.of(one.provenance.get("text")) for one in measured}
    return spellings.pop() if len(spellings) == 1 else None


def in_bits(history: History, spelling: Spelling) -> History:
    """The history with bits per byte in place of each perplexity. A lower one stays a lower one."""

    def told(one: Measurement) -> Measurement:
        bits = spelling.bits_per_byte(one.valid_measure)
        return replace(one, valid_measure=bits)

    results = history.results
    return replace(
        history,
        results=replace(
            results,
            files={
                trial: {rung: told(one) for rung, one in rungs.items()}
                for trial, rungs in results.files.items()
            },
            baselines={name: told(one) for name, one in results.baselines.items()},
            predicted=[(size, spelling.bits_per_byte(high)) for size, high in results.predicted],
        ),
        repeats={name: [told(one) for one in every] for name, every in history.repeats.items()},
    )
