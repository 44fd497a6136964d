"""ONNX export, quantisation and engines of bird's-eye-view detectors, with their state."""

from .detector import DeployedDetector, load
from .export import ExportOptions, export_model
from .feed import Feed
from .lint import lint_for_tensorrt
from .manifest import Manifest, ManifestError
from .quantization import (
    AccuracyChange,
    Figure,
    LayerReport,
    LeftOut,
    QuantizationReport,
    QuantizeOptions,
    calibration_inputs,
    compare_accuracy,
    quantize_model,
)
from .session import OnnxRuntimeSession, Session
from .signature import TensorSpec
from .stream import DeployedStream
from .tables import PoolTables, TableBounds, TableOverflowError, pool_tables
from .tensorrt import BuildOptions, EngineError, EngineMetadata, EngineSession, build_engine, engine_metadata
from .verify import OutputError, output_errors

__all__ = [
    "AccuracyChange",
    "BuildOptions",
    "DeployedDetector",
    "DeployedStream",
    "EngineError",
    "EngineMetadata",
    "EngineSession",
    "ExportOptions",
    "Feed",
    "Figure",
    "LayerReport",
    "LeftOut",
    "Manifest",
    "ManifestError",
    "OnnxRuntimeSession",
    "OutputError",
    "PoolTables",
    "QuantizationReport",
    "QuantizeOptions",
    "Session",
    "TableBounds",
    "TableOverflowError",
    "TensorSpec",
    "build_engine",
    "calibration_inputs",
    "compare_accuracy",
    "engine_metadata",
    "export_model",
    "lint_for_tensorrt",
    "load",
    "output_errors",
    "pool_tables",
    "quantize_model",
]
