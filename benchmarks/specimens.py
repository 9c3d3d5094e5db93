"""Good bundles, a small one each of structures, codes, cells, vocabularies and networks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch

from lmcore.building import build
from lmcore.bundle import pack
from lmcore.corpus import EOS, UNK, Vocabulary
from lmcore.network import random_network
from lmcore.network_settings import LANGUAGE, NetworkSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.subword import SubwordVocabulary
from lmcore.vocabulary import CharacterVocabulary, PieceVocabulary

WORDS = 60
_SMALL = {"layers": 1, "hidden": 9, "embedding": 8, "tied": False}

# model, recipe
SPECIMENS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (_SMALL, {}),
    (_SMALL | {"tied": True, "embedding": 6}, {"sites": {"*": {"bits": "float16"}}}),
    (_SMALL, {"sites": {"*": {"structure": {"kind": "svd", "rank": 3}}}}),
    (
        _SMALL | {"layers": 2, "hidden": [9, 7]},
        {"sites": {"*": {"structure": {"kind": "semi_nmf", "rank": 2}, "bits": "float16"}}},
    ),
    (
        _SMALL,
        {
            "sites": {
                "*": {
                    "structure": {"kind": "tensor_train", "rank": 3, "cores": 2},
                    "bits": {"kind": "uniform", "step": 0.7},
                }
            }
        },
    ),
    (
        _SMALL,
        {
            "sites": {
                "embedding": {
                    "structure": {
                        "kind": "tensor_train",
                        "rank": [2, 3],
                        "factors": {"rows": [4, 4, 4], "columns": [2, 2, 2]},
                    }
                }
            }
        },
    ),
    (_SMALL, {"sites": {"*": {"bits": {"kind": "kmeans", "bits": 3}, "sparsity": 0.6}}}),
    (_SMALL, {"sites": {"*": {"bits": {"kind": "uniform", "step": 1.5, "scope": "row"}}}}),
    (_SMALL, {"sites": {"*": {"bits": {"kind": "uniform", "step": 90.0}}}}),  # zeros alone
    (
        _SMALL,
        {
            "sites": {"*": {"bits": {"kind": "linear", "bits": 5, "scope": 7}}},
            "biases": {"kind": "linear", "bits": 8, "scope": "matrix"},
        },
    ),
    (
        _SMALL | {"tied": True},
        {
            "sites": {
                "*": {"bits": {"kind": "multibit", "bits": 2}, "sparsity": 0.8, "pattern": "rows"}
            }
        },
    ),
    (_SMALL | {"layers": 2, "tied": True, "projection": [5, 6], "embedding": 6}, {}),
    (_SMALL | {"cell": "rnn"}, {"sites": {"*": {"sparsity": 0.9, "pattern": [2, 2]}}}),
    (_SMALL | {"cell": "peephole"}, {"biases": {"kind": "kmeans", "bits": 2}}),
    (_SMALL | {"cell": {"kind": "rhn", "depth": 3}}, {"biases": "float32"}),
]


# of other kinds than words, each in a file of the first specimen's model
VOCABULARIES: list[Vocabulary] = [
    SubwordVocabulary([(97 + i % 26, 97 + i // 26) for i in range(43)] + [(256, 257)]),
    CharacterVocabulary([EOS, UNK, *map(chr, range(0x3B1, 0x3B1 + WORDS - 2))]),
    PieceVocabulary(["<blk>", "<sos/eos>", UNK, *[f"▁P{i}" for i in range(WORDS - 3)]]),
]

_LETTERS = {"size": 3, "filters": 4, "width": 3}
_TAGS = {"labels": ["A", "B"], "alphabet": "0123456789dorw"}
_CODES: dict[str, Any] = {"sites": {"*": {"bits": {"kind": "uniform", "step": 1.0}}}}
_RANK: dict[str, Any] = {"sites": {"*": {"structure": {"kind": "svd", "rank": 1}}}}
_ZEROS: dict[str, Any] = {"sites": {"*": {"bits": {"kind": "kmeans", "bits": 3}, "sparsity": 0.6}}}

# of other tasks: network, recipe
NETWORKS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (_TAGS | {"kind": "tagger", "hidden": 6, "words": {"embedding": 5, "letters": _LETTERS}}, {}),
    (
        _TAGS
        | {
            "kind": "tagger",
            "hidden": 6,
            "layers": 2,
            "words": {"embedding": 5, "vectors": 4},
            "hidden_of": {"encoder_forward.0": 4},
            "projection_of": {"encoder_backward.1": 3},
        },
        _CODES,
    ),
    (_TAGS | {"kind": "classifier", "hidden": 6, "pooled": 5, "words": {"embedding": 5}}, {}),
    (
        _TAGS
        | {
            "kind": "classifier",
            "hidden": 6,
            "pooled": 5,
            "words": {"embedding": 5, "context": {"layers": 2, "hidden": 5}},
        },
        _RANK,
    ),
    (
        _TAGS | {"kind": "matcher", "hidden": 6, "cell": "peephole", "words": {"embedding": 5}},
        _ZEROS,
    ),
    (
        {
            "kind": "reader",
            "hidden": 5,
            "words": {"vectors": 4, "letters": _LETTERS},
            "alphabet": _TAGS["alphabet"],
        },
        {},
    ),
    ({"kind": "bilm", "layers": 2, "hidden": 6, "embedding": 5}, _RANK),
]


@lru_cache
def specimens() -> list[bytes]:
    """The good bundles."""
    vocabulary = Vocabulary(sorted([EOS, UNK, *[f"word{i}" for i in range(WORDS - 2)]]))
    return [
        *(_packed(model, recipe, vocabulary) for model, recipe in SPECIMENS),
        *(_packed(_SMALL, {}, other) for other in VOCABULARIES),
        *(_packed(model, recipe, vocabulary) for model, recipe in NETWORKS),
    ]


def _packed(model: dict[str, Any], recipe: dict[str, Any], vocabulary: Vocabulary) -> bytes:
    settings = cast(NetworkSettings, NetworkSettings.pick({"kind": LANGUAGE, **model}))
    words = len(vocabulary)
    dense = random_network(settings, words, 0.4, torch.Generator().manual_seed(0)).eval()
    resolved = resolve(parse(Recipe, recipe, "recipe"), settings, words)
    return pack(build(dense, resolved).eval(), vocabulary)
