"""SQuAD 1.1 (Rajpurkar et al. 2016) as it is published: articles, paragraphs, questions and the
answers to each."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lmcore.errors import UserError
from lmcore.text import read_string


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answer(_Read):
    """An answer, and the letter of its paragraph where it begins. `candidates` are all places where
    the paragraph has it, if the file says that it is not known which of them is meant."""

    text: str
    answer_start: int
    candidates: tuple[int, ...] = ()


class Question(_Read):
    question: str
    id: str = ""
    answers: tuple[Answer, ...]


class Paragraph(_Read):
    context: str
    qas: tuple[Question, ...]


class Article(_Read):
    title: str = ""
    paragraphs: tuple[Paragraph, ...]


class _File(_Read):
    data: tuple[Article, ...]


def read_squad(path: Path, name: str) -> tuple[Article, ...]:
    """The articles of a file. Raises UserError where it cannot be read or is no such file; `name`
    is what the person calls it."""
    try:
        return _File.model_validate_json(read_string(path)).data
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{name} is no file of SQuAD 1.1, {{data: [{{paragraphs: [{{context, qas}}]}}]}}: "
            f"{f'{where}: ' if where else ''}{first['msg'][:150]}"
        ) from None
