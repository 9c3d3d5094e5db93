"""A model of this package from the arrays of another program."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lmcore import sites
from lmcore.errors import UserError
from lmcore.imports.layouts import KERNEL, Layout, Names, layout_of, recognised
from lmcore.imports.weight_files import Array, Arrays
from lmcore.lazy import torch
from lmcore.leaf import Leaf
from lmcore.model import LanguageModel, dense_model
from lmcore.model_settings import ModelSettings
from lmcore.vocabulary_file import OURS

_GATES = {  # where i, f, g, o are in the file's order
    "pytorch": (0, 1, 2, 3),
    "keras": (0, 1, 2, 3),
    "tensorflow": (0, 2, 1, 3),
}
_OTHER_GATES = {3: "a GRU", 1: "a plain recurrent network"}
FORGET_BIAS = 1.0  # of TensorFlow's BasicLSTMCell, unless its maker said otherwise


@dataclass(frozen=True)
class ImportedModel:
    """The matrices and biases of a model by site, laid out as this package has them, the rows of
    embedding and decoder in the order of its `words`."""

    matrices: Arrays  # site -> (out, in)
    biases: Arrays  # bias -> (size,)
    words: tuple[str, ...]
    tied: bool
    names: Names  # part -> the file's arrays

    @property
    def settings(self) -> ModelSettings:
        """Its shape."""
        hidden = [len(one) // 4 for name, one in self.biases.items() if name != sites.DECODER_BIAS]
        return ModelSettings(
            layers=len(hidden),
            hidden=tuple(hidden),
            embedding=self.matrices[sites.EMBEDDING].shape[1],
            tied=self.tied,
        )

    @property
    def sha256(self) -> str:
        """Of the words and of all numbers in float32, site by site in the order of a bundle."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for name, array in {**self.matrices, **self.biases}.items():
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.astype("<f4").tobytes())
        return digest.hexdigest()

    def spoken(self, words: Sequence[str]) -> Self:
        """The same model with its rows in the order of these words.

        Raises UserError where they are not the same words.
        """
        ids = {word: i for i, word in enumerate(self.words)}
        # a recogniser's pieces keep their own names of the end of a sentence and of the unknown
        words = [word if word in ids else OURS.get(word, word) for word in words]
        missing = [word for word in words if word not in ids]
        extra = set(self.words) - set(words)
        if missing or extra:
            shown = repr(missing[0] if missing else min(extra))
            raise UserError(
                f"the model has {len(self.words):,} words and the text {len(words):,}; "
                f"{len(missing):,} of the text's are not the model's and {len(extra):,} of the "
                f"model's are not the text's, {shown} say. corpus=text corpus.file=FILE takes the "
                f"model's words for any text"
            )
        order = np.array([ids[word] for word in words])
        matrices = {
            site: one[order] if site in sites.WORD_SITES else one
            for site, one in self.matrices.items()
        }
        biases = {**self.biases, sites.DECODER_BIAS: self.biases[sites.DECODER_BIAS][order]}
        return replace(self, matrices=matrices, biases=biases, words=tuple(words))

    def model(self) -> LanguageModel:
        """The model itself, in float32, for inference."""
        matrices = {site: torch.from_numpy(one) for site, one in self.matrices.items()}
        biases = {name: Leaf(torch.from_numpy(one)) for name, one in self.biases.items()}
        return dense_model(self.settings, matrices, biases)


def imported(
    arrays: Arrays,
    words: Sequence[str],
    layout: Layout | None = None,
    names: Mapping[str, str | Sequence[str]] | None = None,
    forget_bias: float = FORGET_BIAS,
) -> ImportedModel:
    """The model in these arrays, whose words are `words` by id.

    `layout` None is found by the arrays' names; `names` says which array is which part, where a
    name tells it not. An embedding that equals the decoder, and one without a decoder, are tied.
    Raises UserError where an array has another shape than its part, in the file's names and shapes.
    """
    layout = layout or layout_of(arrays)
    # a single number is a counter or a rate of the training
    found = recognised([n for n, one in arrays.items() if one.ndim], layout, names or {})
    parts = _Parts(arrays, found, layout)
    embedding = parts.shaped(sites.EMBEDDING, (len(words), None), "(words, width)")
    matrices, biases = {sites.EMBEDDING: embedding}, {}
    width = embedding.shape[1]
    for layer in range(parts.layers):
        kernel, recurrent, bias = parts.layer(layer, width, forget_bias)
        site = sites.layer_name("lstm", layer)
        matrices[f"{site}.{sites.INPUT}"], matrices[f"{site}.{sites.RECURRENT}"] = kernel, recurrent
        biases[f"{site}.{sites.BIAS}"] = bias
        width = recurrent.shape[1]
    tied = sites.DECODER not in found
    if not tied:
        decoder = parts.shaped(
            sites.DECODER, (len(words), width), "(words, last layer)", layout != "pytorch"
        )
        tied = decoder.shape == embedding.shape and bool((decoder == embedding).all())
        if not tied:
            matrices[sites.DECODER] = decoder
    elif embedding.shape[1] != width:
        raise UserError(
            f"there is no decoder, and the embedding, {_shown(embedding)}, cannot be it: the last "
            f"layer has {width} units"
        )
    biases[sites.DECODER_BIAS] = (
        parts.shaped(sites.DECODER_BIAS, (len(words),), "(words,)")
        if sites.DECODER_BIAS in found
        else np.zeros(len(words), np.float32)
    )
    return ImportedModel(matrices, biases, tuple(words), tied, found)


