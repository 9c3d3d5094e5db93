"""A bundle that lies under a right checksum is refused in a sentence, soon and with little memory.

`python -m benchmarks.fuzz 100000` tries more mutants than the thousand of this file.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks.fuzz import CONTRADICTORY, GOOD, LOADED, REFUSED, contradictions, judge
from benchmarks.hostile import MUTATIONS, Pieces, bombed, mutant, signed
from benchmarks.specimens import NETWORKS, SPECIMENS, VOCABULARIES, specimens
from lmcore import bundle
from lmcore.capacity import Capacity
from lmcore.coding import encode
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.header import read_header

DENSE, LOW_RANK, CHAIN, CODES = 0, 2, 5, 6  # specimens
SUBWORD, CHARACTERS, PIECES = range(len(SPECIMENS), len(SPECIMENS) + len(VOCABULARIES))
Change = Callable[[dict[str, Any]], object]


def refused(pieces: Pieces, path: Path) -> str:
    """Why a file is refused, within a second of the processor."""
    path.write_bytes(signed(pieces.joined()))
    started = time.process_time()
    with pytest.raises(UserError) as error:
        bundle.load(path)
    assert time.process_time() - started < 1
    before, _, reason = str(error.value).partition(" is damaged: ")
    assert before == str(path)
    assert "\n" not in reason
    assert len(reason) <= 300
    return reason


def pieces_of(specimen: int) -> Pieces:
    return Pieces.of(specimens()[specimen])


def with_header(pieces: Pieces, change: Change) -> Pieces:
    header = json.loads(pieces.header)
    change(header)
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    return replace(pieces, header=text.encode())


def test_the_good_ones_are_good(tmp_path: Path) -> None:
    assert len(specimens()) == len(SPECIMENS) + len(VOCABULARIES) + len(NETWORKS)
    for data in specimens():
        assert signed(Pieces.of(data).joined()) != data  # its pieces are packed otherwise
        for form in (data, signed(Pieces.of(data).joined())):
            (tmp_path / "good").write_bytes(form)
            assert not contradictions(bundle.load(tmp_path / "good"))


@pytest.mark.slow
def test_a_thousand_mutants_are_refused_or_are_models(tmp_path: Path) -> None:
    found = judge(range(1000), tmp_path)
    assert [one for one in found if one[1] not in GOOD] == []
    outcomes = Counter(outcome for _, outcome, _ in found)
    assert outcomes[REFUSED] > 500
    assert outcomes[LOADED] > 20


def test_a_mutant_is_known_by_its_number() -> None:
    assert mutant(0, 7) == mutant(0, 7) != mutant(1, 7)
    assert len({mutant(0, number) for number in range(20)}) > 15
    assert all(mutation.__doc__ for mutation in MUTATIONS)


def test_parts_that_disagree_are_found(tmp_path: Path) -> None:
    """What the fuzzer calls a contradiction is one that no file could have brought in."""
    path = tmp_path / "good"
    path.write_bytes(specimens()[DENSE])
    good = bundle.load(path)
    fewer = replace(good, vocabulary=Vocabulary(["<eos>", "a", "b"]))
    assert contradictions(fewer)[0] == "3 words, 60 rows"
    good.model.sites["embedding"].leaves["matrix"].data.data = torch.zeros(5, 5)
    assert "embedding: the leaves' shapes are not the structure's" in contradictions(good)
    assert CONTRADICTORY not in GOOD


# --- Sizes that the file cannot hold -------------------------------------------------------------


@pytest.mark.parametrize(
    ("specimen", "change", "reason"),
    [
        (DENSE, lambda h: h["model"].update(layers=10**7), "header.model.layers: got 10000000; "),
        (DENSE, lambda h: h["model"].update(hidden=10**7), "400,000,960,000,540 weights; "),
        (
            DENSE,
            lambda h: h["model"].update(embedding=10**30),
            "weights; a file of its size ",
        ),
        (DENSE, lambda h: h.update(words=2**31), "its header says 2,147,483,648 words; "),
        (DENSE, lambda h: h.update(words=10**4), "the word list has 60 words, the header 10,000"),
        (DENSE, lambda h: h["model"].update(layers=50), "the sites of its header are not those"),
        (
            DENSE,
            lambda h: h["model"].update(cell={"kind": "rhn", "depth": 10**7}),
            "header.model.cell.depth: got 10000000; ",
        ),
        (DENSE, lambda h: h["model"].update(hidden=1000), "lstm.0.input/matrix: "),
        (
            LOW_RANK,
            lambda h: h["sites"]["embedding"]["structure"].update(rank=10**7),
            "embedding, 60 x 8, cannot be {'kind': 'svd', 'rank': 10000000}",
        ),
        (
            LOW_RANK,
            lambda h: h["sites"]["embedding"]["structure"].update(rank={"energy": 0.5}),
            "embedding, 60 x 8, cannot be {'kind': 'svd', 'rank': {'energy': 0.5}}",
        ),
        (
            LOW_RANK,
            lambda h: h["sites"]["embedding"]["structure"].update(rank=0.5),
            "embedding, 60 x 8, cannot be {'kind': 'svd', 'rank': 0.5}",
        ),
        (
            CHAIN,
            lambda h: h["sites"]["embedding"]["structure"].update(
                rank=1, factors={"rows": [1, 1, 60], "columns": [60, 60, 10**7]}
            ),
            "embedding, 60 x 8, cannot be ",
        ),
        (
            CODES,
            lambda h: h["sites"]["embedding"]["leaves"]["matrix"]["codec"].update(bits=31),
            "header.sites.embedding.leaves.matrix.codec.bits: got 31; ",
        ),
        (
            CODES,
            lambda h: h["sites"]["embedding"]["leaves"]["matrix"].update(kept=10**7),
            "embedding/matrix has a mask that keeps 10,000,000 of 480 values",
        ),
        (
            CODES,
            lambda h: h["sites"]["embedding"]["leaves"]["matrix"].update(kept=7),
            "embedding/matrix: ",
        ),
        (
            CODES,
            lambda h: h["sites"]["embedding"]["leaves"].update(other={"codec": "float16"}),
            "header is spelled",
        ),
    ],
)
def test_sizes_are_held_against_the_file(
    specimen: int, change: Change, reason: str, tmp_path: Path
) -> None:
    assert reason in refused(with_header(pieces_of(specimen), change), tmp_path / "file")


def test_equal_values_are_bounded_by_the_file(tmp_path: Path) -> None:
    """Five bytes hold any number of equal values."""
    pieces = with_header(
        pieces_of(DENSE), lambda header: header["model"].update(embedding=10**6, hidden=2)
    )
    equal = encode(np.full(1000, 0), 0, 255)
    pieces = replace(pieces, streams=tuple(equal for _ in pieces.streams))
    assert "values; a file of its size has at most 16," in refused(pieces, tmp_path / "file")


def test_what_is_packed_unpacks_to_little(tmp_path: Path) -> None:
    for bomb in bombed(pieces_of(DENSE)):
        reason = refused(bomb, tmp_path / "bomb")
        assert reason.startswith("a packed text is longer than ")


def test_a_header_nests_as_deep_as_it_likes(tmp_path: Path) -> None:
    for text in (b"[" * 10**5, b'{"model":' * 10**4):
        deep = replace(pieces_of(DENSE), header=text)
        assert refused(deep, tmp_path / "deep") == "its header is no JSON"


# --- What is said twice --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["<eos>", "a", "b"], "the word list has 3 words, the header 60"),
        (["<eos>"] * 60, "a vocabulary holds each word once"),
        (["<eos>", "", *[f"w{i}" for i in range(58)]], "a vocabulary holds no empty word"),
        ([f"w{i}" for i in range(60)], "a vocabulary holds <eos>"),
        (["<eos>", *["x" * 10**6] * 59], "a packed text is longer than "),
    ],
)
def test_the_word_list_is_that_of_the_rows(words: list[str], reason: str, tmp_path: Path) -> None:
    text = "\n".join(words).encode()
    pieces = replace(pieces_of(DENSE), shared=bytes(len(words)), rests=text)
    assert reason in refused(pieces, tmp_path / "file")


def test_shared_letters_are_there_and_few(tmp_path: Path) -> None:
    pieces = pieces_of(DENSE)
    more = bytes([*pieces.shared[:5], 200, *pieces.shared[6:]])
    reason = refused(replace(pieces, shared=more), tmp_path / "file")
    assert reason == "a word shares more letters with the one before than that has"
    assert "invalid start byte" in refused(
        replace(pieces, rests=b"\xff" + pieces.rests[1:]), tmp_path / "file"
    )


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([(97, 98)], "damaged data"),
        ([(97, 256 + i) for i in range(44)], "a pair of 97 and 256 is made of no earlier pieces"),
        ([(97, 10)] * 44, "a pair of 97 and 10 is made of no earlier pieces"),
        ([(97, 98)] * 44, "a vocabulary holds each word once"),
        ([(97, 97), *((i, i) for i in range(256, 299))], "a piece has more than 97 bytes"),
    ],
)
def test_merges_are_those_of_a_vocabulary(
    pairs: list[tuple[int, int]], reason: str, tmp_path: Path
) -> None:
    first, second = (encode(column, 0, 299) for column in np.array(pairs).T)
    pieces = replace(pieces_of(SUBWORD), shared=first, rests=second)
    assert reason in refused(pieces, tmp_path / "file")


@pytest.mark.parametrize("specimen", [DENSE, SUBWORD, CHARACTERS, PIECES])
@pytest.mark.parametrize("kind", ["words", "subword", "characters", "pieces", "other"])
def test_a_vocabulary_is_of_its_own_kind(specimen: int, kind: str, tmp_path: Path) -> None:
    pieces = pieces_of(specimen)
    own = json.loads(pieces.header).get("vocabulary", "words")
    if kind != own and (own, kind) != ("characters", "pieces"):  # characters may be pieces
        changed = with_header(pieces, lambda header: header.update(vocabulary=kind))
        assert refused(changed, tmp_path / "file")
    version = replace(pieces, version=3 - pieces.version)
    assert f"a bundle of {own} has no version " in refused(version, tmp_path / "file")


def test_a_few_bytes_and_their_pairs_are_bounded(tmp_path: Path) -> None:
    for words in (0, 255, 256, 2**16 + 1, 2**31):
        pieces = pieces_of(SUBWORD)
        header = json.dumps(json.loads(pieces.header) | {"words": words}, sort_keys=True)
        pieces = replace(pieces, header=header.replace(" ", "").encode())
        assert "spelled in another way" not in refused(pieces, tmp_path / "file")


def test_a_header_is_spelled_in_one_way(tmp_path: Path) -> None:
    text = pieces_of(DENSE).header
    for other in (
        text[:-1] + b',"words":60}',
        text.replace(b":60", b":60.0"),
        text.replace(b":60", b':"60"'),
        text.replace(b":", b": ", 1),
    ):
        reason = refused(replace(pieces_of(DENSE), header=other), tmp_path / "file")
        assert reason == "its header is spelled in another way than lmpareto spells it"


def test_streams_are_as_many_as_the_header_says(tmp_path: Path) -> None:
    pieces = pieces_of(DENSE)
    fewer = replace(pieces, streams=pieces.streams[1:])
    assert refused(fewer, tmp_path / "file") == "it ends before its last stream"
    more = replace(pieces, streams=(*pieces.streams, pieces.streams[0]))
    reason = "its last stream does not end where the file does"
    assert refused(more, tmp_path / "file") == reason


def test_a_mask_keeps_what_the_header_says(tmp_path: Path) -> None:
    kept: list[int] = []

    def fewer(header: dict[str, Any]) -> None:
        leaf = header["sites"]["embedding"]["leaves"]["matrix"]
        kept.append(leaf["kept"])
        leaf["kept"] -= 1

    pieces = with_header(pieces_of(CODES), fewer)
    codes = encode(np.zeros(kept[0] - 1, dtype=int), 0, 7)
    pieces = replace(pieces, streams=(pieces.streams[0], codes, *pieces.streams[2:]))
    reason = refused(pieces, tmp_path / "file")
    assert reason == f"embedding/matrix: a mask keeps {kept[0]} values, not {kept[0] - 1}"


def test_every_published_header_is_within_bounds() -> None:
    paths = [path for path in (ROOT / "studies").glob("*/**/*.lmb") if path.is_file()]
    assert len(paths) > 40
    for path in paths:
        data = path.read_bytes()
        (length,) = np.frombuffer(data[5:9], "<u4").tolist()
        header = read_header(data[9 : 9 + length], Capacity.of(len(data)))
        assert header.words in (10_000, 20_000, 23_016, 48_715)
