"""Recipes in words for people. Many recipes differ only in their numbers, so the words of tens of
thousands of them are a few templates and the numbers of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmcore.methods import EVERYWHERE, sentences

HOLE = "¤"  # stands where a number stands
_LITERAL = (0, 1)  # numbers that decide which words there are


class Phrasebook:
    """The words of recipes. `templates` are those of all recipes that were asked for so far, their
    lines parted by line feeds, with `HOLE` in place of each number."""

    def __init__(self) -> None:
        self.templates: list[str] = []
        self._known: dict[tuple[Any, ...], tuple[int, list[tuple[int, str]]]] = {}

    def words(self, recipe: Mapping[str, Any]) -> tuple[int, str]:
        """The index of a recipe's template, and its numbers from left to right, parted by
        blanks."""
        numbers: list[float] = []
        shape: list[Any] = []
        _flatten(recipe, shape, numbers, {})
        key = tuple(shape)
        if key not in self._known:
            self._known[key] = self._made(recipe)
        index, holes = self._known[key]
        return index, " ".join(format(numbers[number], form) for number, form in holes)

    def lines(self, recipe: Mapping[str, Any]) -> list[str]:
        """A recipe in words, a line each."""
        index, values = self.words(recipe)
        return filled(self.templates[index], values).split("\n")

    def _made(self, recipe: Mapping[str, Any]) -> tuple[int, list[tuple[int, str]]]:
        """The index of the template of a recipe, and which number fills each hole in which form."""
        marked = "\n".join(_lines(_marked(recipe, {})))
        words, *rest = marked.split("\0")
        holes = []
        for hole, text in zip(rest[::2], rest[1::2], strict=True):
            number, _, form = hole.partition("|")
            holes.append((int(number), form))
            words += HOLE + text
        if words not in self.templates:
            self.templates.append(words)
        return self.templates.index(words), holes


def filled(template: str, values: str) -> str:
    """A template with the values in its holes."""
    first, *rest = template.split(HOLE)
    return first + "".join(
        value + text for value, text in zip(values.split(" "), rest, strict=False)
    )


def _lines(recipe: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of the sites, a line for those of the same settings, then the fine-tuning."""
    for where, said in sentences(recipe).items():
        yield f"{'every site' if where == EVERYWHERE else where}: {', '.join(said)}"
    tuning = recipe.get("finetuning")
    if not tuning:
        yield "not fine-tuned"
        return
    plural = "" if tuning["epochs"] == 1 else "s"
    words = f"fine-tuned for {tuning['epochs']:.3g} epoch{plural}"
    if "optimizer" in tuning and "rate" in tuning:
        words += f" by {tuning['optimizer']} at rate {tuning['rate']:.3g}"
    dropout = tuning.get("dropout") or {}
    if dropout.get("rate"):
        words += f", dropout {dropout['rate']:.3g}"
    yield words


# --- numbers and what is left without them -----------------------------------------------------


def _flatten(data: Any, shape: list[Any], numbers: list[float], known: dict[float, int]) -> None:
    """Append what `data` is without its numbers to `shape`, and its different numbers to `numbers`.

    Equal numbers are one: sites of equal settings share a line.
    """
    if isinstance(data, Mapping):
        for name, value in data.items():
            shape.append(name)
            _flatten(value, shape, numbers, known)
        shape.append("}")
    elif isinstance(data, list | tuple):
        for value in data:
            _flatten(value, shape, numbers, known)
        shape.append("]")
    elif _is_number(data):
        if data not in known:
            known[data] = len(numbers)
            numbers.append(data)
        shape.append((type(data), known[data]))
    else:
        shape.append(data)


def _marked(data: Any, known: dict[float, int]) -> Any:
    """`data` with numbers that say, in whatever form they are written, which one they are."""
    if isinstance(data, Mapping):
        return {name: _marked(value, known) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_marked(value, known) for value in data]
    if _is_number(data):
        kind = _Whole if isinstance(data, int) else _Real
        made = kind(data)
        made.index = known.setdefault(data, len(known))
        return made
    return data.replace("\0", "").replace(HOLE, "") if isinstance(data, str) else data


def _is_number(data: Any) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool) and data not in _LITERAL


class _Marked:
    index: int

    def __format__(self, form: str) -> str:
        return f"\0{self.index}|{form}\0"

    __str__ = __repr__ = lambda self: format(self, "")


class _Whole(_Marked, int):
    pass


class _Real(_Marked, float):
    pass
