"""TensorRT's Python module, which is optional, and the GPU that it runs on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

__all__ = ["API", "EngineError", "Gpu", "current_gpu", "import_tensorrt", "missing_names"]

# Of the module that is used here; a test compares it with the module, where there is one.
API = (
    "__version__",
    *("Logger.WARNING", "Logger.VERBOSE", "init_libnvinfer_plugins", "nptype"),
    *("Builder.create_network", "Builder.create_builder_config", "Builder.create_optimization_profile"),
    "Builder.build_serialized_network",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS",
    "NetworkDefinitionCreationFlag.PREFER_JIT_PYTHON_PLUGINS",
    *("OnnxParser.parse", "OnnxParser.num_errors", "OnnxParser.get_error"),
    *("ParserError.desc", "ParserError.node_name", "ParserError.node_operator"),
    *("IBuilderConfig.set_memory_pool_limit", "MemoryPoolType.WORKSPACE", "IBuilderConfig.builder_optimization_level"),
    *("IBuilderConfig.clear_flag", "BuilderFlag.TF32"),
    *("IBuilderConfig.add_optimization_profile", "IOptimizationProfile.set_shape"),
    *("IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", "IBuilderConfig.get_timing_cache"),
    "ITimingCache.serialize",
    *("Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context", "ICudaEngine.num_io_tensors"),
    *("ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_dtype"),
    "TensorIOMode.INPUT",
    *("IExecutionContext.set_input_shape", "IExecutionContext.get_tensor_shape"),
    *("IExecutionContext.set_tensor_address", "IExecutionContext.execute_async_v3"),
    *("plugin.register", "plugin.impl", "plugin.aot_impl", "plugin.autotune"),
    *("plugin.TensorDesc", "plugin.Tensor", "plugin.from_shape_expr", "plugin.AutoTuneCombination"),
    *("plugin.KernelLaunchParams", "plugin.SymIntExprs", "plugin.SymInt32"),
)
_OLDEST = (10, 12)  # strongly typed networks with everything that is used here


class EngineError(ValueError):
    """TensorRT cannot be used here, or an engine does not fit; the message says what to do."""


@dataclass(frozen=True)
class Gpu:
    """The GPU of this process.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, such as "9.0".
        device: in PyTorch.
    """

    name: str
    capability: str
    device: torch.device

    def in_order(self, enqueue: Callable[[int], None]) -> None:
        """Call ``enqueue`` with a stream whose work stands between what PyTorch has queued and what it will queue.

        It is not PyTorch's default stream, on which TensorRT would wait for the whole device.
        """
        current, own = torch.cuda.current_stream(self.device), self._own_stream
        own.wait_stream(current)
        enqueue(own.cuda_stream)
        current.wait_stream(own)

    def captured(self, enqueue: Callable[[int], None]) -> Callable[[], None]:
        """Call ``enqueue`` with a stream once for real, record it as a CUDA graph, and give what replays the graph.

        Raises:
            RuntimeError: something in it cannot be recorded.
        """
        self.in_order(enqueue)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            enqueue(torch.cuda.current_stream(self.device).cuda_stream)
        return graph.replay

    @functools.cached_property
    def _own_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)


def current_gpu() -> Gpu:
    """The GPU that PyTorch uses now.

    Raises:
        EngineError: there is none.
    """
    if not torch.cuda.is_available():
        raise EngineError("TensorRT needs a CUDA GPU and PyTorch sees none here: use the backend onnxruntime")
    index = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), f"{major}.{minor}", torch.device("cuda", index))


def import_tensorrt() -> ModuleType:
    """The module. Call :func:`current_gpu` first: without a GPU, TensorRT's runtime ends the process.

    Raises:
        EngineError: it is not installed, cannot be loaded, or is too old.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"TensorRT cannot be imported ({error}): install bev-deploy[trt], or use the backend onnxruntime"
        ) from None
    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    if version < _OLDEST:
        raise EngineError(f"TensorRT {tensorrt.__version__} is too old: install 10.12 or newer")
    return tensorrt


def missing_names(module: ModuleType) -> list[str]:
    """What of :data:`API` a module lacks."""
    return [name for name in API if not _has(module, name)]


def _has(owner: object, name: str) -> bool:
    first, _, rest = name.partition(".")
    return hasattr(owner, first) and (not rest or _has(getattr(owner, first), rest))
