"""Pooling as a TensorRT plugin: a node ``bev::bev_pool`` of an ONNX file becomes the kernel of this package.

TensorRT's "quickly deployable" plugins are Python functions that it asks at build time. Ahead of time, it takes PTX and
how to launch it, and the engine runs without Python; as a callback, it calls Python at every run.

Source: documentation and bindings of TensorRT 10.16 and 11.4, module ``tensorrt.plugin``. TensorRT reads the functions'
signatures, so that they are made from the names of the node's inputs and attributes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from bev_deploy.plugin_node import PLUGIN_ATTRIBUTES, PLUGIN_DOMAIN, PLUGIN_INPUTS, PLUGIN_NAME

from .kernel import KERNELS, THREADS, PoolKernel, blocks_of, pool_ptx, sizes_of

__all__ = ["PLUGIN_ID", "PoolPlugin", "register_plugin"]

PLUGIN_ID = f"{PLUGIN_DOMAIN}::{PLUGIN_NAME}"
_COUNT = len(PLUGIN_INPUTS)
_registered: list[ModuleType] = []


def register_plugin(tensorrt: ModuleType, *, lazily: bool = False) -> None:
    """Make the plugin known to TensorRT, once per process.

    Args:
        tensorrt: the module.
        lazily: leave TensorRT's own registry alone, which needs its libraries.
    """
    if tensorrt in _registered:
        return
    import tensorrt.plugin as plugins

    plugin = PoolPlugin(tensorrt, plugins)
    plugins.register(PLUGIN_ID, lazy_register=lazily)(plugin.description())
    plugins.impl(PLUGIN_ID)(plugin.callback())
    plugins.aot_impl(PLUGIN_ID)(plugin.ahead_of_time())
    plugins.autotune(PLUGIN_ID)(plugin.types())
    _registered.append(tensorrt)


class PoolPlugin:
    """The four functions of the plugin.

    Args:
        tensorrt: the module.
        plugins: its module ``plugin``.
    """

    def __init__(self, tensorrt: ModuleType, plugins: ModuleType) -> None:
        self._names = {tensorrt.float32: "float32", tensorrt.float16: "float16"}
        self._plugins = plugins

    def description(self) -> Callable[..., Any]:
        """Type and shape of the output (B, Z, Y, X, C)."""
        plugins = self._plugins

        def describe(*tensors: Any, cells_x: int, cells_y: int, cells_z: int) -> Any:
            depth, columns = tensors[:2]
            shape = (depth.shape_expr[0], cells_z, cells_y, cells_x, columns.shape_expr[4])
            return plugins.from_shape_expr(shape, dtype=depth.dtype)

        tensors = dict.fromkeys(PLUGIN_INPUTS, plugins.TensorDesc)
        return _signed(describe, tensors | dict.fromkeys(PLUGIN_ATTRIBUTES, int), plugins.TensorDesc)

    def callback(self) -> Callable[..., Any]:
        """Runs the kernel at the given addresses."""
        names, plugins = self._names, self._plugins

        def run(*tensors: Any, stream: int) -> None:
            *inputs, outputs = tensors
            import torch  # the engine runs on PyTorch's current device

            kernel = PoolKernel.on_device(names[inputs[0].dtype], torch.cuda.current_device())
            addresses = [tensor.data_ptr for tensor in inputs]
            kernel(addresses, [tuple(tensor.shape) for tensor in inputs], outputs[0].data_ptr, stream)

        tensors = dict.fromkeys(PLUGIN_INPUTS, plugins.Tensor)
        return _signed(run, {**tensors, "outputs": _of(tuple, plugins.Tensor), "stream": int}, None)

    def ahead_of_time(self) -> Callable[..., Any]:
        """Name and PTX of the kernel, how it is launched, and the integers between its inputs and its output."""
        names, plugins = self._names, self._plugins

        def compile_kernel(*tensors_and_more: Any) -> Any:
            inputs = tensors_and_more[:_COUNT]
            shapes = [tuple(tensor.shape_expr) for tensor in inputs]
            launch = plugins.KernelLaunchParams()
            launch.grid_x, launch.grid_y = blocks_of(shapes)
            launch.block_x = THREADS
            sizes = [plugins.SymInt32(size) for size in sizes_of(shapes)]
            return KERNELS[names[inputs[0].dtype]], pool_ptx(), launch, plugins.SymIntExprs.from_tuple(sizes)

        parameters = dict.fromkeys(PLUGIN_INPUTS, plugins.TensorDesc) | dict.fromkeys(PLUGIN_ATTRIBUTES, int)
        parameters |= {"outputs": _of(tuple, plugins.TensorDesc), "tactic": int}
        result = _of(tuple, str, str, plugins.KernelLaunchParams, plugins.SymIntExprs)
        return _signed(compile_kernel, parameters, result)

    def types(self) -> Callable[..., Any]:
        """Weights, features and sums share a type; tables are int32."""
        plugins = self._plugins

        def combinations(*_: Any) -> Any:
            choice = plugins.AutoTuneCombination()
            choice.pos([0, 1, _COUNT], "FP32|FP16")
            choice.pos(list(range(2, _COUNT)), "INT32")
            return [choice]

        tensors = dict.fromkeys(PLUGIN_INPUTS, plugins.TensorDesc)
        parameters = {**tensors, "outputs": _of(tuple, plugins.TensorDesc)}
        return _signed(combinations, parameters, _of(list, plugins.AutoTuneCombination))


def _signed(function: Callable[..., Any], parameters: dict[str, Any], result: Any) -> Callable[..., Any]:
    """The function with these parameters to whoever asks for its signature."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    listed = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = inspect.Signature(listed, return_annotation=result)  # type: ignore[attr-defined]
    return function


def _of(container: Any, *kinds: type) -> Any:
    """Such as tuple[int], of types that are known at run time only."""
    return container[kinds]
