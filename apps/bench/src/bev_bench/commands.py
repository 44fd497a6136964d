"""Which function does what an options class asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bev_bench import options
from bev_bench.data import measure_data
from bev_bench.engine import measure_engine
from bev_bench.flops import count_operations
from bev_bench.latency import measure_latency
from bev_bench.ops import measure_operators
from bev_bench.report import Report
from bev_bench.sequential import measure_sequential
from bev_bench.train import measure_training
from bev_bench.view_transform import measure_view_transform

__all__ = ["COMMANDS"]

COMMANDS: dict[type, Callable[[Any], Report]] = {
    options.LatencyOptions: measure_latency,
    options.SequentialOptions: measure_sequential,
    options.ViewTransformOptions: measure_view_transform,
    options.OpsOptions: measure_operators,
    options.FlopsOptions: count_operations,
    options.DataBenchOptions: measure_data,
    options.TrainBenchOptions: measure_training,
    options.EngineOptions: measure_engine,
}
