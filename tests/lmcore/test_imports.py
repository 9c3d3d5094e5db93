"""Strangers' models: each layout has the perplexity of a plain loop over its own arrays."""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from conftest import ROOT
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.imports.model import ImportedModel, imported
from lmcore.imports.weight_files import read_weights
from lmcore.vocabulary_file import read_vocabulary

WORDS, WIDTH, HIDDEN = 11, 6, 5
VOCABULARY = ["<unk>", *(f"w{i}" for i in range(WORDS - 2)), "</s>"]
SHARED = ROOT.parent / "shared"

Arrays = dict[str, Any]
Floats = NDArray[np.float64]
Gates = Callable[[int, Floats, Floats], tuple[Floats, ...]]  # layer, x, h -> i, f, g, o


def formula(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Numbers between -1 and 1, without a pattern."""
    count = np.arange(1, math.prod(shape) + 1) + 1000 * seed
    numbers = np.sin(count * 12.9898) * 43758.5453 % 1 * 2 - 1
    return np.asarray(numbers, np.float32).reshape(shape)


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def perplexity(ids: list[int], eos: int, embedding: Any, gates: list[Any], decoder: Any) -> float:
    """The first word is predicted from eos. `gates[layer](x, h)` are the gates i, f, g, o before
    their squashing; `decoder(h)` are the logits."""
    states: list[tuple[Any, Any]] = [(None, None)] * len(gates)
    nats = 0.0
    for before, word in pairwise([eos, *ids]):
        x = np.asarray(embedding[before], np.float64)
        for layer, own in enumerate(gates):
            h, c = states[layer]
            i, f, g, o = own(x, h)
            c = sigmoid(f) * (0 if c is None else c) + sigmoid(i) * np.tanh(g)
            x = sigmoid(o) * np.tanh(c)
            states[layer] = x, c
        logits = decoder(x)
        top = logits.max()
        nats += top + np.log(np.exp(logits - top).sum()) - logits[word]
    return float(np.exp(nats / len(ids)))


def ours(model: ImportedModel, ids: list[int]) -> float:
    """By the model itself, its rows in alphabetical order, as a corpus has them."""
    words = sorted(model.words)
    spoken = model.spoken(words)
    ids = [words.index(model.words[i]) for i in ids]
    return score(spoken.model(), torch.tensor(ids), words.index("<eos>")).value


TEXT = [3, 7, 1, 10, 0, 4, 4, 9, 2, 10, 5, 8, 6, 10, 7, 3, 3, 10]
EOS = WORDS - 1


def words_file(folder: Path, words: list[str] = VOCABULARY) -> Path:
    path = folder / "words.txt"
    path.write_text("\n".join(words) + "\n")
    return path


def check(path: Path, expected: float, text: list[int] = TEXT, **settings: Any) -> ImportedModel:
    words = read_vocabulary(words_file(path.parent if path.is_file() else path))
    model = imported(read_weights(path).arrays, words, **settings)
    assert ours(model, text) == pytest.approx(expected, rel=1e-5)
    return model


# --- PyTorch -----------------------------------------------------------------------------------


def pytorch_arrays(names: tuple[str, str, str], tied: bool = False) -> Arrays:
    embedding, rnn, decoder = names
    width = HIDDEN if tied else WIDTH
    found = {f"{embedding}.weight": formula(WORDS, width)}
    for layer, inputs in enumerate((width, HIDDEN)):
        for kind, columns in (("ih", inputs), ("hh", HIDDEN)):
            found[f"{rnn}.weight_{kind}_l{layer}"] = formula(4 * HIDDEN, columns, seed=layer + 1)
            found[f"{rnn}.bias_{kind}_l{layer}"] = formula(4 * HIDDEN, seed=columns + layer)
    if not tied:
        found[f"{decoder}.weight"] = formula(WORDS, HIDDEN, seed=9)
    return {**found, f"{decoder}.bias": formula(WORDS, seed=10)}


def pytorch_perplexity(
    arrays: Arrays, names: tuple[str, str, str], text: list[int] = TEXT, eos: int = EOS
) -> float:
    embedding, rnn, decoder = names
    layers = sum(name.startswith(f"{rnn}.weight_ih") for name in arrays)

    def gates(layer: int) -> Any:
        w, u, b, d = (
            arrays[f"{rnn}.{one}_l{layer}"].astype(np.float64)
            for one in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return lambda x, h: np.split(w @ x + b + d + (0 if h is None else u @ h), 4)

    rows = f"{decoder}.weight" if f"{decoder}.weight" in arrays else f"{embedding}.weight"
    matrix = arrays[rows].astype(np.float64)
    return perplexity(
        text,
        eos,
        arrays[f"{embedding}.weight"],
        [gates(layer) for layer in range(layers)],
        lambda h: matrix @ h + arrays[f"{decoder}.bias"],
    )


CLASSIC = ("encoder", "rnn", "decoder")
NAMINGS = [
    CLASSIC,
    ("input_embedding", "rnn", "output_linear"),
    ("module.lm.embed", "module.lm.lstm", "module.lm.lo"),
]


@pytest.mark.parametrize("names", NAMINGS)
@pytest.mark.parametrize("tied", [False, True])
def test_pytorchs_names_are_recognised(
    names: tuple[str, str, str], tied: bool, tmp_path: Path
) -> None:
    arrays = pytorch_arrays(names, tied)
    save_file(arrays, tmp_path / "model.safetensors")
    model = check(tmp_path / "model.safetensors", pytorch_perplexity(arrays, names))
    assert model.tied == tied


def test_an_nn_lstm_is_what_the_loop_says(tmp_path: Path) -> None:
    parts = nn.ModuleDict(
        {
            "encoder": nn.Embedding(WORDS, WIDTH),
            "rnn": nn.LSTM(WIDTH, HIDDEN, 2),
            "decoder": nn.Linear(HIDDEN, WORDS),
        }
    )
    ids = torch.tensor([EOS, *TEXT])
    with torch.no_grad():
        hidden, _ = parts["rnn"](parts["encoder"](ids[:-1]).unsqueeze(1))
        loss = nn.functional.cross_entropy(parts["decoder"](hidden.squeeze(1)), ids[1:])
    torch.save(parts.state_dict(), tmp_path / "model.pt")
    check(tmp_path / "model.pt", float(loss.exp()))


@pytest.mark.parametrize("inside", ["state_dict", "model"])
def test_weights_may_lie_in_a_dictionary(inside: str, tmp_path: Path) -> None:
    arrays = pytorch_arrays(CLASSIC)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({inside: state, "epoch": 3, "nlayers": 2}, tmp_path / "model.pt")
    check(tmp_path / "model.pt", pytorch_perplexity(arrays, CLASSIC))


def test_layers_may_be_modules_of_their_own(tmp_path: Path) -> None:
    arrays = pytorch_arrays(CLASSIC)
    renamed = {
        name.replace("rnn.", f"predictor.rnn.{name[-1]}.").replace(f"_l{name[-1]}", "")
        if name.startswith("rnn")
        else f"predictor.{name}": array
        for name, array in arrays.items()
    }
    assert "predictor.rnn.1.weight_ih" in renamed
    np.savez(tmp_path / "model.npz", **renamed)
    check(tmp_path / "model.npz", pytorch_perplexity(arrays, CLASSIC))


def test_an_equal_decoder_is_tied_and_another_is_not() -> None:
    arrays = pytorch_arrays(CLASSIC, tied=True)
    words = read_like(VOCABULARY)
    equal = {**arrays, "decoder.weight": arrays["encoder.weight"].copy()}
    assert imported(equal, words).tied
    equal["decoder.weight"][3, 2] += 1
    assert not imported(equal, words).tied


def test_missing_biases_are_zeros(tmp_path: Path) -> None:
    arrays = pytorch_arrays(CLASSIC)
    zeros = {n: np.zeros_like(one) if "bias" in n else one for n, one in arrays.items()}
    save_file({n: one for n, one in arrays.items() if "bias" not in n}, tmp_path / "m.safetensors")
    check(tmp_path / "m.safetensors", pytorch_perplexity(zeros, CLASSIC))


def test_names_may_be_given(tmp_path: Path) -> None:
    arrays = pytorch_arrays(CLASSIC)
    odd = {f"x{i}": array for i, array in enumerate(arrays.values())}
    numbers = {name: f"x{i}" for i, name in enumerate(arrays)}
    names: dict[str, Any] = {"embedding": numbers["encoder.weight"]}
    for layer in (0, 1):
        names[f"lstm.{layer}.input"] = numbers[f"rnn.weight_ih_l{layer}"]
        names[f"lstm.{layer}.recurrent"] = numbers[f"rnn.weight_hh_l{layer}"]
        names[f"lstm.{layer}.bias"] = [numbers[f"rnn.bias_{k}_l{layer}"] for k in ("ih", "hh")]
    names |= {"decoder": numbers["decoder.weight"], "decoder.bias": numbers["decoder.bias"]}
    np.savez(tmp_path / "odd.npz", **odd)
    check(tmp_path / "odd.npz", pytorch_perplexity(arrays, CLASSIC), names=names)
    with pytest.raises(UserError, match=r"no part 'lstm.0.forget'"):
        check(tmp_path / "odd.npz", 0, names={"lstm.0.forget": "x1"})
    with pytest.raises(UserError, match=r"no array 'y'"):
        check(tmp_path / "odd.npz", 0, names={"embedding": "y"})


# --- Keras -------------------------------------------------------------------------------------


def keras_arrays(biases: int = 1) -> dict[str, Arrays]:
    """Layer -> its arrays; with two biases, CuDNN's, one after the other in one array."""
    found: dict[str, Arrays] = {"embedding": {"embeddings": formula(WORDS, WIDTH)}}
    for layer, inputs in enumerate((WIDTH, HIDDEN)):
        found[f"lstm_{layer + 9}"] = {  # lstm_10 comes after lstm_9
            "kernel": formula(inputs, 4 * HIDDEN, seed=layer + 1),
            "recurrent_kernel": formula(HIDDEN, 4 * HIDDEN, seed=layer + 3),
            "bias": formula(biases * 4 * HIDDEN, seed=layer + 5),
        }
    decoder = {"kernel": formula(HIDDEN, WORDS, seed=9), "bias": formula(WORDS, seed=10)}
    return {**found, "dense": decoder}


def keras_perplexity(layers: dict[str, Arrays]) -> float:
    def gates(own: Arrays) -> Any:
        bias = own["bias"].astype(np.float64).reshape(-1, 4 * HIDDEN).sum(0)

        def run(x: Floats, h: Any) -> Any:
            z = x @ own["kernel"] + bias + (0 if h is None else h @ own["recurrent_kernel"])
            i, f, c, o = np.split(z, 4)
            return i, f, c, o

        return run

    return perplexity(
        TEXT,
        EOS,
        layers["embedding"]["embeddings"],
        [gates(layers["lstm_9"]), gates(layers["lstm_10"])],
        lambda h: h @ layers["dense"]["kernel"].astype(np.float64) + layers["dense"]["bias"],
    )


@pytest.mark.parametrize("biases", [1, 2])
@pytest.mark.parametrize("whole", [False, True])
def test_keras_2_is_recognised(biases: int, whole: bool, tmp_path: Path) -> None:
    layers = keras_arrays(biases)
    with h5py.File(tmp_path / "model.h5", "w") as file:
        root = file.create_group("model_weights") if whole else file
        root.attrs["keras_version"] = "2.15.0"
        root.attrs["layer_names"] = [name.encode() for name in ("input", *layers)]
        root.create_group("input")
        for name, arrays in layers.items():
            for kind, array in arrays.items():
                root.create_dataset(f"{name}/{name}/{kind}:0", data=array)
        if whole:
            file.create_dataset("optimizer_weights/Adam/m:0", data=formula(3, 3))
            file.attrs["model_config"] = json.dumps({"config": {"layers": []}})
    check(tmp_path / "model.h5", keras_perplexity(layers))


def test_keras_3_is_recognised(tmp_path: Path) -> None:
    layers = keras_arrays()
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for name, arrays in layers.items():
            cell = "cell/" if name.startswith("lstm") else ""
            for i, array in enumerate(arrays.values()):
                file.create_dataset(f"layers/{name}/{cell}vars/{i}", data=array)
        file.create_dataset("optimizer/vars/0", data=formula(2))
    check(tmp_path / "model.weights.h5", keras_perplexity(layers))


def test_keras_gates_of_another_kind_are_refused_or_told(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    own = {"recurrent_activation": "hard_sigmoid", "activation": "tanh"}
    for config, version in ((own, "2.2.4"), (None, "2.2.4")):
        with h5py.File(path, "w") as file:
            file.create_dataset("lstm/kernel:0", data=formula(2, 4))
            file.attrs["keras_version"] = version
            if config:
                layer = {"class_name": "LSTM", "config": config}
                file.attrs["model_config"] = json.dumps({"config": {"layers": [layer]}})
        if config:
            with pytest.raises(UserError, match=r"recurrent_activation hard_sigmoid"):
                read_weights(path)
    assert "hard_sigmoid" in read_weights(path).remarks[0]


# --- TensorFlow --------------------------------------------------------------------------------


@pytest.mark.parametrize("forget_bias", [1.0, 0.0])
def test_tensorflow_in_ml5s_folder_is_recognised(forget_bias: float, tmp_path: Path) -> None:
    arrays: Arrays = {"Variable": formula(), "embedding": formula(WORDS, HIDDEN)}
    for layer in (0, 1):
        cell = f"rnnlm/multi_rnn_cell/cell_{layer}/basic_lstm_cell"
        arrays[f"{cell}/weights"] = formula(2 * HIDDEN, 4 * HIDDEN, seed=layer + 1)
        arrays[f"{cell}/biases"] = formula(4 * HIDDEN, seed=layer + 3)
    arrays |= {"rnnlm/softmax_w": formula(HIDDEN, WORDS, seed=5), "rnnlm/softmax_b": formula(WORDS)}
    ml5_folder(tmp_path, arrays)
    check(tmp_path, ml5_perplexity(arrays, TEXT, EOS, forget_bias), forget_bias=forget_bias)
    check(tmp_path / "manifest.json", ml5_perplexity(arrays, TEXT, EOS, 1.0))


def ml5_folder(folder: Path, arrays: Arrays) -> None:
    manifest = {}
    for name, array in arrays.items():
        file = name.replace("/", "_")
        manifest[name] = {"filename": file, "shape": list(array.shape)}
        (folder / file).write_bytes(array.astype("<f4").tobytes())
    (folder / "manifest.json").write_text(json.dumps(manifest))


def ml5_perplexity(arrays: Arrays, text: list[int], eos: int, forget_bias: float) -> float:
    def gates(layer: int) -> Any:
        cell = f"rnnlm/multi_rnn_cell/cell_{layer}/basic_lstm_cell"
        matrix = arrays[f"{cell}/weights"].astype(np.float64)

        def run(x: Floats, h: Any) -> Any:
            h = np.zeros(matrix.shape[1] // 4) if h is None else h
            i, j, f, o = np.split(np.concatenate([x, h]) @ matrix + arrays[f"{cell}/biases"], 4)
            return i, f + forget_bias, j, o

        return run

    w, b = arrays["rnnlm/softmax_w"].astype(np.float64), arrays["rnnlm/softmax_b"]
    gates_of = [gates(layer) for layer in (0, 1)]
    return perplexity(text, eos, arrays["embedding"], gates_of, lambda h: h @ w + b)


# --- strangers' own files ----------------------------------------------------------------------


def shared(*parts: str) -> Path:
    path: Path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ptb_2x200_tied", "ptb_2x200_untied"])
def test_the_shared_checkpoints_are_what_their_weights_say(name: str, ptb: Path) -> None:
    path = shared("checkpoints", f"{name}.safetensors")
    words = read_vocabulary(shared("checkpoints", "vocabulary.txt"))
    lines = (ptb / "test.txt").read_text().split("\n")[:30]
    ids = [words.index(word) for line in lines for word in [*line.split(), "<eos>"]]
    arrays = load_file(path)
    model = imported(read_weights(path).arrays, words)
    assert model.tied == name.endswith("_tied")
    expected = pytorch_perplexity(arrays, CLASSIC, ids, words.index("<eos>"))
    assert ours(model, ids) == pytest.approx(expected, rel=1e-5)


def test_ml5s_shakespeare_is_what_its_weights_say() -> None:
    folder = shared("models", "ml5-charrnn-shakespeare")
    with pytest.raises(UserError, match=r"no word for id 40"):
        read_vocabulary(folder / "vocab.json")  # whoever wrote the file lost the letters u and U
    words = read_vocabulary(folder / "vocab.json", {13: "u", 40: "U"})
    said = "What say you, lords?\nBefore we proceed any further, hear me speak.\n" * 8
    ids = [words.index("<eos>" if letter == "\n" else letter) for letter in said]
    arrays = read_weights(folder).arrays
    expected = ml5_perplexity(arrays, ids, words.index("<eos>"), 1.0)
    assert expected < 8  # of 65 letters: the letters are in order
    assert ours(imported(arrays, words), ids) == pytest.approx(expected, rel=1e-5)


def test_textgenrnn_is_refused_for_its_attention() -> None:
    arrays = read_weights(shared("models", "textgenrnn", "textgenrnn_weights.hdf5")).arrays
    with pytest.raises(UserError, match=r"it has attention"):
        imported(arrays, [f"w{i}" for i in range(465)])


# --- what is refused ---------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)

    def __init__(self, path: Path) -> None:
        self.path = str(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "npz"])
def test_a_malicious_file_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "model.pt"
    match form:
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb(ran)))
        case "npz":
            np.savez(tmp_path / "model.npz", a=np.array([Bomb(ran)], dtype=object))
            path = tmp_path / "model.npz"
        case _:
            bomb = {"state_dict": {"encoder.weight": Bomb(ran)}}
            torch.save(bomb, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError):
        read_weights(path)
    assert not ran.exists()


