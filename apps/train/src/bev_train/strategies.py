"""What Lightning is told about processes: how they share the work, and what a batch system may do."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from bev_train.sharding import ShardedStrategy

__all__ = ["build_strategy", "cluster_plugins"]


def build_strategy(name: Literal["auto", "ddp", "fsdp"]) -> Strategy | str:
    """How processes share the work.

    Raises:
        ValueError: an unknown name.
    """
    if name == "auto":
        return "auto"
    if name == "ddp":
        return DDPStrategy()
    if name == "fsdp":
        return ShardedStrategy()
    raise ValueError(f"--strategy must be auto, ddp or fsdp, got {name!r}")


def cluster_plugins() -> list[SLURMEnvironment]:
    """Under SLURM's srun: its processes, without Lightning's own requeueing, which knows nothing of our checkpoints."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
