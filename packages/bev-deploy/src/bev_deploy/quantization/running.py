"""Running graphs that were never written to a file, and showing how far it went."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from torch import Tensor
from tqdm import tqdm

from ..session import LEFT_OUT_OF_INT8

__all__ = ["Runner", "progress"]


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
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            options.intra_op_num_threads = threads
        if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
            # Its rewriting of half-precision int8 graphs is wrong by up to a quarter on CPUs.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            tapped.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=LEFT_OUT_OF_INT8,
        )

    def __call__(self, inputs: Mapping[str, Tensor | np.ndarray], fetched: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the graph as far as these tensors need it."""
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return dict(zip(fetched, self._session.run(list(fetched), arrays), strict=True))


def progress(total: int | None, title: str, unit: str) -> tqdm:
    """A bar with the time left; a line every half minute where there is no terminal."""
    return tqdm(total=total, desc=title, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 30)
