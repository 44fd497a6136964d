"""A TensorRT engine as a :class:`bev_deploy.session.Session`: PyTorch's CUDA tensors in and out."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bev_deploy.manifest import Manifest
from bev_deploy.signature import TensorSpec

from .bindings import EngineError, Gpu, current_gpu, import_tensorrt
from .metadata import ENGINE_NAME, engine_metadata
from .plugin import register_plugin

__all__ = ["EngineSession"]

_MOST_GRAPHS = 4  # sets of shapes; each has memory of its own
_TABLES = "pool_"


class EngineSession:
    """An engine that ``bev-deploy build`` made on this machine.

    Inputs may lie anywhere; those on the GPU are read where they are. With a CUDA graph, they are copied into fixed
    buffers first, except pooling tables that are the same tensors as in the call before, and results are copied out of
    fixed buffers: kernels are launched all at once instead of one by one. Either way results belong to the caller, and
    later calls leave them alone. Work is queued in the order of PyTorch's current stream; nothing here waits for it.

    Args:
        folder: of the export and the engine.
        manifest: of that folder.
        cuda_graph: record the engine's work once per set of input shapes, and replay it.

    Raises:
        EngineError: no GPU, no TensorRT, no engine, or one for another GPU, TensorRT, model or calibration bounds.
    """

    fixed_tables = True

    def __init__(self, folder: str | Path, manifest: Manifest, *, cuda_graph: bool = True) -> None:
        self._gpu = current_gpu()
        tensorrt = import_tensorrt()
        metadata = engine_metadata(folder)
        metadata.check(manifest, self._gpu, tensorrt.__version__)
        if metadata.plugin == "callback":
            register_plugin(tensorrt)
        self.manifest = manifest
        self.cuda_graph = cuda_graph
        self._runtime, self._engine = _loaded(tensorrt, Path(folder) / ENGINE_NAME)
        self._inputs, self._outputs = _specs(tensorrt, self._engine, manifest)
        self._graphs: OrderedDict[tuple[tuple[int, ...], ...], _Recorded] = OrderedDict()
        self._context: Any = None  # made when something runs without a graph: it takes memory

    @property
    def device(self) -> torch.device:
        """Where results lie."""
        return self._gpu.device

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`bev_deploy.session.Session`.

        Raises:
            ValueError: an input is missing, or of another type or shape than the engine takes.
        """
        given = {spec.name: _given(inputs, spec) for spec in self._inputs}
        if self.cuda_graph:
            recorded = self._recorded(given)
            if recorded is not None:
                return recorded(given)
        return self._run(given)

    def _run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without a graph: in place, results in new memory."""
        if self._context is None:
            self._context = _context(self._engine)
        placed = {name: tensor.to(self.device, non_blocking=True).contiguous() for name, tensor in given.items()}
        results = _bound(self._context, placed, self._outputs)
        self._gpu.in_order(lambda stream: _enqueue(self._context, stream))
        return results

    def _recorded(self, given: Mapping[str, Tensor]) -> _Recorded | None:
        """The graph of these shapes; None if this engine cannot be recorded, which is tried once."""
        shapes = tuple(tuple(tensor.shape) for tensor in given.values())
        if shapes not in self._graphs:
            try:
                self._graphs[shapes] = _Recorded(self._engine, self._gpu, given, self._outputs)
            except RuntimeError as error:
                warnings.warn(f"this engine runs without a CUDA graph, which failed: {error}", stacklevel=3)
                self.cuda_graph = False
                return None
            if len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shapes)
        return self._graphs[shapes]


class _Recorded:
    """The work of an engine for one set of shapes, between fixed buffers.

    Its context is its own: the scratch memory that was recorded must not serve other shapes.
    """

    def __init__(self, engine: Any, gpu: Gpu, given: Mapping[str, Tensor], outputs: list[TensorSpec]) -> None:
        self._context = _context(engine)
        # Buffers made in inference mode could be filled in inference mode only.
        with torch.inference_mode(False):
            self._inputs = {name: torch.empty(t.shape, dtype=t.dtype, device=gpu.device) for name, t in given.items()}
        self._tables: dict[str, tuple[Tensor, int] | None] = {}  # as they were copied last
        self._outputs = _bound(self._context, self._inputs, outputs)
        self._copy(given)
        self._replay: Callable[[], None] = gpu.captured(lambda stream: _enqueue(self._context, stream))

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._copy(given)
        self._replay()
        return {name: buffer.clone() for name, buffer in self._outputs.items()}

    def _copy(self, given: Mapping[str, Tensor]) -> None:
        for name, tensor in given.items():
            if not self._holds(name, tensor):
                self._inputs[name].copy_(tensor, non_blocking=True)
            # Tables only: an image buffer may be filled by what PyTorch does not see. Tensors of inference mode do not
            # count their changes.
            if name.startswith(_TABLES):
                self._tables[name] = None if tensor.is_inference() else (tensor, tensor._version)

    def _holds(self, name: str, tensor: Tensor) -> bool:
        """Whether this very tensor, unchanged since, was copied before."""
        before = self._tables.get(name)
        return before is not None and before[0] is tensor and before[1] == tensor._version


def _loaded(tensorrt: ModuleType, path: Path) -> tuple[Any, Any]:
    """TensorRT's runtime, which must outlive the engine, and the engine."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error}): build it again with bev-deploy build") from None
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(logger, "")
    runtime = tensorrt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"TensorRT cannot load {path}: build it again with bev-deploy build")
    return runtime, engine


