"""A detector made ready to be run, and nothing else: the same results, faster.

Shapes: B samples, T frames (0 is now, newest first), N cameras, network input H x W.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from bev_backbones import BevFpn
from bev_heads import CenterOutput, Detections
from bev_lss import CameraRig, FrameCameras, LiftSplat
from bev_ops import PoolPlan

from .detector import Detector
from .folding import fold_batch_norm
from .recipe import Recipe
from .replay import Replayed, mapped
from .stream import SceneStart, Stream
from .upsampling import CoarseBevFpn

__all__ = ["InferenceOptions", "PreparedDetector", "prepare_for_inference"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DENSE = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_REMEMBERED_RIGS = 4


@dataclass(frozen=True)
class InferenceOptions:
    """How a detector is made ready.

    Args:
        fuse: fold batch norm into the convolutions before it; on CPUs, also convolve maps before they are upsampled.
        channels_last: keep the channels of a pixel, cell or voxel next to each other in memory.
        dtype: of the dense networks: float32, bfloat16 or float16. Weights are converted once. Geometry, the depth
            softmax, pooling and results stay in float32, as under autocast.
        compile: hand the stages to torch.compile, which compiles at the first call.
        cuda_graph: record every stage as a CUDA graph, once per input shape, and replay it; a new shape is recorded
            anew, a new calibration need not be, for geometry stays outside. NVIDIA GPUs only.
        reuse_plans: keep what follows from the last calibrations alone: poses and pooling plans. Calibrations are
            compared number by number before each call, so a changed one always counts. False computes all of it anew
            in every call.
    """

    fuse: bool = True
    channels_last: bool = True
    dtype: torch.dtype = torch.float32
    compile: bool = False
    cuda_graph: bool = False
    reuse_plans: bool = True


def prepare_for_inference(model: Detector, options: InferenceOptions | None = None) -> PreparedDetector:
    """Make a detector ready to be run; the model stays as it is, and the two share nothing.

    Args:
        model: in evaluation mode, on the device it is to run on.
        options: what is done to it.

    Warns:
        UserWarning: an option does nothing, or harm, on this device or for this model.

    Raises:
        ValueError: a model in training mode, an unknown type, or a CUDA graph without CUDA.
    """
    options = options or InferenceOptions()
    device = next(model.parameters()).device
    _check(model, options, device)
    _warn_of_ignored(model, options, device)
    ready = copy.deepcopy(model)
    ready.use_history = True
    _without_checkpointing(ready)
    if options.fuse and fold_batch_norm(ready) == 0:
        warnings.warn(f"fuse does nothing: {model.recipe.name} has no batch norm after a convolution", stacklevel=2)
    if options.fuse and device.type == "cpu":
        _convolve_before_upsampling(ready)
    if options.channels_last:
        _lay_channels_last(ready)
    for module in ready.modules():
        if isinstance(module, _DENSE):
            module.to(options.dtype)
    return PreparedDetector(ready.eval().requires_grad_(False), options)


class PreparedDetector(nn.Module):
    """A detector that can only be run; :func:`prepare_for_inference` makes it.

    It stays on its device, in its types and in evaluation mode.
    """

    def __init__(self, detector: Detector, options: InferenceOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options
        self._device = next(detector.parameters()).device
        self._calibrations = _Calibrations(detector.view_transform) if options.reuse_plans else None
        view = detector.view_transform
        view.plan = partial(_fresh_plan, view) if self._calibrations is None else self._calibrations.plan
        detector.head.forward = partial(_in_float32, detector.head.forward)
        if options.compile:
            _wrap_stages(detector, lambda stage, _: torch.compile(stage))
        if options.cuda_graph:
            _wrap_stages(detector, lambda stage, kept: Replayed(stage, self._device, keep_results=kept))
        self.training = False

    @property
    def recipe(self) -> Recipe:
        """That of the detector."""
        return self.detector.recipe

    def forward(self, images: Tensor, rig: CameraRig) -> list[CenterOutput] | Tensor:
        """Raw predictions in float32, without gradient; else as :meth:`bev_zoo.Detector.forward`.

        Args:
            images: (B, T, N, 3, H, W) normalised, newest frame first.
            rig: the calibration, T frames.
        """
        return self.owned(self._raw(images, rig))

    @torch.no_grad()
    def predict(self, images: Tensor, rig: CameraRig) -> list[Detections] | list[Tensor]:
        """As :meth:`bev_zoo.Detector.predict`.

        Args:
            images: (B, T, N, 3, H, W) normalised, newest frame first.
            rig: the calibration, T frames.
        """
        return self.detector.head.decode(self._raw(images, rig))

    def stream(self, *, max_gap_s: float = 2.0, scene_start: SceneStart = "as-published") -> Stream:
        """As :meth:`bev_zoo.Detector.stream`.

        Raises:
            ValueError: the recipe has no history.
        """
        return _PreparedStream(self, max_gap_s=max_gap_s, scene_start=scene_start)

    def train(self, mode: bool = True) -> PreparedDetector:
        """Evaluation mode is all there is.

        Raises:
            ValueError: training is asked for.
        """
        if mode:
            raise ValueError("a model prepared for inference cannot be trained: train the model it was made from")
        return self

    def precision(self) -> torch.autocast:
        """The context in which the stages run."""
        dtype = self.options.dtype
        # Weights have their type already: the cache would only keep graphs from being recorded.
        lower = dtype if dtype != torch.float32 else None
        return torch.autocast(self._device.type, dtype=lower, enabled=lower is not None, cache_enabled=False)

    def owned(self, outputs: list[CenterOutput] | Tensor) -> list[CenterOutput] | Tensor:
        """Raw outputs that the next call leaves alone: copies of those that a graph writes."""
        return mapped(Tensor.clone, outputs) if self.options.cuda_graph else outputs

    @torch.no_grad()
    def _raw(self, images: Tensor, rig: CameraRig) -> list[CenterOutput] | Tensor:
        if self._calibrations is not None:
            rig = self._calibrations.known(rig)
        with self.precision():
            return self.detector(images, rig)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedDetector:
        raise ValueError(
            "a model prepared for inference stays where it is and as it is: move or convert the model it was made "
            "from, then prepare that one"
        )


class _PreparedStream(Stream):
    """A stream in the precision of a prepared model."""

    def __init__(self, prepared: PreparedDetector, *, max_gap_s: float, scene_start: SceneStart) -> None:
        super().__init__(prepared.detector, max_gap_s=max_gap_s, scene_start=scene_start)
        self._prepared = prepared

    def raw(self, *inputs: Any, **named: Any) -> list[CenterOutput] | Tensor:
        with self._prepared.precision():
            return self._prepared.owned(super().raw(*inputs, **named))


# -- what follows from the calibration alone ---------------------------------------------------------------------------


class _KnownRig(CameraRig):
    """A rig whose tensors are ours: nobody changes them in place."""

    def all_frame_cameras(self) -> tuple[FrameCameras, ...]:
        return self._cameras

    @cached_property
    def _cameras(self) -> tuple[FrameCameras, ...]:
        return super().all_frame_cameras()

    @cached_property
    def numbers(self) -> Tensor:
        """See :func:`_numbers`."""
        return _numbers(self)

    @cached_property
    def plans(self) -> dict[object, PoolPlan]:
        """By the tensors of cameras and the feature size."""
        return {}

    @cached_property
    def _tensor_ids(self) -> frozenset[int]:
        return frozenset(id(tensor) for cameras in self._cameras for tensor in cameras.tensors())

    def owns(self, cameras: FrameCameras) -> bool:
        """Whether all their tensors are of this rig; they may be of several of its frames."""
        return self._tensor_ids.issuperset(map(id, cameras.tensors()))


class _Calibrations:
    """The last rigs, found again by their values, and the pooling plans of each.

    The comparison stands at the beginning of a call: nothing later waits for the device.
    """

    def __init__(self, view_transform: LiftSplat) -> None:
        self._plan_of_others = view_transform.plan
        self._build = partial(_fresh_plan, view_transform)
        self._rigs: list[_KnownRig] = []  # the one in use is the last

    def known(self, rig: CameraRig) -> CameraRig:
        """A rig of the same values that remembers what follows from them."""
        numbers = _numbers(rig)
        found = next((known for known in reversed(self._rigs) if _same(known, rig, numbers)), None)
        if found is None:
            found = _KnownRig(*(tensor.clone() for tensor in _fields(rig)))
        self._rigs = [*(known for known in self._rigs if known is not found), found][-_REMEMBERED_RIGS:]
        return found

    def plan(self, cameras: CameraRig | FrameCameras, feature_size: tuple[int, int]) -> PoolPlan:
        """As :meth:`bev_lss.LiftSplat.plan`; those of the rig in use are known without a look at their values."""
        rig = self._rigs[-1] if self._rigs else None
        if rig is None or isinstance(cameras, CameraRig) or not rig.owns(cameras):
            return self._plan_of_others(cameras, feature_size)
        key = (*map(id, cameras.tensors()), feature_size)
        if key not in rig.plans:
            rig.plans[key] = self._build(cameras, feature_size)
        return rig.plans[key]


def _fresh_plan(
    view_transform: LiftSplat, cameras: CameraRig | FrameCameras, feature_size: tuple[int, int]
) -> PoolPlan:
    return PoolPlan.from_points(view_transform.points(cameras, feature_size), view_transform.grid)


def _same(known: _KnownRig, rig: CameraRig, numbers: Tensor) -> bool:
    shapes = rig.intrinsics.shape == known.intrinsics.shape and rig.device == known.device
    return shapes and torch.equal(known.numbers, numbers)


def _numbers(rig: CameraRig) -> Tensor:
    """All of a calibration in a row."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in _fields(rig)])


