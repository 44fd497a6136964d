"""ONNX export, quantisation and engines of bird's-eye-view detectors, with their state."""

from .detector import DeployedDetector, load
from .export import ExportOptions, export_model
from .feed import Feed
from .manifest import Manifest, ManifestError
from .session import OnnxRuntimeSession, Session
from .signature import TensorSpec
from .stream import DeployedStream
from .tables import PoolTables, TableBounds, TableOverflowError, pool_tables

__all__ = [
    "DeployedDetector",
    "DeployedStream",
    "ExportOptions",
    "Feed",
    "Manifest",
    "ManifestError",
    "OnnxRuntimeSession",
    "PoolTables",
    "Session",
    "TableBounds",
    "TableOverflowError",
    "TensorSpec",
    "export_model",
    "load",
    "pool_tables",
]
