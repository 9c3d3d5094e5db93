"""A recipe.yaml is plain data; whatever else it is, it is refused in a sentence, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcore.errors import UserError
from search.bench.recipe_file import read_recipe

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: !!python/object/apply:os.system [true]", "is no recipe: could not determine"),
        (f"{LAUGHS}recipe: *j\n", "alias"),
        ("recipe: &a {x: *a}\nversion: 1\n", "alias"),
        ("recipe: " + 2000 * "[", "is no recipe: maximum recursion"),
        ("recipe: 2020-99-99", "is no recipe: month"),
        ('recipe: !!bool "x"', "is no recipe"),
        ('recipe: !!timestamp "x"', "is no recipe"),
        ("recipe: {}\nversion: " + 5000 * "9", "is no recipe"),
    ],
)
def test_what_is_no_recipe_is_refused_at_once(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as refused:
        read_recipe(tmp_path / "recipe.yaml")
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