def read_like(words: list[str]) -> list[str]:
    """The words as `read_vocabulary` gives them."""
    return ["<eos>" if word == "</s>" else word for word in words]


def changed(**arrays: Any) -> Arrays:
    """The plain model with arrays changed; None leaves one out, _ stands for a dot."""
    named = {name.replace("__", "."): array for name, array in arrays.items()}
    both = {**pytorch_arrays(CLASSIC), **named}
    return {name: array for name, array in both.items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (changed(rnn__weight_ih_l0_reverse=formula(20, 6)), "reads the text backwards"),
        (changed(rnn__weight_hr_l0=formula(3, 5)), "projection layer"),
        (changed(encoder__weight=formula(13, 6)), r"encoder.weight is 13 x 6, expected 11 x any"),
        (changed(encoder__weight=formula(13, 6)), r"2 rows have none.*words=\{11: "),
        (changed(rnn__weight_hh_l0=formula(15, 5)), "as in a GRU"),
        (changed(rnn__weight_hh_l0=formula(5, 5)), "as in a plain recurrent network"),
        (changed(rnn__weight_hh_l0=formula(7, 5)), "rnn.weight_hh_l0 is 7 x 5"),
        (changed(rnn__weight_ih_l1=formula(20, 4)), r"weight_ih_l1 is 20 x 4, expected 20 x 5"),
        (changed(rnn__weight_ih_l1=None), "lstm.1.input is missing"),
        (changed(rnn__bias_ih_l1=formula(15)), r"bias_ih_l1 is 15, expected 20"),
        (changed(decoder__weight=formula(11, 6)), r"decoder.weight is 11 x 6, expected 11 x 5"),
        (changed(decoder__weight=None), "no decoder, and the embedding, 11 x 6, cannot be it"),
        (changed(decoder__bias=formula(12)), r"decoder.bias is 12, expected 11"),
        (changed(encoder__weight=None), "there is no embedding"),
        (changed(norm__weight=formula(5)), "no part of an embedding.*norm.weight"),
        (changed(lm__embed__weight=formula(11, 6)), "embedding could be any of"),
        ({"gru.weight_ih_l0": formula(15, 6)}, "GRU"),
        ({"x": formula(3, 3)}, "names="),
    ],
)
def test_what_is_no_such_model_is_refused_in_words(arrays: Arrays, said: str) -> None:
    with pytest.raises(UserError, match=said):
        imported(arrays, read_like(VOCABULARY))


def bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    def file(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    yield folder / "none", "No such file"
    yield folder, "manifest.json|No such file"
    yield file("text", b"hello world, hello"), "no file of weights that is known"
    yield file("empty", b""), "no file of weights that is known"
    yield file("cut.h5", b"\x89HDF\r\n\x1a\n cut"), "cannot read weights"
    yield file("cut.zip", b"PK\x03\x04 cut"), "cannot read weights"
    yield file("cut.safetensors", (99).to_bytes(8, "little") + b'{"a"'), "cannot read weights"
    yield file("list.json", b"[1, 2]"), "no manifest"
    yield file("m.json", b'{"a": {"filename": "text", "shape": [2]}}'), "18 bytes"
    nan = folder / "nan.npz"
    np.savez(nan, a=np.array([1.0, np.nan]))
    yield nan, "infinite or NaN"
    np.savez(folder / "ints.npz", a=np.arange(3))
    yield folder / "ints.npz", "no arrays"
    torch.save([torch.ones(2)], folder / "list.pt")
    yield folder / "list.pt", "no weights by name"


def test_files_that_are_none_get_a_sentence(tmp_path: Path) -> None:
    for path, said in bad_files(tmp_path):
        with pytest.raises(UserError, match=said):
            read_weights(path)


# --- vocabularies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "a\n</s>\n<UNK>\n"),
        ("words.txt", "<UNK> 2\na 0\n</s> 1\n"),
        ("words.json", '["a", "</s>", "<UNK>"]'),
        ("words.json", '{"</s>": 1, "<UNK>": 2, "a": 0}'),
    ],
)
def test_vocabularies_come_in_four_forms(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_vocabulary(tmp_path / name) == ["a", "<eos>", "<unk>"]


def test_a_blank_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("a\n \n<eos>\n")
    assert read_vocabulary(tmp_path / "letters.txt") == ["a", " ", "<eos>"]
    (tmp_path / "letters.json").write_text('{"a": 0, " ": 1, "\\n": 2}')
    assert read_vocabulary(tmp_path / "letters.json") == ["a", " ", "<eos>"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "<eos>": 2}', "no word for id 0; give each"),
        ('["a", "a", "<eos>"]', "ids 0, 1 are all 'a'"),
        ('["a", "b"]', "no word that ends a line"),
        ('{"a": 0, "b": 0}', "'a' and 'b' for the same id, 0"),
        ('{"a": "0"}', "a list of words, or a map"),
        ("[", "no JSON"),
        ("[]", "no words"),
        ('["<eos>", "a\\nb"]', "line's end"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_vocabulary(tmp_path / "words.json")


def test_a_text_of_other_words_is_refused() -> None:
    model = imported(pytorch_arrays(CLASSIC), read_like(VOCABULARY))
    with pytest.raises(UserError, match=r"11 words and the text 2; 1 of the text's"):
        model.spoken(["<eos>", "other"])


# --- Files of strangers that want more than to be read --------------------------------------------


class Ran:
    """What a pickle could have run."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npz(path: Path, member: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member)


def claiming(shape: str) -> bytes:
    return npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


def zipped_again(path: Path) -> None:
    """The same archive, its members deflated."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def bomb_of_pytorch(path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(20_000_000)}, path)
    zipped_again(path)


def inside_itself(path: Path) -> None:
    state: dict[str, Any] = {}
    state["model"] = state
    torch.save(state, path)


def hdf5(path: Path, fill: Callable[[Any], Any]) -> None:
    with h5py.File(path.parent / "secret.h5", "w") as file:
        file["secret"] = np.zeros(3, np.float32)
    with h5py.File(path, "w") as file:
        fill(file)


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3,), "f")
    layout[:] = h5py.VirtualSource("secret.h5", "secret", (3,))
    file.create_virtual_dataset("a", layout)


