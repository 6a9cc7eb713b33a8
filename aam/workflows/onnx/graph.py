"""Building a graph of ONNX operators by name, in double precision.

Shapes: m samples to predict.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

OPSETS: Final = {"": 20, "ai.onnx.ml": 5}
"""Versions of the operators; trees in double precision came with the fifth."""
IR_VERSION: Final = 10
"""Of the file format; the oldest that these operators need, which most programs can read."""
SAMPLES: Final = "samples"
ZERO: Final = helper.make_tensor("zero", TensorProto.DOUBLE, [1], [0.0])


class Graph:
    """Operators, constants, inputs and outputs; every method gives the name of a value."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, width: int) -> str:
        """An input, double [m, width]."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, [SAMPLES, width]))
        return name

    def output(self, value: str, name: str, *width: int) -> None:
        """Give out a value, double [m] or [m, width]."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, [SAMPLES, *width]))

    def constant(self, values: NDArray[Any] | float | list[int]) -> str:
        """A constant: numbers are double, places int64."""
        array = np.asarray(values)
        kind = np.float64 if array.dtype.kind == "f" else np.bool_ if array.dtype.kind == "b" else np.int64
        tensor = numpy_helper.from_array(np.ascontiguousarray(array.astype(kind)).reshape(array.shape))
        same = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)  # each is written once
        if same not in self._constants:
            tensor.name = f"constant{len(self._constants)}"
            self._constants[same] = tensor
        name: str = self._constants[same].name
        return name

    def add(self, operator: str, *inputs: str | NDArray[Any] | float | list[int], **attributes: Any) -> str:
        """Apply an operator; what is no name among its inputs is a constant."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        value = f"{operator}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [value], **attributes))
        return value

    def sum_rows(self, values: str, keepdims: bool = True) -> str:
        """Sum over the columns: [m, n] -> [m, 1], or [m]."""
        return self.add("ReduceSum", values, [1], keepdims=int(keepdims))

    def trees(self, values: str, **attributes: Any) -> str:
        """Apply trees to features: [m, n] -> [m, K]."""
        name = f"TreeEnsemble{len(self._nodes)}"
        self._nodes.append(helper.make_node("TreeEnsemble", [values], [name], domain="ai.onnx.ml", **attributes))
        return name

    def model(self) -> ModelProto:
        """The whole, checked."""
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "aam", self._inputs, self._outputs, constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="aam")
        checker.check_model(model)
        return model
