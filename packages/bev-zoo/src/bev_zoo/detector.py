"""The detector: the packages, composed.

Shapes: B samples, T frames (0 is now, newest first), N cameras, input H x W, features h x w, D depth bins, C channels,
grid (Z x) Y x X. A *map* is (B, C, Y, X), or (B, C, Z, Y, X) in occupancy systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bev_heads import CenterOutput, Detections
from bev_lss import CameraRig, FrameCameras, LiftSplatOutput, camera_parameters, depth_labels, depth_loss
from bev_temporal import StereoCostVolume, camera_to_previous, now_to_then, warp_bev

from .build import (
    STEREO_STRIDE,
    build_backbone,
    build_encoder,
    build_frame_encoder,
    build_head,
    build_neck,
    build_view_transform,
)
from .features import FrameFeatures, StereoReference
from .inputs import check_inputs
from .recipe import Recipe
from .stream import SceneStart, Stream

__all__ = ["Detector", "Targets"]


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, in the augmented key-ego frame.

    Args:
        boxes: per sample (M, 9): x, y, z of the centre, length, width, height (metres), yaw (radians), vx, vy (m/s).
        labels: per sample (M,) int64, positions in the recipe's classes.
        depth: (B, N, H, W) metres of the nearest LiDAR point per network-input pixel, 0 for none; only for recipes with
            depth supervision.
        semantics: (B, X, Y, Z) uint8 class of every voxel; only for occupancy recipes.
        mask_camera: (B, X, Y, Z) bool, voxels that a camera sees; only for occupancy recipes.
    """

    boxes: Sequence[Tensor] = ()
    labels: Sequence[Tensor] = ()
    depth: Tensor | None = None
    semantics: Tensor | None = None
    mask_camera: Tensor | None = None


