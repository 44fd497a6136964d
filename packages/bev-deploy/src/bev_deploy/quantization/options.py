"""What a quantisation can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Calibration", "QuantizeOptions"]

Calibration = Literal["trial", "percentile", "entropy", "minmax"]


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a model is quantised.

    Args:
        calibration: how far the eight bits of an activation reach. "minmax" reaches every value that was seen,
            "percentile" that share of them, "entropy" keeps the distribution as close as it can. "trial" takes for
            every activation the one of four percentiles that changes the results least; it runs the model four times
            as often.
        percentile: for "percentile", 50 to 100.
        max_error: layers are left out until no result of the model (the head's own outputs, and the state) changes by
            more than this: root mean square of the change over the standard deviation. None quantises all layers, and
            none is tried alone but for "trial".
        search_samples: samples that layers are tried on; as many runs of the model for each layer.
        matmul: linear layers of the backbone too, which transformers consist of.
        keep: modules that stay as they are, such as "backbone.body.stem" or "view_transform".
        threads: that one operator may use; ONNX Runtime's own choice if None.

    Raises:
        ValueError: a setting that makes no sense.
    """

    calibration: Calibration = "trial"
    percentile: float = 99.99
    max_error: float | None = 0.03
    search_samples: int = 2
    matmul: bool = False
    keep: tuple[str, ...] = ()
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.calibration not in get_args(Calibration):
            raise ValueError(f"calibration must be one of {', '.join(get_args(Calibration))}, got {self.calibration!r}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must lie above 50 and reach 100 at most, got {self.percentile}")
        if self.max_error is not None and self.max_error <= 0:
            raise ValueError(f"max_error must be positive, or None for no search, got {self.max_error}")
        if self.search_samples < 1:
            raise ValueError(f"search_samples must be at least 1, got {self.search_samples}")
