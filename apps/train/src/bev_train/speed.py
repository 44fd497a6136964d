"""How the network is computed: precision of the head, layout, compilation, what is kept for the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from bev_train.options import TrainOptions
from bev_train.stages import stages

__all__ = ["prepare_for_speed", "recompute"]

# Compiled one by one: what stands between them (geometry, pooling, losses) has shapes and branches of its own.
_COMPILED = ("backbone", "neck", "frame_encoder", "bev_encoder", "bev_neck")


def prepare_for_speed(model: nn.Module, options: TrainOptions) -> None:
    """Apply ``--precision``, ``--channels-last``, ``--checkpoint-activations`` and ``--compile``.

    Names in the state dict stay. Lightning sees to the precision of everything but the head.
    """
    if options.precision != "32" and hasattr(model, "head"):
        _head_in_float32(model.head)
    if options.channels_last:
        _channels_last(model)
    if options.checkpoint_activations:
        for stage in stages(model):
            if not _recomputes_already(stage, model):
                recompute(stage)
    if options.compile:
        for name in _COMPILED:
            if (part := getattr(model, name, None)) is not None:
                part.compile()


def recompute(stage: nn.Module) -> None:
    """Keep only the inputs of a module for the backward pass and compute the rest again there; nothing else changes.

    Loss, gradients and batch-norm statistics stay what they were (recomputing as timm does counts every batch twice).
    """
    forward = stage.forward
    contexts = functools.partial(_first_and_again, stage)

    @functools.wraps(forward)
    def recomputing(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    stage.forward = recomputing


def _first_and_again(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(stage)


@contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Batch norm normalises as ever but does not count the batch."""
    norms = [module for module in stage.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    counting = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms if norm.training]
    for norm, *_ in counting:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in counting:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def _recomputes_already(stage: nn.Module, model: nn.Module) -> bool:
    """Whether the recipe recomputes it, in the published way."""
    return any(
        stage in part.modules()
        and (getattr(part, "checkpointing", False) or getattr(part, "grad_checkpointing", False))
        for part in model.modules()
        if part is not model
    )


def _head_in_float32(head: nn.Module) -> None:
    """What is small and decides: half precision there saves little, and loses small box errors and sure negatives."""
    for name in ("forward", "loss", "loss_from_voxels"):
        if hasattr(head, name):
            setattr(head, name, _without_autocast(getattr(head, name), head))


def _without_autocast(method: Callable[..., Any], head: nn.Module) -> Callable[..., Any]:
    @functools.wraps(method)
    def in_float32(*inputs: Any) -> Any:
        with torch.autocast(next(head.parameters()).device.type, enabled=False):
            return method(*(_as_float32(value) for value in inputs))

    return in_float32


def _as_float32(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_half else value


def _channels_last(model: nn.Module) -> None:
    """Weights of 2D convolutions; what they compute takes over their layout."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
