"""Files are written whole, and read by others than Python."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lmcore.files import finite, written_at_once


def test_json_for_others_has_no_number_that_json_has_not() -> None:
    data = {"perplexities": [1.5, math.inf, -math.inf], "rate": math.nan, "of": {"é": 0.1 + 0.2}}
    expected = {"perplexities": [1.5, None, None], "rate": None, "of": {"é": 0.1 + 0.2}}
    assert finite(data) == expected
    assert json.loads(json.dumps(finite(data), allow_nan=False)) == expected


def test_a_folder_whose_writer_died_has_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `sha256sum -c` never says of two halves that they are one."""
    folder = tmp_path / "model"

    def write(text: str) -> None:
        with written_at_once(folder) as part:
            for name in ("a", "b", "c"):
                (part / name).write_text(text)

    write("first")
    write("second")
    assert (folder / "SHA256SUMS").exists()
    replace = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if Path(target).name == "b":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write("third")
    read = [(folder / name).read_text() for name in "abc"]
    assert read == ["third", "second", "second"]
    assert not (folder / "SHA256SUMS").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]
