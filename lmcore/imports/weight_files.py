"""The arrays in a file of weights, by the names that the file has for them.

safetensors, NumPy's .npz, PyTorch's .pt (weights alone), Keras's HDF5, and the folders of ml5 (a
manifest.json with shapes beside raw little-endian float32 files). No format runs code: pickled
objects are refused.
"""

from __future__ import annotations

import json
import math
import re
import stat
import struct
import zipfile
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
_ROOM_BYTES, _ROOM_TIMES = 64 * 10**6, 100  # what a file may unpack to: more than weights do


@dataclass(frozen=True)
class WeightFile:
    """The arrays of a file in its own order; `remarks` are sentences that a person should read."""

    arrays: Arrays
    remarks: tuple[str, ...] = ()


def read_weights(path: Path) -> WeightFile:
    """All arrays of real numbers in a file, in float32.

    Raises UserError where there is no such file, where its format is not known or would run code,
    where it claims or unpacks to far more than its size, where it refers to other files, and where
    one of the numbers is infinite or NaN.
    """
    try:
        found = _read(path)
    except UserError:
        raise
    except Exception as error:  # of a damaged file each library says so by errors of its own
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        said = said.partition("\n")[0] or type(error).__name__
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
            _check_room(path, sum(member.file_size for member in archive.infolist()))
        if inside and all(name.endswith(".npy") for name in inside):
            with np.load(path, allow_pickle=False) as arrays:
                return WeightFile(_floats((name, _array(arrays, name)) for name in arrays.files))
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


def _check_room(path: Path, size_bytes: int) -> None:
    """Raises ValueError where a file would take far more memory than its bytes account for."""
    own = path.stat().st_size
    if size_bytes > _ROOM_BYTES + _ROOM_TIMES * own:
        raise ValueError(f"{own:,} bytes would unpack to {size_bytes:,}, which no weights do")


def _array(arrays: Any, name: str) -> Any:
    """An array of an .npz. Raises ValueError where something else is there by that name."""
    found = arrays[name]
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name}.npy in it is no array of NumPy")
    return found


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
    return _tensors(path, tensors)


def _tensors(path: Path, named: Mapping[str, Any]) -> Arrays:
    """The dense tensors of real numbers. Raises ValueError where views of few numbers are many."""
    found = {
        name: tensor.detach()
        for name, tensor in named.items()
        if tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"  # one of no device has no numbers
        and not tensor.is_nested
    }
    _check_room(path, sum(4 * tensor.numel() for tensor in found.values()))
    return {name: tensor.float().contiguous().numpy() for name, tensor in found.items()}


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
    return _tensors(path, _state(loaded, path))


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
        root = file.get("model_weights", file) if _is_inside(h5py, file, "model_weights") else file
        config = file.attrs.get("model_config")
        _check_activations(path, config)
        listed = [
            (name, data)
            for name, data in _datasets(h5py, root, "", set())
            if data.dtype.kind == "f" and data.shape is not None
        ]
        for name, data in listed:
            if data.external or data.is_virtual:
                raise ValueError(f"the numbers of {name} are in another file, which is not read")
        _check_room(path, sum(4 * data.size for _, data in listed))
        named = [(name, data[()]) for name, data in listed]
        version = _text(root.attrs.get("keras_version", ""))
    old = re.match(r"1\.|2\.[0-2]\.", version) and config is None
    remark = (
        f"{path.name} is of Keras {version}, whose LSTM has hard_sigmoid gates unless sigmoid was "
        f"asked for, and its weights do not tell; gates are taken as sigmoid"
    )
    return WeightFile(_floats(named), (remark,) if old else ())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _datasets(h5py: Any, group: Any, path: str, above: set[int]) -> Iterator[tuple[str, Any]]:
    """The arrays below a group: layers in the model's order where the file tells it, numbers in
    names in their order where not.

    Raises ValueError where a link leads to another place or file, or to one of the groups `above`.
    """
    here = h5py.h5o.get_info(group.id).addr
    if here in above:
        raise ValueError(f"the group {path} is inside itself")
    names = [_text(name) for name in group.attrs.get("layer_names", ())]
    others = sorted((name for name in group if name not in names), key=_natural)
    for name in (*names, *others):
        if name.startswith("optimizer") or name not in group:
            continue
        inside = f"{path}/{name}" if path else name
        if not _is_inside(h5py, group, name):
            raise ValueError(f"{inside} is a link to another place, which is not followed")
        if isinstance(group[name], h5py.Dataset):
            yield inside, group[name]
        elif isinstance(group[name], h5py.Group):
            yield from _datasets(h5py, group[name], inside, above | {here})


def _is_inside(h5py: Any, group: Any, name: str) -> bool:
    """Whether what a group has by that name lies in it, and is no link to elsewhere."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


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
        own, shape = path.parent / Path(str(entry["filename"])).name, entry["shape"]
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"the shape of {name} is a list of whole numbers from 0 on")
        if not stat.S_ISREG(own.stat().st_mode):
            raise ValueError(f"{own.name} of {name} is no file")
        data = own.read_bytes()
        if len(data) != 4 * math.prod(shape):
            raise UserError(
                f"{own} has {len(data):,} bytes; {list(shape)} float32 numbers of {name} have "
                f"{4 * math.prod(shape):,}"
            )
        found[name] = np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    return found
