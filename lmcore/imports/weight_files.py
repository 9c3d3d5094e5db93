"""The arrays in a file of weights, by the names that the file has for them.

safetensors, NumPy's .npz, PyTorch's .pt (weights alone), Keras's HDF5, and the folders of ml5 (a
manifest.json with shapes beside raw little-endian float32 files). No format runs code: pickled
objects are refused.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcore.errors import UserError
from lmcore.lazy import torch

Array = NDArray[np.float32]
Arrays = dict[str, Array]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_STATES = ("state_dict", "model_state_dict", "model", "net", "params")  # a dictionary's weights
_MESSAGE = 200  # letters of what another library says


@dataclass(frozen=True)
class WeightFile:
    """The arrays of a file in its own order; `remarks` are sentences that a person should read."""

    arrays: Arrays
    remarks: tuple[str, ...] = ()


def read_weights(path: Path) -> WeightFile:
    """All arrays of real numbers in a file, in float32.

    Raises UserError where there is no such file, where its format is not known or would run code,
    and where one of the numbers is infinite or NaN.
    """
    try:
        found = _read(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"cannot read weights from {path}: {said[:_MESSAGE]}") from None
    for name, array in found.arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} has numbers that are infinite or NaN")
    if not found.arrays:
        raise UserError(f"{path} has no arrays in it")
    return found


def _read(path: Path) -> WeightFile:
    if path.is_dir():
        path = path / "manifest.json"
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_HDF5):
        return _keras(path)
    if head.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
        if inside and all(name.endswith(".npy") for name in inside):
            with np.load(path, allow_pickle=False) as arrays:
                return WeightFile(_floats((name, arrays[name]) for name in arrays.files))
        return WeightFile(_torch(path))
    if head.startswith(_PICKLE):
        return WeightFile(_torch(path))
    if path.suffix == ".json":
        return WeightFile(_manifest(path))
    if len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32:
        return WeightFile(_safetensors(path))
    raise UserError(
        f"{path} is no file of weights that is known: safetensors, .npz, .pt, Keras's HDF5, or "
        f"the folder or manifest.json of ml5"
    )


def _floats(named: Any) -> Arrays:
    """Those of the named arrays that have real numbers, in float32."""
    return {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name, array in named
        if array.dtype.kind == "f"
    }


def _safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return _tensors(tensors)


def _tensors(named: Mapping[str, Any]) -> Arrays:
    return {
        name: tensor.detach().float().contiguous().numpy()
        for name, tensor in named.items()
        if tensor.is_floating_point() and tensor.layout == torch.strided
    }


# --- PyTorch -----------------------------------------------------------------------------------


def _torch(path: Path) -> Arrays:
    from pickle import UnpicklingError

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, AttributeError, TypeError, IndexError) as error:
        said = str(error)
        names = re.findall(r"(?:GLOBAL|global|class) ([\w.]+)", said)
        what = f" ({names[0]})" if names else ""
        raise UserError(
            f"{path} is no file of weights alone: it holds objects of Python code{what}, which are "
            f"not read, since reading them could run anything, or it is damaged. Where the model "
            f"was trained, save its weights alone: "
            f"safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from None
    return _tensors(_state(loaded, path))


def _state(loaded: Any, path: Path) -> Mapping[str, Any]:
    """The tensors of a checkpoint, which may lie in a dictionary with other things."""
    if isinstance(loaded, Mapping):
        for name in _STATES:
            if isinstance(loaded.get(name), Mapping):
                return _state(loaded[name], path)
        found = {str(name): one for name, one in loaded.items() if isinstance(one, torch.Tensor)}
        if found:
            return found
    raise UserError(
        f"{path} has no weights by name: a dictionary of tensors, or one in it as {_STATES[0]}"
    )


# --- Keras -------------------------------------------------------------------------------------


def _keras(path: Path) -> WeightFile:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(
            f"{path} is HDF5, as Keras writes it; reading it needs h5py: "
            f"pip install 'lmpareto[keras]'"
        ) from None
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        config = file.attrs.get("model_config")
        _check_activations(path, config)
        named = [
            (name, data[()]) for name, data in _datasets(h5py, root, "") if data.dtype.kind == "f"
        ]
        version = _text(root.attrs.get("keras_version", ""))
    old = re.match(r"1\.|2\.[0-2]\.", version) and config is None
    remark = (
        f"{path.name} is of Keras {version}, whose LSTM has hard_sigmoid gates unless sigmoid was "
        f"asked for, and its weights do not tell; gates are taken as sigmoid"
    )
    return WeightFile(_floats(named), (remark,) if old else ())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _datasets(h5py: Any, group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The arrays below a group: layers in the model's order where the file tells it, numbers in
    names in their order where not."""
    names = [_text(name) for name in group.attrs.get("layer_names", ())]
    others = sorted((name for name in group if name not in names), key=_natural)
    for name in (*names, *others):
        if name.startswith("optimizer") or name not in group:
            continue
        inside = f"{path}/{name}" if path else name
        if isinstance(group[name], h5py.Dataset):
            yield inside, group[name]
        else:
            yield from _datasets(h5py, group[name], inside)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts lstm, lstm_2, lstm_10."""
    return [(int(one), "") if one.isdigit() else (-1, one) for one in re.split(r"(\d+)", name)]


def _check_activations(path: Path, config: Any) -> None:
    """Raises UserError where an LSTM of the model has other gates than sigmoid and tanh."""
    layers = json.loads(_text(config)).get("config", {}) if config is not None else {}
    for layer in layers.get("layers", []) if isinstance(layers, Mapping) else layers:
        own = layer.get("config", {})
        for setting, wanted in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
            if layer.get("class_name") == "LSTM" and own.get(setting, wanted) != wanted:
                raise UserError(
                    f"{path}: its LSTM has {setting} {own[setting]}; only {wanted} is known"
                )


# --- ml5 ---------------------------------------------------------------------------------------


def _manifest(path: Path) -> Arrays:
    """The arrays of a manifest {"NAME": {"filename": ..., "shape": [...]}}, ml5's."""
    listed = json.loads(path.read_text())
    if not isinstance(listed, dict) or not all(
        isinstance(one, dict) and {"filename", "shape"} <= one.keys() for one in listed.values()
    ):
        raise UserError(f"{path} is no manifest: it names the filename and shape of each array")
    found = {}
    for name, entry in listed.items():
        own, shape = path.parent / Path(str(entry["filename"])).name, tuple(entry["shape"])
        data = own.read_bytes()
        if len(data) != 4 * math.prod(shape):
            raise UserError(
                f"{own} has {len(data):,} bytes; {list(shape)} float32 numbers of {name} have "
                f"{4 * math.prod(shape):,}"
            )
        found[name] = np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    return found