def _context(engine: Any) -> Any:
    context = engine.create_execution_context()
    if context is None:
        raise EngineError("TensorRT could not make room for running the engine: free some memory of the GPU")
    return context


def _specs(tensorrt: ModuleType, engine: Any, manifest: Manifest) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """What goes in and what comes out, compared with the manifest. Inputs that nothing reads may have been dropped."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    taken = {name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT}
    given = set(names) - taken
    unknown = sorted(taken - {spec.name for spec in manifest.inputs})
    lacking = sorted({spec.name for spec in manifest.outputs} - given)
    specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.outputs)}
    types = {name: tensorrt.nptype(engine.get_tensor_dtype(name)).__name__.rstrip("_") for name in names}
    other = [name for name in names if name in specs and types[name] != specs[name].dtype]
    if unknown or lacking or other:
        raise EngineError(
            f"the engine does not fit its manifest (inputs too many: {unknown or 'none'}, outputs missing: "
            f"{lacking or 'none'}, other types: {other or 'none'}): build it again with bev-deploy build"
        )
    return [spec for spec in manifest.inputs if spec.name in taken], list(manifest.outputs)


def _given(inputs: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
    tensor = inputs.get(spec.name)
    if tensor is None:
        raise ValueError(f"input {spec.name} is missing: the engine takes every input of its manifest")
    wanted = getattr(torch, spec.dtype)
    sizes = [size if isinstance(size, int) else given for size, given in zip(spec.shape, tensor.shape, strict=False)]
    if tensor.dtype != wanted or list(tensor.shape) != sizes or tensor.ndim != len(spec.shape):
        raise ValueError(
            f"input {spec.name} must be {spec.dtype} {spec.shape}, got {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor


def _bound(context: Any, inputs: Mapping[str, Tensor], outputs: list[TensorSpec]) -> dict[str, Tensor]:
    """Give a context its inputs, and new tensors for its outputs."""
    for name, tensor in inputs.items():
        if not context.set_input_shape(name, tuple(tensor.shape)):
            raise ValueError(
                f"the engine was not built for input {name} of shape {tuple(tensor.shape)}: build it with "
                "a larger max_batch, or export with a larger --table-margin"
            )
        context.set_tensor_address(name, tensor.data_ptr())
    device = next(iter(inputs.values())).device
    results = {}
    for spec in outputs:
        shape = tuple(context.get_tensor_shape(spec.name))
        results[spec.name] = torch.empty(shape, dtype=getattr(torch, spec.dtype), device=device)
        context.set_tensor_address(spec.name, results[spec.name].data_ptr())
    return results


def _enqueue(context: Any, stream: int) -> None:
    if not context.execute_async_v3(stream):
        raise RuntimeError("TensorRT could not queue the engine's work: its own messages say why")