def _fields(rig: CameraRig) -> list[Tensor]:
    return [getattr(rig, field.name) for field in dataclasses.fields(rig)]


# -- stages ------------------------------------------------------------------------------------------------------------


def _wrap_stages(detector: Detector, wrap: Callable[[Callable[..., Any], bool], Callable[..., Any]]) -> None:
    """Replace every stage that has neither geometry nor host synchronisation in it.

    ``wrap`` is also told whether the stage's results must outlive its next call: they do where it runs frame by frame.
    """
    stages: list[tuple[object, str, bool]] = [
        (detector, "image_features", True),
        (detector, "encoded", False),
        (detector.view_transform.depth_net, "forward", False),
        (detector.head, "forward", False),
    ]
    if detector.recipe.stereo:
        stages.append((detector, "stereo_features", True))
    if detector.frame_encoder is not None:
        stages.append((detector.frame_encoder, "forward", True))
    for owner, name, kept in stages:
        setattr(owner, name, wrap(getattr(owner, name), kept))


def _in_float32(stage: Callable[[Tensor], Any], x: Tensor) -> Any:
    return mapped(Tensor.float, stage(x))


def _convolve_before_upsampling(detector: Detector) -> None:
    if isinstance(detector.neck, BevFpn):
        detector.neck = CoarseBevFpn(detector.neck, detector.backbone.channels[int(detector.recipe.stereo)])
    if isinstance(detector.bev_neck, BevFpn):
        detector.bev_neck = CoarseBevFpn(detector.bev_neck, detector.bev_encoder.channels[0])


