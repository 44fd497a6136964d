"""int8 models: explicit QuantizeLinear and DequantizeLinear, calibrated on samples, sensitive layers left out."""

from .accuracy import AccuracyChange, Figure, compare_accuracy
from .layers import LeftOut
from .options import QuantizeOptions
from .quantize import quantize_model
from .report import LayerReport, QuantizationReport
from .samples import calibration_inputs

__all__ = [
    "AccuracyChange",
    "Figure",
    "LayerReport",
    "LeftOut",
    "QuantizationReport",
    "QuantizeOptions",
    "calibration_inputs",
    "compare_accuracy",
    "quantize_model",
]
