"""One step of a detector as a graph: one frame and the state before it in, predictions and the state after it out.

Letters: B samples, N cameras, input H x W, features h x w, D depth bins, C channels, F past frames, grid (Z x) Y x X.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from bev_heads import best_candidates
from bev_lss import LiftSplat
from bev_ops import SweepViews
from bev_ops.reference_warp import warp_affine
from bev_zoo import Detector
from bev_zoo.folding import fold_batch_norm

from .matching import matching_by_sampling
from .pooling import pool_by_plugin, pool_by_tables
from .preprocess import ImagePreprocessing
from .tables import PoolTables

__all__ = ["Pooling", "Precision", "Step", "raw_names"]

Pooling = Literal["native", "plugin"]
Precision = Literal["fp32", "fp16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Step(nn.Module):
    """A detector, ready to be exported; it shares nothing with the model it is made from.

    Batch norm is folded. Dense networks run in ``precision``; depth softmax, pooling, warping, matching, camera
    parameters and results are float32 always.

    Args:
        model: the detector.
        precision: "fp32" or "fp16".
        pool: "native" or "plugin", see :class:`bev_deploy.ExportOptions`.
        raw: give the head's own outputs instead of decoded candidates or voxel labels.
        preprocessing: take uint8 images as cameras give them, and do this to them first.
    """

    def __init__(
        self,
        model: Detector,
        *,
        precision: Precision = "fp32",
        pool: Pooling = "native",
        raw: bool = False,
        preprocessing: ImagePreprocessing | None = None,
    ) -> None:
        super().__init__()
        detector = copy.deepcopy(model).eval().requires_grad_(False)
        fold_batch_norm(detector)
        self.dtype = _DTYPES[precision]
        self.pool = pool_by_plugin if pool == "plugin" else pool_by_tables
        self.raw = raw
        self.preprocessing = preprocessing
        self.detector = _in_precision(detector, self.dtype)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named tensors in, named tensors out; :mod:`bev_deploy.signature` says which."""
        detector = self.detector
        images = inputs["images"] if self.preprocessing is None else self.preprocessing(inputs["images"])
        features = detector.image_features(images.to(self.dtype))
        bev = self._map(features.lifted, self._cost_volume(features.stereo, inputs), inputs)
        past, history = self._past(bev, inputs)
        outputs = self._predictions(detector.head(detector.encoded([bev, *past])))
        if history is not None:
            outputs["next_history"] = history
        if features.stereo is not None:
            outputs["next_stereo"] = features.stereo
        return outputs

    def _map(self, features: Tensor, cost_volume: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        view: LiftSplat = self.detector.view_transform
        cost = None if cost_volume is None else cost_volume.to(self.dtype)
        params = inputs["camera_params"].flatten(0, 1) if "camera_params" in inputs else None
        logits, context = view.depth_net(features.flatten(0, 1), params, cost)
        lead = features.shape[:2]
        depth = logits.float().softmax(dim=1).unflatten(0, lead)
        tables = PoolTables(*(inputs[f"pool_{name}"] for name in PoolTables._fields))
        voxels = self.pool(depth, context.float().unflatten(0, lead), tables, view.grid)
        bev = (voxels if view.voxels else voxels.transpose(1, 2).flatten(1, 2)).to(self.dtype)
        encoder = self.detector.frame_encoder
        return bev if encoder is None else encoder(bev)[0]

    def _cost_volume(self, stereo: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """(B*N, D, H / 4, W / 4)."""
        matching = self.detector.cost_volume
        if matching is None:
            return None
        compared = inputs["stereo_valid"][:, None, None, None, None]
        previous = torch.where(compared, inputs["stereo"], stereo)
        views = SweepViews(*(inputs[f"sweep_{field.name}"] for field in dataclasses.fields(SweepViews)))
        now, then = (maps.flatten(0, 1).float() for maps in (stereo, previous))
        return matching_by_sampling(now, then, views, matching.bins.values(), matching.stride, matching.bias)

    def _past(self, bev: Tensor, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The past maps as now's ego frame sees them, newest first, and the history of the next step."""
        if "history" not in inputs:
            return [], None
        valid = inputs["history_valid"].reshape(*inputs["history_valid"].shape, *[1] * (bev.ndim - 1))
        history = torch.where(valid, inputs["history"], bev[:, None])  # (B, F, C, [Z,] Y, X)
        layers = history.flatten(2, -3).flatten(0, 1).float()  # (B*F, C * Z, Y, X)
        warped = warp_affine(layers, inputs["history_cells"].flatten(0, 1)).to(self.dtype)
        past = warped.reshape(history.shape).unbind(1)
        return list(past), torch.cat([bev[:, None], history[:, :-1]], dim=1)

    def _predictions(self, outputs: list | Tensor) -> dict[str, Tensor]:
        head = self.detector.head
        if isinstance(outputs, Tensor):
            logits = outputs.float()
            return {"logits": logits} if self.raw else {"voxels": logits.argmax(dim=-1).int()}
        outputs = [type(task)(*(plane.float() for plane in task)) for task in outputs]
        if self.raw:
            return dict(zip(raw_names(len(outputs)), _planes(outputs), strict=True))
        found = best_candidates(outputs, head.grid, head.decode_options, log_dimensions=head.log_dimensions)
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels.int()}


def raw_names(tasks: int) -> list[str]:
    """Names of the raw outputs of a detection head, in order."""
    fields = ("heatmap", "offset", "height", "size", "yaw", "velocity")
    return [f"task{t}_{field}" for t in range(tasks) for field in fields]


def _planes(outputs: list) -> list[Tensor]:
    return [plane for task in outputs for plane in task]


def _in_precision(detector: Detector, dtype: torch.dtype) -> Detector:
    """Weights in the given type, but for what looks at camera parameters: focal lengths do not fit half precision."""
    detector = detector.to(dtype)
    net = detector.view_transform.depth_net
    if getattr(net, "camera_aware", False):
        net.camera_norm.float()
        net.context_mlp = _InFloat32(net.context_mlp, dtype)
        net.depth_mlp = _InFloat32(net.depth_mlp, dtype)
    return detector


class _InFloat32(nn.Module):
    """A module in float32 whose result is converted."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.float()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x).to(self.dtype)
