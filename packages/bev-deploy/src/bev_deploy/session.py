"""What runs an exported model: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from .manifest import Manifest

__all__ = ["LEFT_OUT_OF_INT8", "DeviceChoice", "OnnxRuntimeSession", "Session", "providers_on", "session_options"]

DeviceChoice = Literal["auto", "cpu", "cuda"]

# What ONNX Runtime may not do to int8 models: it would round biases, which they keep in float for a reason.
LEFT_OUT_OF_INT8 = ["WeightBiasQuantization"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Session(Protocol):
    """One loaded model."""

    @property
    def device(self) -> torch.device:
        """Where inputs are wanted and outputs lie."""

    @property
    def fixed_tables(self) -> bool:
        """Whether pooling tables must have the sizes of the manifest's bounds."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model once: every input of the manifest, by name -> every output, by name."""


class OnnxRuntimeSession:
    """A model in ONNX Runtime.

    Args:
        folder: of the export.
        manifest: of that folder.
        providers: execution providers, in order of preference; ONNX Runtime's CPU provider if None.
        threads: that one operator may use; ONNX Runtime's own choice if None.

    Raises:
        ValueError: a provider that this installation lacks, or a model that ONNX Runtime refuses.
    """

    device = torch.device("cpu")
    fixed_tables = False

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        providers = list(providers or [_CPU])
        missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
        if missing:
            raise ValueError(
                f"this ONNX Runtime has no {', '.join(missing)}, only "
                f"{', '.join(onnxruntime.get_available_providers())}: install onnxruntime-gpu, or leave it out"
            )
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / manifest.model),
                session_options(threads, int8_in_half_precision=manifest.quantized and manifest.precision == "fp16"),
                providers=providers,
                disabled_optimizers=LEFT_OUT_OF_INT8 if manifest.quantized else None,
            )
        except Exception as error:  # ONNX Runtime has no base class of its own
            raise ValueError(f"ONNX Runtime refuses {folder / manifest.model}: {error}") from error
        unused = set(providers) - set(self._session.get_providers())
        if unused:
            raise ValueError(f"ONNX Runtime cannot start {', '.join(sorted(unused))} here: run it on the CPU")
        self._outputs = [spec.name for spec in manifest.outputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Session`."""
        arrays = {name: _array(tensor) for name, tensor in inputs.items()}
        results = self._session.run(self._outputs, arrays)
        return {name: torch.from_numpy(result) for name, result in zip(self._outputs, results, strict=True)}


def providers_on(device: DeviceChoice) -> list[str]:
    """Execution providers for a device; "auto" takes a GPU if there is one that ONNX Runtime can use.

    Raises:
        ValueError: "cuda" where ONNX Runtime finds none.
    """
    usable = _CUDA in onnxruntime.get_available_providers() and torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise ValueError("ONNX Runtime finds no GPU: install onnxruntime-gpu on a machine that has one, or use the CPU")
    return [_CUDA, _CPU] if usable and device != "cpu" else [_CPU]


def session_options(threads: int | None, *, int8_in_half_precision: bool) -> onnxruntime.SessionOptions:
    """How ONNX Runtime is to run a graph; ``threads`` per operator, its own choice if None."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    if int8_in_half_precision:
        # Its rewriting of half-precision int8 graphs is wrong by up to a quarter on CPUs.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()
