"""Writing ONNX graphs node by node, so that a shared weight is one initialiser because it was given one name.

An exporter that traces copies shared matrices where it transposes or folds them, and quantising its files copies or
skips them; here `weight` is asked for a name and stores what it has not yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET, IR = 17, 8  # old enough for the onnxruntime of every sherpa-onnx of the last years
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}
Make = Callable[[], Tensor]


class Graph:
    """A graph under construction; its values go by their names.

    `graph.Op(*inputs, outputs=1, **attributes)` appends a node of any ONNX operator, and gives its output, or the list
    of its `outputs`.

    Args:
        int8: store matrices and embeddings in 8 bits, one scale for each column or row, and multiply by
            MatMulInteger, the other factor being quantised as it comes.
    """

    def __init__(self, int8: bool = False, parent: Graph | None = None) -> None:
        self.int8, self.parent = int8, parent
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, TensorProto] = {} if parent is None else parent.initializers
        self._count = [0] if parent is None else parent._count
        self._quantised: dict[str, list[str]] = {}

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if not op[0].isupper():
            raise AttributeError(op)

        def node(*inputs: str, outputs: int = 1, **attributes: Any) -> Any:
            self._count[0] += 1
            names = [f"{op}_{self._count[0]}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
            self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{self._count[0]}", **attributes))
            return names if outputs > 1 else names[0]

        return node

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: Sequence[int | str]) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

    def constant(self, value: Any, dtype: str = "int64") -> str:
        """A constant that is no weight; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype)
        content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return self._store("_".join(["constant", dtype, *map(str, array.shape), content]), lambda: array)

    def weight(self, name: str, make: Make) -> str:
        """The weight of this name, which `make` gives when it is first asked for."""
        return self._store(name, lambda: make().detach().float().contiguous().numpy())

    def linear(self, x: str, name: str, matrix: Make, bias: Make | None = None) -> str:
        """x (..., M) times the matrix (M, N), which is stored as `name`.weight, plus the bias (N,), `name`.bias."""
        y = self.matmul(x, f"{name}.weight", matrix)
        return y if bias is None else self.Add(y, self.weight(f"{name}.bias", bias))

    def matmul(self, x: str, name: str, matrix: Make) -> str:
        """x (..., M) times the matrix (M, N), which is stored as `name`."""
        if not self.int8:
            return self.MatMul(x, self.weight(name, matrix))
        weight, scale = self._quantised_weight(name, matrix, axis=0)
        if x not in self._quantised:  # queries, keys and values are made of the same
            self._quantised[x] = self.DynamicQuantizeLinear(x, outputs=3)
        values, x_scale, x_zero = self._quantised[x]
        product = self.MatMulInteger(values, weight, x_zero)
        return self.Mul(self.Cast(product, to=TensorProto.FLOAT), self.Mul(x_scale, scale))

    def embedding(self, ids: str, name: str, table: Make) -> str:
        """Rows (N, ..., E) of a table (V, E) at ids (N, ...)."""
        if not self.int8:
            return self.Gather(self.weight(name, table), ids)
        weight, scale = self._quantised_weight(name, table, axis=1)
        rows = self.Cast(self.Gather(weight, ids), to=TensorProto.FLOAT)
        return self.Mul(rows, self.Gather(scale, ids))

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        return self.Slice(x, self.constant([start]), self.constant([end]), self.constant([axis]))

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
        if len(sizes) == 1:
            return [x]
        return self.Split(x, self.constant(list(sizes)), axis=axis, outputs=len(sizes))

    def concat(self, parts: Sequence[str], axis: int) -> str:
        return parts[0] if len(parts) == 1 else self.Concat(*parts, axis=axis)

    def reshape(self, x: str, *shape: int) -> str:
        """As ONNX has it: 0 keeps the size that is there, -1 takes the rest."""
        return self.Reshape(x, self.constant(list(shape)))

    def layer_norm(self, x: str, size: int, name: str | None, scale: Make | None, bias: Make | None) -> str:
        """Over the last axis, of `size`; without a name, scale or bias it has none."""
        if name is None:
            return self.LayerNormalization(x, self.constant(np.ones(size), "float32"), axis=-1, epsilon=1e-5)
        weights = self.weight(f"{name}.weight", scale), self.weight(f"{name}.bias", bias)
        return self.LayerNormalization(x, *weights, axis=-1, epsilon=1e-5)

    def either(self, condition: str, then: Callable[[Graph], list[str]], otherwise: list[str]) -> list[str]:
        """`then`'s values, computed only where the scalar `condition` is true, else the values `otherwise`."""
        yes, no = Graph(self.int8, self), Graph(self.int8, self)
        for graph, values in ((yes, then(yes)), (no, otherwise)):
            for value in values:
                result = graph.Identity(value)
                graph.outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
        branches = {"then_branch": yes._proto("then"), "else_branch": no._proto("else")}
        found = self.If(condition, outputs=len(otherwise), **branches)
        return found if isinstance(found, list) else [found]

    def model(self, name: str, metadata: dict[str, Any]) -> onnx.ModelProto:
        """The checked model; metadata are stored as text."""
        graph = self._proto(name, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="residualformer")
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _proto(self, name: str, initializers: Sequence[TensorProto] = ()) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, initializers)

    def _store(self, name: str, make: Callable[[], np.ndarray]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(make()), name)
        return name

    def _quantised_weight(self, name: str, make: Make, axis: int) -> tuple[str, str]:
        """Names of a matrix in 8 bits and of its scales: of each column (axis 0, (N,)) or row (axis 1, (V, 1))."""
        names = f"{name}_quantized", f"{name}_scale"
        if names[0] not in self.initializers:
            matrix = make().detach().float().numpy()
            scale = np.maximum(np.abs(matrix).max(axis=axis, keepdims=axis == 1), 1e-12) / 127
            self._store(names[0], lambda: np.rint(matrix / scale).astype(np.int8))
            self._store(names[1], lambda: scale.astype(np.float32))
        return names
