"""Stands in for TensorRT and a GPU: the calls that bev_deploy.tensorrt makes, with ONNX Runtime behind them.

It shows that our side of the bargain is kept: what is asked of the builder, what is handed over at which address, and
what becomes of it. It does not show what TensorRT makes of a model.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from bev_deploy import plugin_node

REFUSED = "Unique"  # an operator that this parser does not take


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1
    PREFER_AOT_PYTHON_PLUGINS = 2
    PREFER_JIT_PYTHON_PLUGINS = 3


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class Logger:
    WARNING, VERBOSE = 2, 4

    def __init__(self, severity: int) -> None:
        self.severity = severity


@dataclass
class Network:
    flags: int
    model: bytes = b""


@dataclass
class Profile:
    shapes: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"timed"


class Config:
    def __init__(self) -> None:
        self.limits: dict[Any, int] = {}
        self.flags = {"tf32"}  # set at first, as in TensorRT
        self.builder_optimization_level = 3
        self.profile = Profile()
        self.cache = TimingCache(b"")

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, kind: Any, size: int) -> None:
        self.limits[kind] = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profile = profile
        ordered = (all(a <= b <= c for a, b, c in zip(*shapes, strict=True)) for shapes in profile.shapes.values())
        return 0 if all(ordered) else -1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"of another GPU"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self.cache


class Parser:
    def __init__(self, network: Network, logger: Logger) -> None:
        self.network = network
        self.errors: list[SimpleNamespace] = []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> SimpleNamespace:
        return self.errors[index]

    def parse(self, content: bytes) -> bool:
        for node in onnx.load_from_string(content).graph.node:
            if node.op_type == REFUSED:
                named = {"node_operator": node.op_type, "node_name": node.name, "desc": "not\nsupported"}
                self.errors.append(SimpleNamespace(**{key: lambda text=text: text for key, text in named.items()}))
        self.network.model = content
        return not self.errors


class Builder:
    made: list[Builder] = []  # noqa: RUF012 — of one test, in order
    fails = False

    def __init__(self, logger: Logger) -> None:
        self.logger, self.config, self.network = logger, Config(), Network(0)
        self.made.append(self)

    def create_network(self, flags: int) -> Network:
        self.network = Network(flags)
        return self.network

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        return None if self.fails else pickle.dumps((network.model, config.profile.shapes))


class Context:
    def __init__(self, session: onnxruntime.InferenceSession, profile: dict[str, tuple[tuple[int, ...], ...]]) -> None:
        self.session, self.profile = session, profile
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.sizes: dict[str, int] = {}  # by their names in the model

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name in self.profile:
            least, _, most = self.profile[name]
            if not all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True)):
                return False
        listed = next(value.shape for value in self.session.get_inputs() if value.name == name)
        self.sizes |= {key: size for key, size in zip(listed, shape, strict=True) if isinstance(key, str)}
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        listed = next(value.shape for value in self.session.get_outputs() if value.name == name)
        # Sizes that depend on the inputs' are formulas such as "(s60//4096)".
        return tuple(eval(size, {}, self.sizes) if isinstance(size, str) else size for size in listed)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        given = {
            value.name: _at(self.addresses[value.name], self.shapes[value.name], _numpy_type(value.type)).copy()
            for value in self.session.get_inputs()
        }
        listed = self.session.get_outputs()
        for value, result in zip(listed, self.session.run(None, given), strict=True):
            _at(self.addresses[value.name], result.shape, result.dtype)[...] = result
        return True


class Engine:
    def __init__(self, plan: bytes) -> None:
        content, self.profile = pickle.loads(plan)
        model = onnx.load_from_string(content)
        if any(node.op_type == plugin_node.PLUGIN_NAME for node in model.graph.node) and not model.functions:
            model.functions.append(plugin_node._body(18))  # what the plugin's kernel would compute
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.inputs = {value.name: value.type for value in self.session.get_inputs()}
        self.outputs = {value.name: value.type for value in self.session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return (self.inputs | self.outputs)[name]

    def create_execution_context(self) -> Context:
        return Context(self.session, self.profile)


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        try:
            return Engine(plan)
        except pickle.UnpicklingError:
            return None


@dataclass
class FakeGpu:
    """In place of :class:`bev_deploy.tensorrt.bindings.Gpu`, on the CPU."""

    name: str = "Fake GPU"
    capability: str = "9.0"
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    records: bool = True
    queued: int = 0  # calls that were queued one kernel at a time
    replayed: int = 0

    def in_order(self, enqueue: Callable[[int], None]) -> None:
        self.queued += 1
        enqueue(7)

    def captured(self, enqueue: Callable[[int], None]) -> Callable[[], None]:
        enqueue(7)
        if not self.records:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay() -> None:
            self.replayed += 1
            enqueue(9)

        return replay


def fake_modules() -> dict[str, ModuleType]:
    """For sys.modules."""
    tensorrt, plugins = ModuleType("tensorrt"), ModuleType("tensorrt.plugin")
    known = (NetworkDefinitionCreationFlag, TensorIOMode, Logger, Builder, Runtime)
    tensorrt.__dict__.update({item.__name__: item for item in known})
    tensorrt.__dict__.update(
        __version__="10.12.0.36",
        OnnxParser=Parser,
        BuilderFlag=SimpleNamespace(TF32="tf32"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        init_libnvinfer_plugins=lambda logger, namespace: True,
        nptype=lambda kind: _numpy_type(kind).type,
        float32="float32",
        float16="float16",
        plugin=plugins,
    )
    plugins.__dict__.update({name: type(name, (), {}) for name in ("TensorDesc", "Tensor", "AutoTuneCombination")})
    plugins.__dict__.update({name: type(name, (), {}) for name in ("KernelLaunchParams", "SymIntExprs", "SymInt32")})
    plugins.registered = {}
    for kind in ("register", "impl", "aot_impl", "autotune"):
        setattr(plugins, kind, _registrar(plugins.registered, kind))
    return {"tensorrt": tensorrt, "tensorrt.plugin": plugins}


def _registrar(registered: dict[str, Any], kind: str) -> Callable[..., Any]:
    def register(plugin_id: str, **_: object) -> Callable[..., Any]:
        return lambda function: registered.setdefault((plugin_id, kind), function)

    return register


def _numpy_type(text: str) -> np.dtype:
    """Of "tensor(float)"."""
    kind = onnx.TensorProto.DataType.Value(text.removeprefix("tensor(").removesuffix(")").upper())
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def _at(address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).reshape(shape)
