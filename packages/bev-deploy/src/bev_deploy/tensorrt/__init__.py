"""TensorRT: engines of exported models, and running them."""

from .bindings import EngineError
from .builder import BuildOptions, build_engine
from .engine import EngineSession
from .latency import Latency, latency, step_inputs
from .metadata import EngineMetadata, PluginKind, engine_metadata

__all__ = [
    "BuildOptions",
    "EngineError",
    "EngineMetadata",
    "EngineSession",
    "Latency",
    "PluginKind",
    "build_engine",
    "engine_metadata",
    "latency",
    "step_inputs",
]