def external(file: Any) -> None:
    file.create_dataset("a", (3,), "f", external=[("secret.h5", 0, 12)])


def ml5(path: Path, **entry: Any) -> None:
    (path.parent / "array").write_bytes(bytes(8))
    path.write_text(json.dumps({"a": {"filename": "array", "shape": [2], **entry}}))


LINK = h5py.ExternalLink("secret.h5", "/secret")
HOSTILE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a.npz", lambda p: npz(p, claiming("(10000000000000,)")), "Unable to allocate|EOF"),
    ("a.npz", lambda p: npz(p, claiming("(10000000000000000000000,)")), "too large"),
    ("a.npz", lambda p: npz(p, claiming("(20000000,)") + bytes(80_000_000)), "would unpack"),
    ("a.npz", lambda p: npz(p, b"no array"), "no array of NumPy"),
    ("a.pt", bomb_of_pytorch, "would unpack"),
    ("a.pt", lambda p: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, p), "would unpack"),
    ("a.pt", lambda p: torch.save({"a": torch.zeros(9, device="meta")}, p), "has no arrays"),
    ("a.pt", inside_itself, "recursion"),
    ("a.h5", lambda p: hdf5(p, lambda f: f.update(lstm=LINK)), "a link to another place"),
    ("a.h5", lambda p: hdf5(p, lambda f: f.update(model_weights=LINK)), "a link to another place"),
    ("a.h5", lambda p: hdf5(p, virtual), "in another file"),
    ("a.h5", lambda p: hdf5(p, external), "in another file"),
    ("a.h5", lambda p: hdf5(p, lambda f: f.update({"g/self": f["/"]})), "inside itself"),
    (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.create_dataset("a", (10**6, 10**6), "f")),
        "would unpack",
    ),
    ("a.h5", lambda p: hdf5(p, lambda f: f.attrs.update(model_config="[" * 10**5)), "recursion"),
    ("a.json", lambda p: ml5(p, shape=[2.0]), "whole numbers"),
    ("a.json", lambda p: ml5(p, shape="2"), "whole numbers"),
    ("a.json", lambda p: ml5(p, shape=[-1, -2]), "whole numbers"),
    ("a.json", lambda p: ml5(p, filename=".."), "no file"),
    ("a.json", lambda p: p.write_text("[" * 100_000), "recursion"),
]


@pytest.mark.parametrize(("name", "write", "said"), HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(
    name: str,
    write: Callable[[Path], Any],
    said: str,
    tmp_path: Path,
) -> None:
    """None takes far more memory than its size, is read beyond itself, or ends in a traceback."""
    write(tmp_path / name)
    with pytest.raises(UserError, match=said) as refused:
        read_weights(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_pickle_runs(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"encoder.weight": torch.zeros(2, 2), "x": Ran()}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="objects of Python code"):
        read_weights(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"<eos>": 0, "b": 100000000000000}', "no word for ids 1, 2, 3, 4, 5 and more"),
        ("a.txt", "<eos> 0\nb 100000000000000\n", "no word for ids 1, 2, 3, 4, 5 and more"),
        ("a.txt", "<eos> 0\nb " + 5000 * "9", "no word that ends a line"),
        ("a.json", 100_000 * "[", "no JSON"),
        ("a.json", '["<eos>", "\\ud800"]', "half of a surrogate pair"),
    ],
)
def test_a_hostile_vocabulary_is_refused_at_once(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_vocabulary(tmp_path / name)
