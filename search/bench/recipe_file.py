"""recipe.yaml: all that a model is made of, so that `lmpareto build` makes its file again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import model_validator

from lmcore.data import AnyCorpus
from lmcore.errors import UserError
from lmcore.files import sha256_of
from lmcore.network_settings import AnyNetwork
from lmcore.recipe import Recipe
from lmcore.settings import Settings, later, parse
from lmcore.task import measured_in
from search.config import PUBLISHED, StudyConfig

HEAD = """\
# A model of lmpareto, whole. `lmpareto build recipe=recipe.yaml to=DIR` makes its file again.
# Where the dense model is not at hand, it is trained anew from what stands under `dense`; give the
# place of the data, as in `corpus.file=FILE` or `corpus.train=FILE`.
"""


_MESSAGE = 200  # letters of what PyYAML says


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain data alone, no object of Python and no alias: of few lines of aliases, 10^9 values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), which no recipe has")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes no alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Result(Settings):
    """The file that the recipe gave, where it was made."""

    sha256: str
    size_bytes: int
    valid_perplexity: float | None = later(None)  # one of these two, as the task has it
    valid_error: float | None = later(None)
    code: str  # a hash of the program's own files
    torch: str
    processor: str

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if measured_in(self.plain(), "valid") is None:
            raise ValueError("valid_perplexity: this setting is missing")
        return self

    @property
    def valid_measure(self) -> float:
        """Of the task, on the validation text."""
        return float(measured_in(self.plain(), "valid"))


class Dense(Settings):
    """The dense model that the recipe starts from, and how it was trained, as plain data."""

    sha256: str
    model: AnyNetwork
    training: dict[str, Any]


class RecipeFile(Settings):
    """A recipe with all that its file depends on. `text` is the hash of the corpus, of its words
    and every id."""

    version: Literal[1] = 1
    study: str
    trial: int | None
    rung: int | None
    name: str
    result: Result
    recipe: dict[str, Any]
    seed: int
    corpus: AnyCorpus
    text: str
    dense: Dense

    def to_yaml(self) -> str:
        """As a file has it."""
        text: str = yaml.dump(
            self.plain(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )
        return HEAD + text

    @property
    def compression(self) -> Recipe:
        """The recipe. Raises UserError where it is none."""
        return parse(Recipe, self.recipe, "recipe")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the study, as far as the file depends on them, as plain data."""
        plain = self.plain()
        return {
            "corpus": plain["corpus"],
            "seed": self.seed,
            "model": plain["dense"]["model"],
            "training": plain["dense"]["training"],
        }


def read_recipe(path: Path) -> RecipeFile:
    """The recipe of a file. Raises UserError where it cannot be read or is none."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # of "!!bool x", say, PyYAML raises KeyError
        said = str(error).partition("\n")[0][:_MESSAGE]
        raise UserError(f"{path} is no recipe: {said}") from None
    if not isinstance(data, dict) or "recipe" not in data:
        raise UserError(f"{path} is no recipe.yaml of lmpareto export: it has no `recipe`")
    if isinstance(version := data.get("version"), int) and version > 1:
        raise UserError(f"{path} has version {version}: a newer lmpareto wrote it")
    return parse(RecipeFile, {str(key): value for key, value in data.items()}, str(path))


def find_file(config: StudyConfig, sha256: str) -> Path | None:
    """The dense model of that hash, in the cache or of a published study; None where it is at
    neither place."""
    places = (*(config.folder / "dense").glob("*.lmb"), *PUBLISHED.glob("*/dense*.lmb"))
    return next((path for path in sorted(places) if sha256_of(path) == sha256), None)
