"""A graph of ONNX operators while it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from lmcore.codec import Array

if TYPE_CHECKING:
    import onnx

# Runs in onnxruntime from 1.22 on, and in the one that sherpa-onnx 2.0 brings. 18 has Split by
# number and BitwiseAnd.
OPSET, IR_VERSION = 18, 9
MICROSOFT = "com.microsoft"
MICROSOFT_OPERATORS = frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulNBits"})
_SHARED = 4096  # bytes up to which equal constants are looked for


class Graph:
    """Operators in the order in which they run, and the constants that they read.

    Tensors are names. A `body`, the graph of one step of a loop, sees the tensors of its root, and
    its constants stand there.
    """

    def __init__(self, root: Graph | None = None) -> None:
        self.root: Graph = root or self
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers: Iterator[int] = root._numbers if root else count()
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def body(self) -> Graph:
        """A graph within this one."""
        return Graph(self.root)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of an operator; "" is an optional input that is not given."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Iterable[str], outputs: int, **attributes: Any) -> list[str]:
        """The outputs of an operator that has several."""
        from onnx import helper

        names = [self.name(kind) for _ in range(outputs)]
        domain = MICROSOFT if kind in MICROSOFT_OPERATORS else None
        node = helper.make_node(kind, list(inputs), names, names[0], domain=domain, **attributes)
        self.nodes.append(node)
        return names

    def rename(self, tensor: str, name: str) -> None:
        """Give an operator's output the name by which the file's readers know it."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [tensor], [name]))

    def name(self, kind: str) -> str:
        """A name that no other tensor has."""
        return f"{kind}_{next(self._numbers)}"

    def constant(self, value: Array | np.generic | list[int]) -> str:
        """A tensor with this value; floats are of single precision unless they are of half."""
        from onnx import numpy_helper

        kind = np.int64 if isinstance(value, list) else None
        array = np.ascontiguousarray(value, kind).reshape(np.shape(value))
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (str(array.dtype), array.shape, array.tobytes() if array.nbytes <= _SHARED else b"")
        if key[2] and (known := self.root._shared.get(key)):
            return known
        name = self.root.name("constant")
        self.root.constants.append(numpy_helper.from_array(array, name))
        if key[2]:
            self.root._shared[key] = name
        return name

    def filled(self, value: np.generic, shape: Iterable[int]) -> str:
        """A tensor of this shape, filled with one number; the file holds that one."""
        return self.op("Expand", self.constant(value.reshape(1)), self.constant(list(shape)))

    def floats(self, tensor: str) -> str:
        """The tensor in single precision."""
        from onnx import TensorProto

        return self.op("Cast", tensor, to=TensorProto.FLOAT)

    def reshaped(self, tensor: str, shape: Iterable[int]) -> str:
        """0 keeps a size, -1 is what is left."""
        return self.op("Reshape", tensor, self.constant(list(shape)))

    def model(
        self,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> bytes:
        """The file's bytes."""
        from onnx import helper

        graph = helper.make_graph(self.nodes, "lmpareto", inputs, outputs, self.constants)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        model.producer_name = "lmpareto"
        helper.set_model_props(model, metadata)
        return bytes(model.SerializeToString(deterministic=True))
