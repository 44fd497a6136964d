"""From calibrations to the inputs of an exported step.

Letters: B samples, N cameras, F past frames, M = B*N images.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bev_lss import FrameCameras, PlanCache, camera_parameters, frustum_points, points_to_ego
from bev_ops import PoolPlan
from bev_temporal import cell_motion, previous_views
from bev_zoo import Recipe
from bev_zoo.build import STEREO_STRIDE

from .tables import PoolTables, TableBounds, pool_tables

__all__ = ["Feed"]

_REMEMBERED_CALIBRATIONS = 16  # the nine frames of the longest history, and some


class Feed:
    """Makes inputs; pooling tables are remembered for the last calibrations, and made anew whenever a number changes.

    Args:
        recipe: of the exported model, at its input size.
        bounds: sizes that tables are padded to; None leaves them as they are.
    """

    def __init__(self, recipe: Recipe, bounds: TableBounds | None = None) -> None:
        self.recipe = recipe
        self.bounds = bounds
        self.stride = recipe.backbone.strides[0]
        self.feature_size = (recipe.input_size[0] // self.stride, recipe.input_size[1] // self.stride)
        self._tables: PlanCache[PoolTables] = PlanCache(_REMEMBERED_CALIBRATIONS)

    def cameras(self, lifted: FrameCameras, told: FrameCameras | None = None) -> dict[str, Tensor]:
        """What one frame's cameras go in as.

        Args:
            lifted: with these poses features are lifted.
            told: of these the depth net is told; the same if None.

        Raises:
            TableOverflowError: more points than the engine was built for.
        """
        tables = self._tables.get((), lifted.tensors(), lambda: self.tables(lifted))
        inputs = {f"pool_{name}": table for name, table in tables._asdict().items()}
        if self.recipe.view.depth_net is not None:
            inputs["camera_params"] = camera_parameters(told or lifted)
        return inputs

    def tables(self, cameras: FrameCameras) -> PoolTables:
        """The pooling tables of a calibration, computed now."""
        frustum = frustum_points(self.feature_size, self.stride, self.recipe.view.depth).to(cameras.device)
        plan = PoolPlan.from_points(points_to_ego(frustum, *cameras.tensors()), self.recipe.view.grid)
        tables = pool_tables(plan)
        return tables if self.bounds is None else tables.padded(self.bounds)

    def history(self, maps: Tensor, valid: Tensor, motion: Tensor) -> dict[str, Tensor]:
        """What the past goes in as.

        Args:
            maps: (B, F, C, [Z,] Y, X), newest first.
            valid: (B, F) bool; where false, the map of now stands in.
            motion: (B, F, 4, 4) from now's ego to that of every map.
        """
        cells = cell_motion(motion.flatten(0, 1), self.recipe.view.grid).unflatten(0, motion.shape[:2])
        return {"history": maps, "history_valid": valid, "history_cells": cells}

    def stereo(
        self, features: Tensor, valid: Tensor, camera_to_previous: Tensor, cameras: FrameCameras
    ) -> dict[str, Tensor]:
        """What the frame that is compared with goes in as.

        Args:
            features: (B, N, C', H / 4, W / 4) of that frame.
            valid: (B,) bool; where false, the frame of now is compared with itself.
            camera_to_previous: (B, N, 4, 4) camera of now to the same camera then.
            cameras: of now.
        """
        size = (self.recipe.input_size[0] // STEREO_STRIDE, self.recipe.input_size[1] // STEREO_STRIDE)
        matrices = (t.flatten(0, 1).float() for t in (camera_to_previous, cameras.intrinsics, cameras.image_aug))
        views = previous_views(*matrices, size, STEREO_STRIDE)
        swept = {f"sweep_{field.name}": getattr(views, field.name) for field in dataclasses.fields(views)}
        return {"stereo": features, "stereo_valid": valid, **swept}


def identity_motion(samples: int, frames: int, device: torch.device) -> Tensor:
    """Of an ego that stands still: (B, F, 4, 4)."""
    return torch.eye(4, device=device).expand(samples, frames, 4, 4)
