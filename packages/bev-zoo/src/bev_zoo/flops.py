"""How many floating-point operations a prediction takes, counted from shapes: no weights, no images, no device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bev_lss import CameraRig, camera_parameters
from bev_temporal import warp_bev

from .create import meta_model
from .detector import Detector
from .features import StereoReference
from .recipe import Recipe

__all__ = ["CAMERAS", "Flops", "StageFlops", "count_flops", "count_parameters", "flop_counter"]

CAMERAS = 6  # cameras that a prediction is counted for


@dataclass(frozen=True, kw_only=True)
class StageFlops:
    """Floating-point operations per stage of a detector; 0 for a stage it does not have."""

    backbone: int = 0
    neck: int = 0
    cost_volume: int = 0  # stereo matching
    view_transform: int = 0  # depth net and pooling
    frame_encoder: int = 0
    alignment: int = 0  # warping stored maps to now
    bev_encoder: int = 0
    bev_neck: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """All stages together."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: StageFlops) -> StageFlops:
        return StageFlops(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __mul__(self, times: int) -> StageFlops:
        return StageFlops(**{f.name: times * getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one prediction: one sample, six cameras, decoding not included."""

    per_stage: StageFlops  # a call with all frames
    streaming: StageFlops | None  # one more frame of a stream whose history is there; None for systems without history

    @property
    def total(self) -> int:
        """Operations of a call with all frames."""
        return self.per_stage.total


def count_flops(model: Detector | Recipe, input_size: tuple[int, int] | None = None) -> Flops:
    """Floating-point operations of one prediction, **two per multiply-add**.

    Counted are convolutions, matrix products and attention, and what is this family's own: pooling (every frustum
    point, also those outside of the grid), stereo matching (11 per pixel, depth and channel: 4 multiply-adds of
    bilinear sampling, difference, absolute value, sum) and warping of maps (8 per value). Normalisation, activations,
    resizing inside of necks and decoding are left out. The published tool, ``get_flops``, counts multiply-adds instead.

    Args:
        model: a detector (only its recipe counts) or a recipe.
        input_size: height and width of the network input, pixels; the recipe's own if left out.

    Raises:
        ValueError: an input size that the backbone's stride does not divide.
    """
    recipe = model if isinstance(model, Recipe) else model.recipe
    if input_size is not None:
        recipe = replace(recipe, input_size=input_size)
    if isinstance(model, Recipe) or recipe != model.recipe or not _is_meta(model):
        model = meta_model(recipe)
    with torch.no_grad(), _NothingUncounted():
        return _count(model.eval())


def count_parameters(model: nn.Module) -> int:
    """Learnt numbers, batch-norm statistics not included."""
    return sum(parameter.numel() for parameter in model.parameters())


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, with the formulas of this family's own operations."""
    formulas = {
        torch.ops.bev_ops.bev_pool: _pooling,
        torch.ops.bev_temporal.matching_cost: _matching,
        torch.ops.bev_ops.warp_affine: _sampling,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _count(model: Detector) -> Flops:
    """One frame is counted: all frames of a call cost the same, and a stream computes one of them."""
    recipe = model.recipe
    history = recipe.temporal.history
    images = torch.empty(1, CAMERAS, 3, *recipe.input_size, device="meta")
    rig = _meta_rig()
    cameras = rig.frame_cameras(0)

    with _counting(model) as frame:
        features = model.image_features(images)
        reference = StereoReference(features.stereo, rig.cam_to_ego[:, 0]) if recipe.stereo else None
        bev = model.frame_map(features, cameras, camera_parameters(cameras), reference).bev
    with _counting(model) as stack:
        model.head(model.encoded([bev] * (1 + history)))

    batch = frame() * (1 + history) + stack()
    if recipe.stereo:
        batch += StageFlops(backbone=_flops_of(lambda: model.stereo_features(images)))
    if history == 0:
        return Flops(per_stage=batch, streaming=None)
    motion = torch.empty(history, 4, 4, device="meta")
    alignment = StageFlops(alignment=_flops_of(lambda: warp_bev(torch.cat([bev] * history), motion, recipe.view.grid)))
    if recipe.temporal.align == "after":
        batch += alignment
    return Flops(per_stage=batch, streaming=frame() + stack() + alignment)


@contextmanager
def _counting(model: Detector) -> Iterator[Callable[[], StageFlops]]:
    """Counts what runs inside of the block, by the stage of the detector it runs in; what it gives tells the count."""
    counts = dict.fromkeys((field.name for field in fields(StageFlops)), 0)
    stages = {stage: module for stage, module in model.named_children() if stage in counts}
    with _Counter() as counter:
        hooks = [hook for stage, module in stages.items() for hook in _watch(module, stage, counter, counts)]
        try:
            yield lambda: StageFlops(**counts)
        finally:
            for hook in hooks:
                hook.remove()


def _watch(
    module: nn.Module, stage: str, counter: _Counter, counts: dict[str, int]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Whatever is counted between entering and leaving the module belongs to its stage."""

    def enter(*_: object) -> None:
        counts[stage] -= counter.total

    def leave(*_: object) -> None:
        counts[stage] += counter.total

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def _flops_of(run: Callable[[], object]) -> int:
    with _Counter() as counter:
        run()
    return counter.total


class _Counter(TorchDispatchMode):
    """Counts what :func:`flop_counter` does, without its accounts per module, which cost more than a run on shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._formulas = flop_counter().flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class _NothingUncounted(TorchFunctionMode):
    """Norms, GELU and resizing are not counted, and take most of the time on shapes: only their shapes are given."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (F.batch_norm, F.layer_norm, F.gelu):
            return args[0]
        if func is F.interpolate:
            return _resized(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _resized(
    maps: Tensor, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None, **_: Any
) -> Tensor:
    lengths = maps.shape[2:]
    if size is None:
        factors = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * len(lengths)
        size = [int(length * factor) for length, factor in zip(lengths, factors, strict=True)]
    elif isinstance(size, int):
        size = [size] * len(lengths)
    return maps.new_empty(*maps.shape[:2], *size)


def _pooling(depth: torch.Size, context: torch.Size, *_: object, **__: object) -> int:
    """depth (B, N, D, h, w), context (B, N, C, h, w)."""
    return 2 * math.prod(depth) * context[2]


def _matching(current: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    """current (M, C, H, W) -> (M, D, H, W)."""
    return 11 * math.prod(out_shape) * current[1]


def _sampling(*_: object, out_shape: torch.Size, **__: object) -> int:
    return 8 * math.prod(out_shape)


def _meta_rig() -> CameraRig:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    lead = (1, 1, CAMERAS)
    return CameraRig(empty(*lead, 3, 3), empty(*lead, 4, 4), empty(*lead, 4, 4), empty(*lead, 3, 3), empty(1, 3, 3))


def _is_meta(model: nn.Module) -> bool:
    return all(parameter.is_meta for parameter in model.parameters())
