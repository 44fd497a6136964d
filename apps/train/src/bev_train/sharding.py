"""Weights, gradients and optimiser state shared out between processes (PyTorch's FSDP2, ``fully_shard``)."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from bev_train.stages import stages

__all__ = ["ShardedStrategy", "is_sharded", "local", "shard", "share_of", "whole"]


class ShardedStrategy(ModelParallelStrategy):
    """Every process holds its share of every weight; checkpoints are whole, in one file, as without sharding."""

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share a model out in place: every stage on its own, so that one stage at a time is whole; the rest together."""
    for stage in stages(model):
        fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "loss")  # training calls this one


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was applied to a model."""
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; it shares the tensor's memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share_of(whole_tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process would hold if it were shared out as ``like`` is; a copy."""
    if not isinstance(like, DTensor):
        return whole_tensor.detach().clone().to(like.device)
    moved = whole_tensor.detach().to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements).to_local().clone()


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor of which every process holds a part as of ``like``; every process must call this."""
    if not isinstance(like, DTensor):
        return part
    shape = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, **shape).full_tensor()
