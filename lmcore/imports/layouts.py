"""Which array of a file is which part of an embedding–LSTM–linear model, and how it is laid out.

A layout says how an LSTM's arrays lie in the file:

pytorch     W (4H, in), U (4H, H), gates i, f, g, o; two biases, which are summed
keras       W (in, 4H), U (H, 4H), gates i, f, g, o (Keras calls g c); one bias, or CuDNN's two
            in one array
tensorflow  one matrix (in + H, 4H) for [x; h], gates i, g, f, o (TensorFlow calls g j); the cell
            adds `forget_bias` to f
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from lmcore import sites
from lmcore.errors import UserError

Layout = Literal["pytorch", "keras", "tensorflow"]
Names = dict[str, tuple[str, ...]]  # part -> its arrays in the file; those of a bias are summed

KERNEL = "kernel"  # a layer's W and U in one matrix, TensorFlow's
_LSTM = "lstm"
_PART = re.compile(r"embedding|decoder(\.bias)?|lstm\.\d+\.(input|recurrent|kernel|bias)")
_SHOWN = 6  # names in a message

_EMBEDDINGS = "encoder|input_embedding|embeddings?|embed|emb|embed_tokens|word_embeddings?|lookup"
_DECODERS = "decoder|output_linear|linear|lo|out|output|proj_out|head|lm_head|fc|dense"
_PARTS = {"weight_ih": sites.INPUT, "weight_hh": sites.RECURRENT}
_REFUSED = {
    r"_reverse$|/backward_|bidirectional": "it reads the text backwards as well, and a language "
    "model reads forwards alone",
    r"weight_hr_l\d+$|lstm_cell/projection": "its LSTM has a projection layer; only LSTMs without "
    "one can be imported",
    r"w_[ifo]_diag$": "its LSTM has peepholes; only LSTMs without them can be imported",
    r"attention|attn": "it has attention; only an embedding, LSTM layers and a linear decoder can "
    "be imported",
    r"gru": "it has GRU layers; only LSTMs can be imported",
}


def layout_of(names: Iterable[str]) -> Layout:
    """By what the LSTM's arrays are called."""
    listed = list(names)
    if any(re.search(r"recurrent_kernel|/cell/vars/", name) for name in listed):
        return "keras"
    if any(re.search(r"lstm_cell/(kernel|weights)", name) for name in listed):
        return "tensorflow"
    return "pytorch"


def recognised(
    names: Sequence[str], layout: Layout, given: Mapping[str, str | Sequence[str]]
) -> Names:
    """Part -> arrays. A part is a site or bias of a model, "lstm.0.input" say, or
    "lstm.0.kernel". `given` are a person's own, which come first.

    Raises UserError where an array is of no part, where a part is missing, and where the model is
    of another kind.
    """
    found: Names = {
        part: (arrays,) if isinstance(arrays, str) else tuple(arrays)
        for part, arrays in given.items()
    }
    if unknown := [part for part in found if not _PART.fullmatch(part)]:
        raise UserError(
            f"names: there is no part {unknown[0]!r}; the parts are embedding, decoder, "
            f"decoder.bias and, for each layer, lstm.0.input, lstm.0.recurrent (or lstm.0.kernel "
            f"for both in one) and lstm.0.bias"
        )
    taken = [name for arrays in found.values() for name in arrays]
    for name in taken:
        if name not in names:
            raise UserError(f"names: there is no array {name!r}; there are {_listed(names)}")
    left = [name for name in names if name not in taken]
    for pattern, sentence in _REFUSED.items():
        for name in left:
            if re.search(pattern, name):
                raise UserError(f"{sentence} (it has the array {name})")
    for part, arrays in _BY_LAYOUT[layout](left).items():
        if part not in found:
            found[part] = tuple(arrays)
            taken += arrays
    if others := [name for name in left if name not in taken]:
        raise UserError(
            f"no part of an embedding, LSTM layers and a linear decoder: {_listed(others)}. Say "
            f"which array is what: {_example(others)}"
        )
    if sites.EMBEDDING not in found or not any(part.startswith(_LSTM) for part in found):
        raise UserError(
            f"there is no embedding or no LSTM among {_listed(names)}. Say which array is what: "
            f"{_example(names)}"
        )
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _example(names: Sequence[str]) -> str:
    return f"\"names={{embedding: '{names[0]}', lstm.0.input: ...}}\""


