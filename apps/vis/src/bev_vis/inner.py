"""What a detector makes on its way to boxes: depth of the images, maps of now and of the frame before, heatmaps.

Shapes: N cameras, H x W network-input pixels, h x w feature pixels, D depth bins, grid Y x X.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from bev_heads import CenterOutput
from bev_lss import depth_labels
from bev_nuscenes import Batch
from bev_zoo import Detector

from .geometry import Array

_PRIOR = 0.1
"""What a head that has learnt nothing says of every cell."""


@dataclass(frozen=True, kw_only=True)
class DepthView:
    """Depth as a model sees it, and as LiDAR measured it."""

    expected_m: Array  # (N,h,w) mean of the predicted distribution
    lidar_m: Array  # (N,h,w) nearest LiDAR point of the feature pixel, NaN without one
    input_size: tuple[int, int]  # height, width of the network input
    image_aug: Array  # (N,3,3) pixel of the camera's picture to pixel of the network input


@dataclass(frozen=True, kw_only=True)
class HistoryView:
    """Lengths of the feature vectors of a map's cells, x (forward) up and y to the left as on every map."""

    now: Array  # (X,Y)
    before: Array  # (X,Y) the key frame before, warped to now
    difference: Array  # (X,Y) length of the difference of the two


@dataclass(frozen=True, kw_only=True)
class HeatmapView:
    """How surely the centre of an object lies in a cell of the map."""

    probability: Array  # (X,Y) of the likeliest class, 0 to 1
    label: NDArray[np.int64]  # (X,Y) that class
    lower: tuple[float, float]  # x, y where cell (0, 0) starts, metres
    upper: tuple[float, float]  # x, y where the last cell ends, metres

    @property
    def strength(self) -> Array:  # (X,Y)
        """0 where nothing is likelier than a fresh head has it, to 1."""
        return np.clip((self.probability - _PRIOR) / (1 - _PRIOR), 0, 1)


@dataclass(frozen=True, kw_only=True)
class InnerView:
    """What was asked for of the three."""

    depth: DepthView | None = None
    history: HistoryView | None = None
    heatmap: HeatmapView | None = None


class Observer:
    """Listens to the stages of a detector while it predicts one batch of one sample."""

    def __init__(self, model: Detector) -> None:
        self.model = model
        self._depths: list[Tensor] = []
        self._maps: Tensor | None = None
        self._centers: list[CenterOutput] | Tensor | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._depths.clear()
        hooks = (
            self.model.view_transform.register_forward_hook(lambda _, __, output: self._depths.append(output[1])),
            self.model.bev_encoder.register_forward_pre_hook(lambda _, inputs: setattr(self, "_maps", inputs[0])),
            self.model.head.register_forward_hook(lambda _, __, output: setattr(self, "_centers", output)),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def depth(self, batch: Batch) -> DepthView:
        """The depth of now; ``batch`` holds the LiDAR depth maps, if there are any."""
        recipe = self.model.recipe
        depth = self._depths[-1 if recipe.stereo else 0][0].float().cpu()  # stereo systems lift the oldest frame first
        expected = torch.einsum("ndhw,d->nhw", depth, recipe.view.depth.values())
        return DepthView(
            expected_m=expected.double().numpy(),
            lidar_m=self._lidar(batch, expected),
            input_size=recipe.input_size,
            image_aug=batch.cameras["image_aug"][0, 0].double().cpu().numpy(),
        )

    def history(self) -> HistoryView:
        """Maps of now and of the frame before, as the BEV encoder gets them."""
        recipe = self.model.recipe
        assert self._maps is not None
        maps = self._maps[0].float().cpu().chunk(1 + recipe.temporal.history)
        now, before = (maps[-1], maps[-2]) if recipe.stereo else (maps[0], maps[1])
        return HistoryView(now=_lengths(now), before=_lengths(before), difference=_lengths(now - before))

    def heatmap(self) -> HeatmapView | None:
        """The heatmaps of all classes in one; None for a recipe that predicts voxels."""
        if self.model.recipe.task == "occupancy":
            return None
        assert self._centers is not None
        logits = torch.cat([output.heatmap[0] for output in self._centers]).float().cpu()  # (classes,Y,X)
        probability, label = logits.sigmoid().max(dim=0)
        grid = self.model.head.grid
        return HeatmapView(
            probability=probability.T.double().numpy(),
            label=label.T.numpy(),
            lower=grid.lower[:2],
            upper=grid.upper[:2],
        )

    def _lidar(self, batch: Batch, expected: Tensor) -> Array:
        if batch.depth is None:
            return np.full(tuple(expected.shape), np.nan)
        measured, stride = batch.depth.cpu(), self.model.recipe.input_size[0] // expected.shape[1]
        labels = depth_labels(measured, self.model.recipe.view.depth, stride)[0]
        nearest = -max_pool2d(-torch.where(measured == 0, torch.inf, measured)[0], stride)
        return torch.where(labels >= 0, nearest, torch.nan).double().numpy()


def _lengths(cells: Tensor) -> Array:
    """(C,[Z,]Y,X) features -> (X,Y) lengths."""
    return cells.flatten(0, -3).norm(dim=0).T.double().numpy()
