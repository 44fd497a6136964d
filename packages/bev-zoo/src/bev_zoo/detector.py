"""The detector: the packages, composed.

Shapes: B samples, T frames, N cameras, input H x W, grid Y x X.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bev_backbones import BevFpn, BevResNet, FinestFpn, TimmBackbone
from bev_heads import CenterHead, CenterOutput, Detections
from bev_lss import CameraRig, LiftSplat, depth_labels, depth_loss

from .recipe import Recipe
from .recipes import get_recipe

__all__ = ["Detector", "Targets", "create_model"]


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, in the augmented key-ego frame.

    Args:
        boxes: per sample (M, 9): x, y, z of the centre, length, width, height (metres), yaw (radians), vx, vy (m/s).
        labels: per sample (M,) int64, positions in the recipe's classes.
        depth: (B, N, H, W) metres of the nearest LiDAR point per network-input pixel, 0 for none; only for recipes with
            depth supervision.
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]
    depth: Tensor | None = None


class Detector(nn.Module):
    """Cameras in, boxes out: backbone, neck, view transform, BEV encoder, head (BEVDet, arXiv:2112.11790).

    Args:
        recipe: all options.
        pretrained_backbone: start from timm's ImageNet weights (``recipe.backbone.pretrained`` names them).
    """

    def __init__(self, recipe: Recipe, *, pretrained_backbone: bool = False) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = _build_backbone(recipe, pretrained_backbone)
        self.neck = FinestFpn(self.backbone.channels, recipe.backbone.neck_channels)
        self.view_transform = LiftSplat(
            recipe.backbone.neck_channels,
            recipe.view.channels,
            recipe.view.grid,
            recipe.view.depth,
            stride=recipe.backbone.strides[0],
        )
        bev_channels = recipe.view.channels * recipe.view.grid.size[2]
        encoder = recipe.bev_encoder
        self.bev_encoder = BevResNet(bev_channels, encoder.channels, blocks=encoder.blocks, strides=encoder.strides)
        self.bev_neck = BevFpn(
            encoder.channels[0],
            encoder.channels[-1],
            encoder.out_channels,
            scale=math.prod(encoder.strides[1:]),
            output_scale=encoder.strides[0],
        )
        self.head = CenterHead(
            encoder.out_channels,
            recipe.head.tasks,
            recipe.view.grid,
            shared_channels=recipe.head.shared_channels,
            head_channels=recipe.head.branch_channels,
            heatmap_bias=recipe.head.heatmap_bias,
            target_options=recipe.head.targets,
            loss_options=recipe.head.loss,
            decode_options=recipe.head.decode,
        )

    def forward(self, images: Tensor, rig: CameraRig) -> list[CenterOutput]:
        """images (B, T, N, 3, H, W) normalised, newest frame first -> raw head outputs, one per task.

        Raises:
            ValueError: images, rig and recipe disagree.
        """
        return self._run(images, rig)[0]

    def image_features(self, images: Tensor) -> Tensor:
        """images (B, N, 3, H, W) -> (B, N, C, h, w)."""
        features = self.neck(self.backbone(images.flatten(0, 1)))
        return features.unflatten(0, images.shape[:2])

    @torch.no_grad()
    def predict(self, images: Tensor, rig: CameraRig) -> list[Detections]:
        """Boxes per sample, in the augmented key-ego frame. Runs in evaluation mode whatever the mode of the module."""
        was_training = self.training
        self.eval()
        try:
            return self.head.decode(self(images, rig))
        finally:
            self.train(was_training)

    def loss(self, images: Tensor, rig: CameraRig, targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses; training minimises their sum.

        Raises:
            ValueError: inputs or targets that do not fit, among them a missing depth map.
        """
        outputs, depth = self._run(images, rig)
        losses = self.head.loss(outputs, targets.boxes, targets.labels)
        weight = self.recipe.view.depth_loss_weight
        if weight is not None:
            losses["loss_depth"] = weight * self._depth_loss(depth, targets)
        return losses

    def _run(self, images: Tensor, rig: CameraRig) -> tuple[list[CenterOutput], Tensor]:
        """Head outputs, and the depth distribution (B, N, D, h, w)."""
        self._check_inputs(images, rig)
        bev, depth = self.view_transform(self.image_features(images[:, 0]), rig)
        return self.head(self.bev_neck(self.bev_encoder(bev))), depth

    def _depth_loss(self, depth: Tensor, targets: Targets) -> Tensor:
        wanted = (*depth.shape[:2], *self.recipe.input_size)
        if targets.depth is None or tuple(targets.depth.shape) != wanted:
            got = None if targets.depth is None else tuple(targets.depth.shape)
            raise ValueError(f"{self.recipe.name} learns depth from LiDAR and wants Targets.depth {wanted}, got {got}")
        labels = depth_labels(targets.depth, self.recipe.view.depth, self.view_transform.stride)
        return depth_loss(depth, labels)

    def _check_inputs(self, images: Tensor, rig: CameraRig) -> None:
        height, width = self.recipe.input_size
        if images.ndim != 6 or images.shape[1] != self.recipe.frames or tuple(images.shape[3:]) != (3, height, width):
            raise ValueError(
                f"{self.recipe.name} wants images (B, T={self.recipe.frames}, N, 3, {height}, {width}), got "
                f"{tuple(images.shape)}: other sizes need create_model(..., input_size=(H, W))"
            )
        if tuple(images.shape[:3]) != (rig.batch_size, rig.num_frames, rig.num_cameras):
            raise ValueError(
                f"images have (B, T, N) = {tuple(images.shape[:3])}, the rig has "
                f"{(rig.batch_size, rig.num_frames, rig.num_cameras)}: they must be equal"
            )


def create_model(
    recipe: str | Recipe,
    *,
    input_size: tuple[int, int] | None = None,
    pretrained_backbone: bool = False,
) -> Detector:
    """Build the detector of a recipe, with fresh weights.

    Args:
        recipe: a name (:func:`bev_zoo.list_recipes`) or a recipe of your own.
        input_size: height and width of the network input, pixels; the recipe's own if left out.
        pretrained_backbone: start the image backbone from ImageNet weights.

    Raises:
        ValueError: unknown name, or an input size that is no multiple of the backbone's stride.
    """
    chosen = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if input_size is not None:
        chosen = replace(chosen, input_size=input_size)
    return Detector(chosen, pretrained_backbone=pretrained_backbone)


def _build_backbone(recipe: Recipe, pretrained: bool) -> TimmBackbone:
    options = recipe.backbone
    if pretrained and options.pretrained is None:
        raise ValueError(f"{recipe.name} names no pre-trained weights for its {options.name} backbone")
    name = f"{options.name}.{options.pretrained}" if pretrained else options.name
    return TimmBackbone(name, strides=options.strides, pretrained=pretrained, checkpointing=options.checkpointing)
