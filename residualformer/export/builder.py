"""ONNX graphs written node by node, in which a shared weight is a single initializer.

Tracing exporters copy shared matrices where they transpose or fold them, and quantizing their files copies or skips
them. Here a weight is requested by name and stored the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from residualformer.runtime.settings import Size
from residualformer.runtime.weights import quantized

OPSET, IR = 17, 8  # old enough for the onnxruntime of every sherpa-onnx of the last years
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}


class Graph:
    """An ONNX graph under construction; its values are known by their names.

    Args:
        int8: store matrices and embeddings in 8 bits, with a scale for each column or row, and multiply with
            MatMulInteger, which quantizes the other factor at run time.
        parent: the graph in which this one is a branch; initializers and numbers of nodes are shared.
    """

    def __init__(self, int8: bool = False, parent: Graph | None = None) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, TensorProto] = {} if parent is None else parent.initializers
        self._count: list[int] = [0] if parent is None else parent._count
        self._quantized: dict[str, list[str]] = {} if parent is None else dict(parent._quantized)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of an ONNX operator with one output; return the output."""
        [output] = self.ops(kind, *inputs, num_outputs=1, **attributes)
        return output

    def ops(self, kind: str, *inputs: str, num_outputs: int, **attributes: Any) -> list[str]:
        """Append a node of an ONNX operator; return its outputs."""
        self._count[0] += 1
        name = f"{kind}_{self._count[0]}"
        outputs = [f"{name}_{i}" for i in range(num_outputs)] if num_outputs > 1 else [name]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs

    def input(self, name: str, dtype: str, shape: Sequence[Size]) -> str:
        """Declare an input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: Sequence[Size]) -> None:
        """Declare `value` as an output of the graph, under `name`."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

    def constant(self, value: Any, dtype: str = "int64") -> str:
        """Store a constant that is not a weight; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype)
        content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return self._store("_".join(["constant", dtype, *map(str, array.shape), content]), lambda: array)

    def weight(self, name: str, value: Tensor) -> str:
        """Store a weight under `name`, unless there is one already."""
        return self._store(name, lambda: value.detach().float().contiguous().numpy())

    def linear(self, x: str, name: str, matrix: Tensor, bias: Tensor | None) -> str:
        """Multiply x (..., M) by the matrix (M, N), stored as `name`.weight, and add the bias (N,), `name`.bias."""
        y = self.matmul(x, f"{name}.weight", matrix)
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", bias))

    def matmul(self, x: str, name: str, matrix: Tensor) -> str:
        """Multiply x (..., M) by the matrix (M, N), stored as `name`."""
        if not self.int8:
            return self.op("MatMul", x, self.weight(name, matrix))
        weight, scale = self._quantized_weight(name, matrix, axis=0)
        if x not in self._quantized:  # queries, keys and values are projections of the same
            self._quantized[x] = self.ops("DynamicQuantizeLinear", x, num_outputs=3)
        values, x_scale, x_zero = self._quantized[x]
        product = self.op("MatMulInteger", values, weight, x_zero)
        return self.op("Mul", self.op("Cast", product, to=TensorProto.FLOAT), self.op("Mul", x_scale, scale))

    def embedding(self, ids: str, name: str, table: Tensor) -> str:
        """Look up rows (N, ..., E) of a table (V, E) at ids (N, ...)."""
        if not self.int8:
            return self.op("Gather", self.weight(name, table), ids)
        weight, scale = self._quantized_weight(name, table, axis=1)
        rows = self.op("Cast", self.op("Gather", weight, ids), to=TensorProto.FLOAT)
        return self.op("Mul", rows, self.op("Gather", scale, ids))

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        """Take the positions `start` to `end`, exclusive, of an axis."""
        return self.op("Slice", x, self.constant([start]), self.constant([end]), self.constant([axis]))

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """Split along an axis into parts of these sizes."""
        if len(sizes) == 1:
            return [x]
        return self.ops("Split", x, self.constant(list(sizes)), axis=axis, num_outputs=len(sizes))

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Concatenate along an axis."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape as ONNX does: 0 keeps the size of that axis, -1 takes the rest."""
        return self.op("Reshape", x, self.constant(list(shape)))

    def layer_norm(self, x: str, scale: str, bias: str | None = None) -> str:
        """Normalize the last axis to mean 0 and variance 1, then apply scale and bias, each of its size."""
        weights = [scale] if bias is None else [scale, bias]
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=1e-5)

    def branch(self) -> Graph:
        """Return an empty graph that can be a branch of `either` in this one; it sees this one's values."""
        return Graph(self.int8, parent=self)

    def either(self, condition: str, then: Graph, values: Sequence[str], otherwise: Sequence[str]) -> list[str]:
        """Return the `values` of the branch `then`, run only if the scalar `condition` is true, or else `otherwise`."""
        alternative = self.branch()
        then._return(values)
        alternative._return(otherwise)
        branches = {"then_branch": then._proto("then"), "else_branch": alternative._proto("else")}
        return self.ops("If", condition, num_outputs=len(otherwise), **branches)

    def model(self, name: str, metadata: dict[str, Any]) -> onnx.ModelProto:
        """Return the checked model; metadata are stored as text."""
        graph = self._proto(name, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="residualformer")
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _return(self, values: Sequence[str]) -> None:
        """Declare the outputs of a branch."""
        for value in values:
            result = self.op("Identity", value)
            self.outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))

    def _proto(self, name: str, initializers: Sequence[TensorProto] = ()) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, initializers)

    def _store(self, name: str, make: Callable[[], np.ndarray]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(make()), name)
        return name

    def _quantized_weight(self, name: str, value: Tensor, axis: int) -> tuple[str, str]:
        """Store a matrix in 8 bits and its scales, one for each column (axis 0) or row (axis 1); return their names."""
        names = f"{name}_quantized", f"{name}_scale"
        if names[0] not in self.initializers:
            matrix, scale = quantized(value.detach().float().numpy(), axis)
            self._store(names[0], lambda: matrix)
            self._store(names[1], lambda: scale)
        return names