def _part(layer: int, name: str) -> str:
    return sites.in_layer(_LSTM, layer, name)


def _pytorch(names: Sequence[str]) -> dict[str, list[str]]:
    """encoder.weight, rnn.weight_ih_l0, decoder.weight and their like, under any prefix; a layer
    may be a module of its own: rnn.0.weight_ih, rnns.0.weight_ih_l0."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(rf"(?:.*\.)?(?:{_EMBEDDINGS})\.weight", name):
            found.setdefault(sites.EMBEDDING, []).append(name)
        elif match := re.fullmatch(rf"(?:.*\.)?(?:{_DECODERS})\.(weight|bias)", name):
            part = sites.DECODER if match[1] == "weight" else sites.DECODER_BIAS
            found.setdefault(part, []).append(name)
        elif match := re.fullmatch(
            r"(?:.*?\.)?(?:(\d+)\.(?:.*\.)?)?(weight|bias)_(ih|hh)(?:_l(\d+))?", name
        ):
            layer = int(match[1] or 0) + int(match[4] or 0)
            kind = sites.BIAS if match[2] == "bias" else _PARTS[f"weight_{match[3]}"]
            found.setdefault(_part(layer, kind), []).append(name)
    return _each_once(found)


def _keras(names: Sequence[str]) -> dict[str, list[str]]:
    """Layers by the folders that their arrays lie in, in the file's order: an embedding, LSTMs (a
    kernel, a recurrent kernel, a bias), and one dense layer. Keras 3 numbers a layer's arrays."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    found: dict[str, list[str]] = {}
    layers = 0
    for arrays in folders.values():
        own = {one.rpartition("/")[2].removesuffix(":0"): one for one in arrays}
        if numbered := own.keys() <= {"0", "1", "2"}:
            recurrent = "/cell/" in arrays[0]
            kinds = ("kernel", "recurrent_kernel", "bias") if recurrent else ("kernel", "bias")
            own = {kind: own[str(i)] for i, kind in enumerate(kinds) if str(i) in own}
        if "recurrent_kernel" in own:
            kinds_of = {"kernel": sites.INPUT, "recurrent_kernel": sites.RECURRENT}
            for kind, array in own.items():
                found.setdefault(_part(layers, kinds_of.get(kind, kind)), []).append(array)
            layers += 1
        elif "embeddings" in own or (numbered and "embedding" in arrays[0]):
            found.setdefault(sites.EMBEDDING, []).extend(own.values())
        elif own.keys() <= {"kernel", "bias"}:
            for kind, array in own.items():
                part = sites.DECODER if kind == "kernel" else sites.DECODER_BIAS
                found.setdefault(part, []).append(array)
    return _each_once(found)


def _tensorflow(names: Sequence[str]) -> dict[str, list[str]]:
    """embedding, .../cell_0/basic_lstm_cell/weights (or kernel) and biases (or bias), softmax_w
    and softmax_b, or a dense layer."""
    found: dict[str, list[str]] = {}
    for full in names:
        name = full.removesuffix(":0")
        if match := re.search(r"(?:cell_(\d+)/)?\w*lstm_cell/(kernel|weights|bias|biases)$", name):
            kind = KERNEL if match[2] in ("kernel", "weights") else sites.BIAS
            found.setdefault(_part(int(match[1] or 0), kind), []).append(full)
        elif re.search(r"embeddings?$", name):
            found.setdefault(sites.EMBEDDING, []).append(full)
        elif re.search(r"softmax_w$|dense/kernel$|decoder/kernel$", name):
            found.setdefault(sites.DECODER, []).append(full)
        elif re.search(r"softmax_b$|dense/bias$|decoder/bias$", name):
            found.setdefault(sites.DECODER_BIAS, []).append(full)
    return _each_once(found)


def _each_once(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Raises UserError where two arrays could be the same part; biases of an LSTM are summed."""
    for part, arrays in found.items():
        if len(arrays) > 1 and not (part.startswith(_LSTM) and part.endswith(sites.BIAS)):
            raise UserError(
                f'{part} could be any of {_listed(arrays)}; say which: "names={{{part}: '
                f"'{arrays[0]}'}}\""
            )
    return found


_BY_LAYOUT: dict[Layout, Callable[[Sequence[str]], dict[str, list[str]]]] = {
    "pytorch": _pytorch,
    "keras": _keras,
    "tensorflow": _tensorflow,
}
