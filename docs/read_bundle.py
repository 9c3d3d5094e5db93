"""Reads a bundle of lmpareto with NumPy alone, and prints the perplexity of a text.

    python read_bundle.py model.lmb text.txt

The proof of bundle_format.md. Of what a reader should check it checks the checksum alone.
"""

from __future__ import annotations

import bz2
import hashlib
import itertools
import json
import math
import struct
import sys
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # of NumPy
TOTAL = 1 << 24  # what the frequencies of a table sum to


# --- Range decoder -------------------------------------------------------------------------------


class RangeDecoder:
    """A range coder of 64 bits that reads words of 32, frequencies of 24 bits."""

    def __init__(self, data: bytes) -> None:
        self.words = iter(struct.unpack(f"<{len(data) // 4}I", data))
        self.range = (1 << 64) - 1
        self.offset = next(self.words, 0) << 32 | next(self.words, 0)  # of the point in the range

    def tables(self, cumulative: list[list[int]], which: list[int]) -> list[int]:
        """A symbol from each of these tables; a table is its cumulative frequencies, 0 to 2^24."""
        wide, offset, found = self.range, self.offset, []
        for table in which:
            edges, scale = cumulative[table], wide >> 24
            symbol = bisect_right(edges, offset // scale) - 1
            found.append(symbol)
            offset -= scale * edges[symbol]
            wide = scale * (edges[symbol + 1] - edges[symbol])
            if wide < 1 << 32:
                wide <<= 32
                offset = offset << 32 | next(self.words, 0)
        self.range, self.offset = wide, offset
        return found

    def uniform(self, levels: int, count: int) -> Array:
        """So many symbols in [0, levels); the last one has what the division leaves."""
        each = TOTAL // levels
        edges = [*range(0, each * levels, each), TOTAL]
        return np.array(self.tables([edges], [0] * count))


def integer_tables(counts: Array, rest: int) -> Array:
    """Counts (..., n) -> cumulative frequencies (..., n + 1); `rest` takes what rounding leaves."""
    free = TOTAL - counts.shape[-1]
    tables = counts * free // counts.sum(-1, keepdims=True)
    tables[..., rest] += free - tables.sum(-1)
    edges = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1), dtype=np.int64)
    np.cumsum(tables + 1, axis=-1, out=edges[..., 1:])
    return edges


