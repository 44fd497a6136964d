"""What runs an exported model: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from .manifest import Manifest

__all__ = ["OnnxRuntimeSession", "Session"]


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
        providers = list(providers or ["CPUExecutionProvider"])
        missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
        if missing:
            raise ValueError(
                f"this ONNX Runtime has no {', '.join(missing)}, only "
                f"{', '.join(onnxruntime.get_available_providers())}: install onnxruntime-gpu, or leave it out"
            )
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / manifest.model), _options(manifest, threads), providers=providers
            )
        except Exception as error:  # ONNX Runtime has no base class of its own
            raise ValueError(f"ONNX Runtime refuses {folder / manifest.model}: {error}") from error
        self._outputs = [spec.name for spec in manifest.outputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Session`."""
        arrays = {name: _array(tensor) for name, tensor in inputs.items()}
        results = self._session.run(self._outputs, arrays)
        return {name: torch.from_numpy(result) for name, result in zip(self._outputs, results, strict=True)}


def _options(manifest: Manifest, threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    if manifest.precision == "fp16" and manifest.quantized:
        # Its rewriting of half-precision int8 graphs is wrong by up to a quarter on CPUs.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()