def _lay_channels_last(detector: Detector) -> None:
    """PyTorch gives the result of a convolution the layout of its weights, so maps and images follow these."""
    detector.view_transform.channels_last = True
    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)


def _without_checkpointing(detector: Detector) -> None:
    """timm recomputes also where there are no gradients."""
    for module in detector.modules():
        if getattr(module, "grad_checkpointing", False):
            module.grad_checkpointing = False


# -- checks ------------------------------------------------------------------------------------------------------------


def _check(model: Detector, options: InferenceOptions, device: torch.device) -> None:
    if any(module.training for module in model.modules()):
        raise ValueError("prepare_for_inference wants a model in evaluation mode: call model.eval() first")
    if options.dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {options.dtype}")
    if options.cuda_graph and device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a model on an NVIDIA GPU, this one is on {device}: leave out cuda_graph")


def _warn_of_ignored(model: Detector, options: InferenceOptions, device: torch.device) -> None:
    if not model.use_history and model.recipe.temporal.history:
        warnings.warn("a prepared model always uses its history: use_history = False is ignored", stacklevel=3)
    if options.dtype != torch.float32 and not _is_native(options.dtype, device):
        warnings.warn(f"this {device.type} device computes {options.dtype} by way of float32: slower", stacklevel=3)


def _is_native(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has instructions for a type; yes where PyTorch cannot tell."""
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest torch we run with
        return True
    capabilities = torch.cpu.get_capabilities()
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    return capabilities.get("architecture") != "x86_64" or any(
        capabilities.get(f"{extension}_{name}", False) for extension in ("avx512", "amx")
    )