class _Parts:
    """The parts of a model among the arrays of a file."""

    def __init__(self, arrays: Arrays, names: Names, layout: Layout) -> None:
        self.arrays, self.names, self.layout = arrays, names, layout
        numbers = {int(part.split(".")[1]) for part in names if part.startswith("lstm.")}
        self.layers = len(numbers)
        if numbers != set(range(self.layers)):
            raise UserError(f"the LSTM has layers {sorted(numbers)}; they are 0, 1, ... in turn")

    def shaped(
        self, part: str, shape: tuple[int | None, ...], meant: str, transposed: bool = False
    ) -> Array:
        """The array of a part in the shape (out, in). Raises UserError where it has another; None
        is any size."""
        name = self.names[part][0]
        array = self.arrays[name].T if transposed else self.arrays[name]
        fits = array.ndim == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = [("any" if size is None else size) for size in shape]
            wanted = wanted[::-1] if transposed else wanted
            expected = " x ".join(map(str, wanted))
            rows = array.shape[0] if array.ndim else 0
            hint = ""
            if array.ndim == len(shape) and shape[0] is not None and rows != shape[0]:
                hint = f"; the vocabulary has {shape[0]:,} words" if "words" in meant else ""
                if hint and rows > shape[0]:
                    hint += (
                        f", so {rows - shape[0]:,} rows have none: name every row in the "
                        f'vocabulary, those of padding too ("words={{{shape[0]}: ...}}")'
                    )
            raise UserError(
                f"{part}: {name} is {_shown(self.arrays[name])}, expected {expected} for {meant}"
                f"{hint}"
            )
        return np.ascontiguousarray(array)

    def layer(self, layer: int, inputs: int, forget_bias: float) -> tuple[Array, Array, Array]:
        """W (4H, in), U (4H, H) and b (4H,) of a layer, gates i, f, g, o."""
        own = {n: sites.in_layer("lstm", layer, n) for n in (sites.INPUT, sites.RECURRENT, KERNEL)}
        if own[KERNEL] in self.names:
            name = self.names[own[KERNEL]][0]
            fused = self.arrays[name].T
            hidden = fused.shape[0] // 4
            if fused.ndim != 2 or fused.shape != (4 * hidden, inputs + hidden):
                raise UserError(
                    f"{own[KERNEL]}: {name} is {_shown(fused.T)}, expected "
                    f"({inputs} + units) x 4 units, for a layer that reads {inputs} numbers"
                )
            kernel, recurrent = fused[:, :inputs], fused[:, inputs:]
        else:
            for n in (sites.INPUT, sites.RECURRENT):
                if own[n] not in self.names:
                    raise UserError(f"{own[n]} is missing: no array is recognised as it")
            turned = self.layout != "pytorch"
            hidden = self._hidden(own[sites.RECURRENT], turned)
            shapes = ((own[sites.INPUT], inputs), (own[sites.RECURRENT], hidden))
            kernel, recurrent = (
                self.shaped(part, (4 * hidden, width), "(4 x units, inputs)", turned)
                for part, width in shapes
            )
        bias = self._bias(sites.in_layer("lstm", layer, sites.BIAS), hidden)
        order = list(_GATES[self.layout])
        kernel, recurrent, bias = (
            np.ascontiguousarray(one.reshape(4, hidden, *one.shape[1:])[order].reshape(one.shape))
            for one in (kernel, recurrent, bias)
        )
        if own[KERNEL] in self.names:
            bias[hidden : 2 * hidden] += np.float32(forget_bias)
        return kernel, recurrent, bias

    def _hidden(self, part: str, turned: bool) -> int:
        """How many units a layer has, by its recurrent matrix."""
        name = self.names[part][0]
        array = self.arrays[name]
        if array.ndim == 2:
            gates, units = array.shape[::-1] if turned else array.shape
            if gates == 4 * units:
                return int(units)
            if units and gates % units == 0 and gates // units in _OTHER_GATES:
                raise UserError(
                    f"{name} is {_shown(array)}, as in {_OTHER_GATES[gates // units]}; only LSTMs "
                    f"can be imported"
                )
        raise UserError(f"{part}: {name} is {_shown(array)}, expected units x 4 units, of an LSTM")

    def _bias(self, part: str, hidden: int) -> Array:
        """b (4H,), the sum where there are several; zeros where there are none."""
        total = np.zeros(4 * hidden, np.float32)
        for name in self.names.get(part, ()):
            array = self.arrays[name]
            if array.size % (4 * hidden) or array.size not in (4 * hidden, 8 * hidden):
                raise UserError(
                    f"{part}: {name} is {_shown(array)}, expected {4 * hidden}, 4 x units"
                )
            total += array.reshape(-1, 4 * hidden).sum(0)
        return total


def _shown(array: Array) -> str:
    return " x ".join(f"{size:,}" for size in array.shape) or "one number"
