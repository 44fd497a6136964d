"""Running graphs that were never written to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from torch import Tensor

from ..session import LEFT_OUT_OF_INT8, session_options

__all__ = ["Runner"]


class Runner:
    """A graph in ONNX Runtime of which chosen tensors can be fetched.

    Args:
        model: the graph; left as it is.
        fetched: names of the tensors.
        threads: that one operator may use; ONNX Runtime's own choice if None.
    """

    def __init__(self, model: onnx.ModelProto, fetched: Sequence[str], *, threads: int | None = None) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        more = set(fetched) - {output.name for output in model.graph.output}
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(more))
        half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
        self._session = onnxruntime.InferenceSession(
            tapped.SerializeToString(),
            session_options(threads, int8_in_half_precision=half),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=LEFT_OUT_OF_INT8,
        )

    def __call__(self, inputs: Mapping[str, Tensor | np.ndarray], fetched: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the graph as far as these tensors need it."""
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return dict(zip(fetched, self._session.run(list(fetched), arrays), strict=True))
