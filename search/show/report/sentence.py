"""The result of a study in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lmcore.methods import UNCOMPRESSED
from lmcore.task import Measure
from search.config import DENSE_BASELINE
from search.describe import failure_line
from search.front import Front, Point
from search.study.history import History
from search.units import format_size

MORE = 0.02  # by which a perplexity may be higher for the second ratio


def sentence_of(history: History, dense_size: Callable[[str], int | None]) -> tuple[str, list[str]]:
    """The result of a study in one sentence, and what is to be known of it.

    It compares files that exist: the smallest one whose perplexity is at most that of the dense
    model, and the smallest one of at most `MORE` above. If another dense model of the study, or the
    dense model fine-tuned likewise (a control), is better than the dense model as it was, that one
    is what they are compared with.
    `dense_size` gives the dense size of a baseline, 4 bytes a weight, or None where that is not
    known. Then the ratios refer to the dense model's file.
    """
    front, measure = history.results.front, history.results.measure
    if not front.points:
        return _without_front(history), []
    uncompressed = _uncompressed(history)
    if not uncompressed:
        best, smallest = front.best(), front.smallest()
        sentence = f"From {_point(smallest, measure)} to {_point(best, measure)}."
        if smallest is best:
            sentence = f"One model: {_point(best, measure)}."
        return sentence, [
            "The dense model was not measured beside the search, so nothing is compared with it."
        ]
    best = min(uncompressed, key=lambda point: point.valid_measure)
    dense_bytes = dense_size(best.name)
    size = dense_bytes or _file_size(uncompressed, best)
    sentence = _compared(front, best, size)
    sentence = sentence[0].upper() + sentence[1:]
    refers = (
        f"Sizes are compared with the dense size, 4 bytes a weight: {format_size(size)}."
        if dense_bytes
        else f"Sizes are compared with the dense model's file, {format_size(size)}."
    )
    notes = [
        f"{refers} Equal {measure.name} means at most {measure.number(best.valid_measure)} on "
        f"the validation split, that of {_said(best)}."
    ]
    dense = next((one for one in uncompressed if one.name == DENSE_BASELINE), None)
    if dense and best is not dense:
        first = "as it was trained first" if _is_control(best) else "that is the study's own"
        notes.append(
            f"Compared with the dense model {first}, {measure.said(dense.valid_measure)}: "
            f"{_lowered(_compared(front, dense, dense_size(dense.name) or size))}"
        )
    return sentence, notes


def _file_size(uncompressed: Sequence[Point], best: Point) -> int:
    """That of the study's own dense model, where it was measured."""
    own = (one.size_bytes for one in uncompressed if one.name == DENSE_BASELINE)
    return next(own, best.size_bytes)


def together(sentences: Sequence[tuple[str, str]], corpora: int, bits: bool = False) -> str:
    """The sentence of a report of several studies, from the name and the sentence of each. With
    `bits`, they are compared by bits per byte, whatever their vocabularies."""
    if len(sentences) == 1:
        return sentences[0][1]
    text = f"{len(sentences)} studies"
    if corpora > 1:
        if bits:
            return f"{text} of {corpora} texts: bits per byte of different texts do not compare."
        return f"{text} of {corpora} texts or vocabularies, whose numbers do not compare."
    return f"{text} of one text."


def _compared(front: Front, base: Point, size: int) -> str:
    """ "3.9 x smaller at equal perplexity; 12 x at 2% more." """
    name = front.measure.name
    equal = _within(front, base.valid_measure)
    more = _within(front, base.valid_measure * (1 + MORE))
    after = "" if base.name == DENSE_BASELINE else f" {base.name}"
    after = " fine-tuned likewise" if _is_control(base) else after
    if equal:
        first = f"{_ratio(size, equal)} at the {name} of the dense model{after}"
        first = f"{_ratio(size, equal)} at equal {name}" if not after else first
        if more is None or more is equal:
            return f"{first}."
        return f"{first}; {_ratio(size, more).removesuffix(' smaller')} at {MORE:.0%} more."
    if more:
        return f"{_ratio(size, more)} at {MORE:.0%} more {name} than the dense model{after}."
    best = front.best()
    above = best.valid_measure / base.valid_measure - 1
    return (
        f"No model reaches the {name} of the dense model{after}; the best is "
        f"{_ratio(size, best)} at {above:.0%} more."
    )


def _within(front: Front, most: float) -> Point | None:
    """The smallest file of the front of at most that value."""
    return next((one for one in front.points if one.valid_measure <= most), None)


def _ratio(size: int, point: Point) -> str:
    smaller = size >= point.size_bytes
    ratio = size / point.size_bytes if smaller else point.size_bytes / size
    text = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
    return f"{text} x {'smaller' if smaller else 'larger'}" if text != "1.0" else "as large"


def _uncompressed(history: History) -> list[Point]:
    """The baselines without any compression, fine-tuned or not, that have a perplexity."""
    return [one for one in history.results.beside if one.method in UNCOMPRESSED and one.measured]


def _said(base: Point) -> str:
    if _is_control(base):
        return f"the dense model fine-tuned as the trials are ({base.name})"
    return "the dense model" if base.name == DENSE_BASELINE else f"the dense model {base.name}"


def _is_control(point: Point) -> bool:
    """Whether it was fine-tuned; another dense model of the study was not."""
    return bool((point.recipe or {}).get("finetuning"))


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _point(point: Point, measure: Measure) -> str:
    return f"{format_size(point.size_bytes)} at {measure.said(point.valid_measure, 1)}"


def _without_front(history: History) -> str:
    """What is said of a study without any point on its front."""
    trials = [one for one in history.trials if not one.duplicate]
    if not trials:
        return "No trial yet."
    over = len(history.results.front.infeasible)
    if over:
        return f"All {over} measured models are over max_size or max_perplexity."
    failed = [one for one in trials if one.state == "failed"]
    if failed and len(failed) == len(trials):
        why, _ = Counter(failure_line(one.failure) for one in failed).most_common(1)[0]
        return f"All {len(failed)} trials failed, most of them so: {why}"
    waiting = sum(one.state in ("running", "waiting") for one in trials)
    if waiting:
        return f"No model measured yet; {waiting} of {len(trials)} trials are running or waiting."
    return f"No model of {len(trials)} trials has a finite {history.results.measure.name}."