class Detector(nn.Module):
    """Cameras in, boxes or voxel classes out.

    Backbone, neck and view transform make a map of every frame; maps are aligned with now and stacked; BEV encoder and
    head see the stack (BEVDet, arXiv:2112.11790; BEVDet4D, arXiv:2203.17054; BEVDepth, arXiv:2206.10092; BEVStereo,
    arXiv:2209.10248).

    Gradients flow through the frame of now only, as published. Published order of the stack: newest first, but oldest
    first in stereo systems.

    Args:
        recipe: all options.

    Attributes:
        use_history: False replaces all past maps by zeros (the first epochs of published training).
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.use_history = True
        self.backbone = build_backbone(recipe)
        self.neck = build_neck(recipe, self.backbone.channels[int(recipe.stereo) :])
        self.view_transform = build_view_transform(recipe)
        self.frame_encoder = build_frame_encoder(recipe)
        self.bev_encoder, self.bev_neck = build_encoder(recipe)
        self.head = build_head(recipe)
        self.cost_volume: StereoCostVolume | None = None
        if recipe.stereo:
            self.cost_volume = StereoCostVolume(
                recipe.view.depth, bias=recipe.view.depth_net.cost_bias, stride=STEREO_STRIDE
            )

    def forward(self, images: Tensor, rig: CameraRig) -> list[CenterOutput] | Tensor:
        """Raw predictions.

        Args:
            images: (B, T, N, 3, H, W) normalised, newest frame first, T = ``recipe.frames``.
            rig: the calibration, T frames.

        Returns:
            One :class:`bev_heads.CenterOutput` per task, or the logits (B, X, Y, Z, classes) of an occupancy system.

        Raises:
            ValueError: images, rig and recipe disagree.
        """
        return self.head(self._encoded(images, rig)[0])

    @torch.no_grad()
    def predict(self, images: Tensor, rig: CameraRig) -> list[Detections] | list[Tensor]:
        """Per sample: boxes in the augmented key-ego frame, or the class of every voxel (X, Y, Z) uint8.

        Runs in evaluation mode, with history, whatever the state of the module.
        """
        was_training, used_history = self.training, self.use_history
        self.eval()
        self.use_history = True
        try:
            return self.head.decode(self(images, rig))
        finally:
            self.train(was_training)
            self.use_history = used_history

    def loss(self, images: Tensor, rig: CameraRig, targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses; training minimises their sum.

        Raises:
            ValueError: inputs or targets that do not fit, among them a missing depth map.
        """
        encoded, depth = self._encoded(images, rig)
        losses = self._head_loss(encoded, targets)
        weight = self.recipe.view.depth_loss_weight
        if weight is not None:
            losses["loss_depth"] = weight * self._depth_loss(depth, targets)
        return losses

    def stream(self, *, max_gap_s: float = 2.0, scene_start: SceneStart = "as-published") -> Stream:
        """A stateful runner: one frame in, predictions out, history kept inside; see :class:`bev_zoo.Stream`.

        Raises:
            ValueError: the recipe has no history.
        """
        return Stream(self, max_gap_s=max_gap_s, scene_start=scene_start)

    # -- the stages, also used by the stream ---------------------------------------------------------------------------

    def image_features(self, images: Tensor) -> FrameFeatures:
        """images (B, N, 3, H, W) of one frame -> its features."""
        levels = self.backbone(images.flatten(0, 1))
        cameras = images.shape[:2]
        stereo = levels[0].unflatten(0, cameras) if self.recipe.stereo else None
        return FrameFeatures(self.neck(levels[int(self.recipe.stereo) :]).unflatten(0, cameras), stereo)

    def stereo_features(self, images: Tensor) -> Tensor:
        """images (B, N, 3, H, W) of a frame that is only compared with -> (B, N, C', H / 4, W / 4)."""
        return self.backbone.first_level(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def frame_map(
        self,
        features: FrameFeatures,
        cameras: FrameCameras,
        camera_params: Tensor,  # (B, N, 27)
        reference: StereoReference | None = None,
    ) -> LiftSplatOutput:
        """The map of one frame and its depth (B, N, D, h, w).

        Without a reference, a stereo system sees a cost volume of zeros (published rule when history is off).
        """
        cost = None
        if self.cost_volume is not None and reference is not None:
            cost = self.cost_volume(
                features.stereo,
                reference.features,
                reference.camera_to_previous,
                cameras.intrinsics,
                cameras.image_aug,
            )
        bev, depth = self.view_transform(features.lifted, cameras, camera_params=camera_params, cost_volume=cost)
        return LiftSplatOutput(bev if self.frame_encoder is None else self.frame_encoder(bev)[0], depth)

    def encoded(self, maps: Sequence[Tensor]) -> Tensor:
        """Aligned maps, newest first -> the map that the head sees."""
        ordered = maps[::-1] if self.recipe.stereo else maps
        return self.bev_neck(self.bev_encoder(torch.cat(list(ordered), dim=1)))

    # -- a batch of whole sequences ------------------------------------------------------------------------------------

    def _encoded(self, images: Tensor, rig: CameraRig) -> tuple[Tensor, Tensor]:
        """The map that the head sees, and the depth distribution (B, N, D, h, w) of now."""
        check_inputs(self.recipe, images, rig)
        cameras = rig.all_frame_cameras()
        outputs = self._frame_maps(images, rig, cameras)
        maps = [output.bev for output in outputs]
        history = self.recipe.temporal.history
        if len(maps) <= history:
            maps += [torch.zeros_like(maps[0])] * history
        elif history and self.recipe.temporal.align == "after":
            maps[1:] = self._warped(maps[1:], cameras, rig.bev_aug)
        return self.encoded(maps), outputs[0].depth

    def _frame_maps(self, images: Tensor, rig: CameraRig, cameras: Sequence[FrameCameras]) -> list[LiftSplatOutput]:
        """Maps of the stacked frames, newest first; with history off, only that of now.

        Frames run in the published order, newest first, or oldest first in stereo systems, where each is compared with
        the one before it: in training, that is the order in which batch norm sees them.
        """
        stacked = 1 + self.recipe.temporal.history if self.use_history else 1
        order, previous = range(stacked), None
        if self.recipe.stereo and self.use_history:
            order = order[::-1]
            to_previous = camera_to_previous(rig)
            with torch.no_grad():
                previous = self.stereo_features(images[:, stacked])
        outputs: dict[int, LiftSplatOutput] = {}
        for t in order:
            with torch.set_grad_enabled(torch.is_grad_enabled() and t == 0):
                features = self.image_features(images[:, t])
                reference = None if previous is None else StereoReference(previous, to_previous[:, t])
                outputs[t] = self.frame_map(features, *self._seen_from_now(cameras, t), reference)
            if reference is not None:
                previous = features.stereo
        return [outputs[t] for t in range(stacked)]

    def _seen_from_now(self, cameras: Sequence[FrameCameras], t: int) -> tuple[FrameCameras, Tensor]:
        """The cameras that frame t is lifted with, and the 27 numbers its depth net sees.

        Published quirk: the depth net gets the camera poses of now with every frame. Alignment after the view transform
        lifts with them too, which puts each map into its own ego frame, as far as the cameras fire at the same moments
        in every frame.
        """
        at_now_pose = replace(cameras[t], cam_to_key_ego=cameras[0].cam_to_key_ego)
        lifted = at_now_pose if self.recipe.temporal.align == "after" else cameras[t]
        return lifted, camera_parameters(at_now_pose)

    def _warped(self, maps: Sequence[Tensor], cameras: Sequence[FrameCameras], bev_aug: Tensor) -> list[Tensor]:
        """Past maps, newest first, warped to now; one sampling call for all of them."""
        past = range(1, 1 + len(maps))
        motions = [now_to_then(cameras[0].cam_to_key_ego[:, 0], cameras[t].cam_to_key_ego[:, 0], bev_aug) for t in past]
        warped = warp_bev(torch.cat(list(maps)), torch.cat(motions), self.recipe.view.grid)
        return list(warped.chunk(len(maps)))

    # -- losses --------------------------------------------------------------------------------------------------------

    def _head_loss(self, encoded: Tensor, targets: Targets) -> dict[str, Tensor]:
        if self.recipe.task == "detection":
            return self.head.loss(self.head(encoded), targets.boxes, targets.labels)
        missing = [name for name in ("semantics", "mask_camera") if getattr(targets, name) is None]
        if missing:
            raise ValueError(f"{self.recipe.name} learns occupancy and wants Targets.{' and Targets.'.join(missing)}")
        return self.head.loss_from_voxels(encoded, targets.semantics, targets.mask_camera)

    def _depth_loss(self, depth: Tensor, targets: Targets) -> Tensor:
        wanted = (*depth.shape[:2], *self.recipe.input_size)
        if targets.depth is None or tuple(targets.depth.shape) != wanted:
            got = None if targets.depth is None else tuple(targets.depth.shape)
            raise ValueError(f"{self.recipe.name} learns depth from LiDAR and wants Targets.depth {wanted}, got {got}")
        labels = depth_labels(targets.depth, self.recipe.view.depth, self.view_transform.stride)
        return depth_loss(depth, labels)