def pieces(count: int, first: int, part: int) -> Any:
    """Pieces as long as 1/part of all before them, at least `first`."""
    edges = [0]
    while edges[-1] < count:
        edges.append(min(count, edges[-1] + max(first, edges[-1] // part)))
    return itertools.pairwise(edges)


# --- Streams of integers -------------------------------------------------------------------------


def decode(data: bytes, shape: tuple[int, ...], low: int, high: int) -> Array:
    """The integers of a stream, in [low, high]."""
    form, body, count, top = data[0], data[1:], math.prod(shape), high - low
    if form == 0:
        width = top.bit_length()
        bits = np.unpackbits(np.frombuffer(body, np.uint8), count=count * width)
        values = bits.reshape(count, width) @ (1 << np.arange(width)[::-1])
    elif form == 1:
        values = read_order0(RangeDecoder(body), count, top)
    else:
        values = read_context(RangeDecoder(body), max(shape), min(shape), top)
        values = values if shape[0] >= shape[1] else values.T
    return values.reshape(shape) + low


def read_order0(coder: RangeDecoder, count: int, top: int) -> Array:
    least, most = coder.uniform(top + 1, 2)
    values = np.full(count, least)
    if least == most:
        return values
    counts = np.ones(most - least + 1, dtype=int)
    for start, stop in pieces(count, 16, 4):
        edges = integer_tables(counts, int(counts.argmax()))
        symbols = np.array(coder.tables([edges.tolist()], [0] * (stop - start)))
        values[start:stop] += symbols
        counts += 4 * np.bincount(symbols, minlength=len(counts))
    return values


SIZES = np.outer(2.0 ** np.arange(-4, 6), [1, 1.2599210498948732, 1.5874010519681994]).ravel()[:28]
BOUNDS = SIZES[1:] * 0.8908987181403393
LOW_BITS = np.maximum(0, np.frexp(SIZES / 3)[1])
NEAR = np.array([0.02, 0.05, 0.09, 0.14, 0.2, 0.28, 0.38])
FAR = np.arange(1, 8) / 8 - 0.5
REACH = 15


def read_context(coder: RangeDecoder, rows: int, columns: int, top: int) -> Array:
    """A matrix (rows, columns), rows >= columns, of values in [0, top]."""
    centre = int(coder.uniform(top + 1, 1)[0])
    context = Context(coder, centre, top)
    widths = [len(group) for group in np.array_split(range(columns), -(-columns // 400))]
    return np.concatenate([context.group(rows, width) for width in widths], axis=1)


def regression(gram: Array, rows: int) -> Array:
    """(n, n): row j predicts column j from those before it, in multiples of 2^-12."""
    n = len(gram)
    if rows == 0:
        return np.zeros((n, n))
    left, right = gram + np.eye(n) * (300.0 * gram.trace() / (rows * n)), np.eye(n)
    for k in range(n - 1):
        factor = (left[k + 1 :, k] / left[k, k])[:, None]
        left[k + 1 :, k + 1 :] -= factor * left[k, k + 1 :]
        right[k + 1 :, : k + 1] -= factor * right[k, : k + 1]
    return np.clip(np.rint((np.eye(n) - right) * 4096), -(1 << 18), 1 << 18) / 4096


class Context:
    """The adaptive tables of the context form, and how one is chosen."""

    def __init__(self, coder: RangeDecoder, centre: int, top: int) -> None:
        self.coder, self.centre, self.top = coder, centre, top
        size = SIZES / (1 << LOW_BITS)
        ratio = (np.sqrt(1 + size * size) - 1) / size
        powers = np.cumprod([np.ones(28), *[ratio] * REACH], axis=0)
        shape = np.vstack([powers[:0:-1], powers, np.zeros(28)]).T  # (28, 32)
        parts = np.floor(shape * 65536).astype(int)
        counts = 640 * parts // parts.sum(-1, keepdims=True) + 1
        self.counts = np.tile(counts.repeat(8, axis=0), (2, 1))  # (448, 32)
        self.edges = integer_tables(self.counts, REACH).tolist()
        self.unseen, self.seen = 0, 0

    def group(self, rows: int, columns: int) -> Array:
        """The next columns of the matrix, (rows, columns)."""
        values = np.zeros((rows, columns), dtype=int)
        gram, errors = np.zeros((columns + 1, columns + 1)), np.zeros(columns + 1)
        for start, stop in pieces(rows, 32, 2):
            mean = (errors.sum() + 1) / (start * columns + 1)
            expected = (errors + 8 * mean) / (start + 8) if start else None
            piece, weights, new = self.piece(stop - start, regression(gram, start), expected)
            gram += (piece * weights) @ piece.T
            errors += new
            values[start:stop] = piece[1:].T + self.centre
        return values

    def piece(self, r: int, coefficients: Array, expected: Array) -> tuple[Array, Array, Array]:
        """The next r rows as (columns + 1, r), the first all ones; their weights (r,) in later
        regressions; each column's sum of |error|."""
        n = len(coefficients)
        piece, errors = np.ones((n, r)), np.zeros(n)
        total, count = np.full(r, 10.0), 10.0
        for j in range(1, n):
            predicted = np.clip(coefficients[j, :j] @ piece[:j], -self.top, self.top)
            size = (errors.sum() + 0.5 * r) / (j * r) if expected is None else expected[j]
            piece[j] = self.column(predicted, total * (size / count))
            error = np.abs(piece[j] - predicted)
            errors[j] = error.sum()
            total += error / size
            count += 1
        return piece, np.clip(np.rint(16 * count / total), 1, 256), errors

    def column(self, predicted: Array, sizes: Array) -> Array:
        """Values less the centre, (r,), of these predictions and expected |error|."""
        sign = np.where(predicted < 0, -1.0, 1.0)
        distance = predicted * sign
        nearest = np.floor(distance + 0.5)
        scale = np.searchsorted(BOUNDS, sizes)
        near, low_bits = nearest == 0, LOW_BITS[scale]
        split = np.searchsorted(FAR, distance - nearest, side="right")
        split[near] = np.searchsorted(NEAR, distance[near], side="right")
        split[SIZES[scale] > 1.5] = 4
        classes = (~near * 28 + scale) * 8 + split
        symbols = np.array(self.coder.tables(self.edges, classes.tolist()))
        self.learn(classes, symbols)
        low = np.zeros(len(symbols), dtype=int)
        for bits in range(1, low_bits.max() + 1):
            if (some := low_bits == bits).any():
                low[some] = self.coder.uniform(1 << bits, int(some.sum()))
        values = (nearest + ((symbols - REACH) << low_bits) + low) * sign
        if (escaped := symbols > 2 * REACH).any():
            plain = self.coder.uniform(self.top + 1, int(escaped.sum()))
            values[escaped] = plain - self.centre
        return values

    def learn(self, classes: Array, symbols: Array) -> None:
        new = np.bincount(classes * 32 + symbols, minlength=self.counts.size)
        self.counts += 32 * new.reshape(self.counts.shape)
        self.unseen += len(symbols)
        if self.unseen * 16 >= self.seen:
            self.edges = integer_tables(self.counts, REACH).tolist()
            self.seen, self.unseen = self.seen + self.unseen, 0


# --- Codecs: the values of a leaf ----------------------------------------------------------------


@dataclass
class Streams:
    """The streams of a file, one after the other."""

    body: bytes
    position: int

    def next(self) -> bytes:
        (size,) = struct.unpack_from("<I", self.body, self.position)
        self.position += 4 + size
        return self.body[self.position - size : self.position]

    def floats(self, shape: tuple[int, ...], size: int = 2) -> Array:
        """float32 numbers from their bytes, a stream each, the most significant first."""
        planes = [decode(self.next(), shape, 0, 255).astype(np.uint8) for _ in range(size)]
        return np.stack(planes, axis=-1).view(f">f{size}")[..., 0].astype(np.float32)


def read_leaf(streams: Streams, shape: tuple[int, ...], leaf: dict[str, Any]) -> Array:
    """The values of a leaf, float32."""
    codec, kept, mask = leaf["codec"], leaf["kept"], np.ones(shape, dtype=bool)
    if kept is not None:
        mask = decode(streams.next(), shape, 0, 1).astype(bool)
    stored, kind = shape if kept is None else (kept,), codec["kind"]
    values = np.zeros(shape, dtype=np.float32)
    if kind in ("float32", "float16"):
        values[mask] = streams.floats(stored, 4 if kind == "float32" else 2).ravel()
        return values
    low, high = (-127, 127) if kind == "uniform" else (0, (1 << codec["bits"]) - 1)
    codes = decode(streams.next(), stored, low, high).ravel()
    rows, columns = shape if len(shape) == 2 else (1, *shape)
    scope = codec.get("scope", "matrix")  # a setting at its default may be left out
    by_row, width = scope != "matrix", scope if isinstance(scope, int) else columns
    groups = (rows if by_row else 1, -(-columns // width))
    row, column = np.nonzero(mask.reshape(rows, columns))
    at = (row * by_row, column // width)  # the table of each value

    def table(size: int) -> Array:
        return streams.floats((math.prod(groups) * size,)).reshape(*groups, size)

    if kind in ("uniform", "linear"):
        offset = table(1)[*at, 0] if kind == "linear" else np.float32(0)
        step = table(1)[*at, 0]
        octaves = decode(streams.next(), (rows,), -15, 15)[row] if codec.get("frequency") else 0
        values[mask] = codes.astype(np.float32) * np.ldexp(step, octaves) + offset
    else:
        levels = table(high + 1) if kind == "kmeans" else sums(table(codec["bits"]))
        values[mask] = levels[*at, codes]
    return values


def sums(alpha: Array) -> Array:
    """(..., bits) -> the sums of +-alpha in order, (..., 2^bits)."""
    bits = alpha.shape[-1]
    signs = (np.arange(1 << bits)[:, None] >> np.arange(bits) & 1) * 2 - 1
    total = np.zeros((*alpha.shape[:-1], 1 << bits), dtype=np.float32)
    for k in range(bits):
        total += alpha[..., k, None] * signs[:, k].astype(np.float32)
    return np.sort(total, axis=-1)


# --- Structures: a matrix from its leaves --------------------------------------------------------


def leaf_shapes(structure: dict[str, Any], shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Leaf -> shape of a matrix (out, in), in the file's order."""
    if structure["kind"] == "dense":
        return {"matrix": shape}
    if structure["kind"] != "tensor_train":
        return {"left": (shape[0], structure["rank"]), "right": (structure["rank"], shape[1])}
    modes, ranks = train_of(structure, shape)
    return {f"core{k}": (ranks[k] * m, n * ranks[k + 1]) for k, (m, n) in enumerate(modes)}


def train_of(structure: dict[str, Any], shape: tuple[int, int]) -> tuple[list[Any], list[int]]:
    """(m_k, n_k) of each core, and r_0 ... r_d."""
    cores, factors = structure["cores"], structure["factors"]
    rows = factors["rows"] if factors else near_equal(shape[0], cores)
    columns = factors["columns"] if factors else near_equal(shape[1], cores)[::-1]
    modes = list(zip(rows, columns, strict=True))
    sizes, rank = [m * n for m, n in modes], structure["rank"]
    ranks = [1, *([rank] * (cores - 1) if isinstance(rank, int) else rank), 1]
    for k in range(1, cores):
        ranks[k] = min(ranks[k], ranks[k - 1] * sizes[k - 1])
    for k in reversed(range(1, cores)):
        ranks[k] = min(ranks[k], sizes[k] * ranks[k + 1])
    return modes, ranks


def near_equal(size: int, count: int) -> tuple[int, ...]:
    """The near-equal factors of a size: a rising list of the least product, then the least sum."""
    root = next(root for root in itertools.count(1) if root**count >= size)
    rising = itertools.combinations_with_replacement(range(-(-root // 3), 3 * root + 1), count)
    found = (one for one in rising if one[-1] <= 3 * one[0] and math.prod(one) >= size)
    return min(found, key=lambda one: (math.prod(one), sum(one)))


def matrix_of(structure: dict[str, Any], shape: tuple[int, int], leaves: list[Array]) -> Array:
    """W (out, in)."""
    if structure["kind"] == "dense":
        return leaves[0]
    if structure["kind"] != "tensor_train":
        return leaves[0] @ leaves[1]
    modes, ranks = train_of(structure, shape)
    merged = np.ones((1, 1, 1), dtype=np.float32)  # (M, N, r)
    for k, ((m, n), leaf) in enumerate(zip(modes, leaves, strict=True)):
        core = leaf.reshape(ranks[k], m, n, ranks[k + 1])
        merged = np.einsum("MNr,rmns->MmNns", merged, core, optimize=True)
        merged = merged.reshape(len(merged) * m, -1, ranks[k + 1])
    return merged[: shape[0], : shape[1], 0]


# --- The model -----------------------------------------------------------------------------------


def layer_shapes(cell: dict[str, Any], inputs: int, units: int, width: int) -> tuple[Any, Any]:
    """Site -> (out, in) and vector -> (size,) of a layer, in the file's order."""
    depths = [f"_{k + 1}" for k in range(cell["depth"])] if cell["kind"] == "rhn" else [""]
    gates = {"rnn": 1, "rhn": 2}.get(cell["kind"], 4) * units
    sites = {"input": (gates, inputs)} | {f"recurrent{k}": (gates, width) for k in depths}
    sites |= {"projection": (width, units)} if width != units else {}
    peephole = {"peephole": (3 * units,)} if cell["kind"] == "peephole" else {}
    return sites, {f"bias{k}": (gates,) for k in depths} | peephole


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def step(own: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """h and c after the next input; h is before the projection, c is of no use without gates."""

    def recurrent(matrix: Array, h: Array) -> Array:
        return matrix @ (own["projection"] @ h if "projection" in own else h)

    if "recurrent_1" in own:  # a recurrent highway network
        for k in range(1, sum(name.startswith("bias") for name in own) + 1):
            z = recurrent(own[f"recurrent_{k}"], h) + own[f"bias_{k}"]
            s, t = np.split(z + own["input"] @ x if k == 1 else z, 2)
            h = h + sigmoid(t) * (np.tanh(s) - h)
        return h, c
    z = own["input"] @ x + recurrent(own["recurrent"], h) + own["bias"]
    if len(z) == len(h):  # a plain recurrent network
        return sigmoid(z), c
    i, f, g, o = np.split(z, 4)
    v_i, v_f, v_o = np.split(own.get("peephole", np.zeros(3 * len(c), np.float32)), 3)
    i, f, o = sigmoid(i + v_i * c), sigmoid(f + v_f * c), sigmoid(o + v_o * c)
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c


@dataclass
class Bundle:
    kind: str  # of its vocabulary: words, characters, pieces or subword
    words: list[Any]  # bytes, where they are subwords
    leaves: dict[str, Array]  # SITE/LEAF or bias -> its values
    matrices: dict[str, Array]  # site -> (out, in)
    layers: list[dict[str, Array]]  # the matrices and vectors of each, by their names within it
    units: list[int]  # of each layer

    def ids(self, text: str) -> list[int]:
        """The ids of a text in words, characters, or pieces with blanks between; no subwords."""
        known, ids = {word: i for i, word in enumerate(self.words)}, []
        for line in text.removesuffix("\n").split("\n"):
            words = list(line) if self.kind == "characters" else line.split()
            ids += [*(known[word if word in known else "<unk>"] for word in words), self.eos]
        return ids

    @property
    def eos(self) -> int:
        ends = (b"\n", "<sos/eos>", "</s>", "<eos>", "<eos/sos>")
        return next(self.words.index(end) for end in ends if end in self.words)

    def log_probabilities(self, ids: list[int]) -> Any:
        """For each of the ids, ln of the probability of every word after it, (words,)."""
        sites = self.matrices
        decoder = sites.get("decoder", sites["embedding"])
        states = [(np.zeros(n, np.float32),) * 2 for n in self.units]
        for start in range(0, len(ids), 256):
            hidden = []
            for word in ids[start : start + 256]:
                x = sites["embedding"][word]
                for k, own in enumerate(self.layers):
                    states[k] = step(own, x, *states[k])
                    x = own["projection"] @ states[k][0] if "projection" in own else states[k][0]
                hidden.append(x)
            inner = sites.get("decoder.projection", np.eye(len(x), dtype=np.float32))
            logits = np.stack(hidden) @ inner.T @ decoder.T + self.leaves["decoder.bias"]
            logits -= logits.max(1, keepdims=True)
            yield from logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def perplexity(self, ids: list[int]) -> float:
        """exp of the mean negative log-likelihood; the first word is predicted from `<eos>`."""
        after = self.log_probabilities([self.eos, *ids[:-1]])
        nats = -sum(float(log[word]) for log, word in zip(after, ids, strict=True))
        return math.exp(nats / len(ids))


def read_bundle(path: Path) -> Bundle:
    """A model from its file. Raises ValueError where it is no whole bundle of version 1 or 2."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sBI", data)
    if magic != b"LMPB" or version > 2 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError(f"{path} is no bundle of version 1 or 2, or was altered")
    header = json.loads(zlib.decompress(data[9 : 9 + length]))
    model, words, kind = header["model"], header["words"], header.get("vocabulary", "words")
    cell = model.get("cell", {"kind": "lstm"})
    prefix = cell["kind"].replace("peephole", "lstm")
    hidden, embedding = model["hidden"], model["embedding"]
    units = [hidden] * model["layers"] if isinstance(hidden, int) else hidden
    inputs, shapes, vectors = embedding, {"embedding": (words, embedding)}, {}
    for k, projected in enumerate(model.get("projection") or [0] * len(units)):
        width = projected or units[k]
        own, own_vectors = layer_shapes(cell, inputs, units[k], width)
        shapes |= {f"{prefix}.{k}.{name}": shape for name, shape in own.items()}
        vectors |= {f"{prefix}.{k}.{name}": shape for name, shape in own_vectors.items()}
        inputs = width
    if not model["tied"]:
        shapes["decoder"] = (words, inputs)
    elif inputs != embedding:
        shapes["decoder.projection"] = (embedding, inputs)
    streams, leaves, matrices = Streams(data, 9 + length), {}, {}
    for site, shape in shapes.items():
        head, own = header["sites"][site], []
        for name, leaf_shape in leaf_shapes(head["structure"], shape).items():
            own.append(read_leaf(streams, leaf_shape, head["leaves"][name]))
            leaves[f"{site}/{name}"] = own[-1]
        matrices[site] = matrix_of(head["structure"], shape, own)
    for name, shape in {**vectors, "decoder.bias": (words,)}.items():
        leaves[name] = read_leaf(streams, shape, header["biases"][name])
    layers: list[dict[str, Array]] = [{} for _ in units]
    for name in [*shapes, *vectors]:
        if name.startswith(f"{prefix}."):
            _, k, own_name = name.split(".")
            layers[int(k)][own_name] = matrices[name] if name in matrices else leaves[name]
    return Bundle(kind, read_words(streams.next(), kind, words), leaves, matrices, layers, units)


def read_words(data: bytes, kind: str, count: int) -> list[Any]:
    """The words, from what each shares with the one before; subwords from pairs of earlier ids."""
    (size,) = struct.unpack_from("<I", data)
    if kind == "subword":
        tokens = [bytes([i]) for i in range(256)]
        halves = (
            decode(one, (count - 256,), 0, count - 1) for one in (data[4:][:size], data[4 + size :])
        )
        for first, second in zip(*halves, strict=True):
            tokens.append(tokens[first] + tokens[second])
        return tokens
    rests = bz2.decompress(data[4 + size :]).decode().split("\n")
    words, before = [], ""
    for common, rest in zip(bz2.decompress(data[4 : 4 + size]), rests, strict=True):
        before = before[:common] + rest
        words.append(before)
    return words


if __name__ == "__main__":
    bundle = read_bundle(Path(sys.argv[1]))
    ids = bundle.ids(Path(sys.argv[2]).read_text(encoding="utf-8"))
    print(f"perplexity {bundle.perplexity(ids):.4f} of {len(ids):,} tokens")
