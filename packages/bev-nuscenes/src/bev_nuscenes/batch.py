"""Samples and batches.

Legend: B samples, T frames (newest first), N cameras, H and W the network-input size, H' and W' the size of camera
images, M boxes of one sample, (X, Y, Z) = (200, 200, 16) cells of the occupancy ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .image_augmentation import normalize_images

__all__ = ["Batch", "Sample", "collate"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One key frame with its history, ready for a model.

    Attributes:
        token: sample token.
        images: (T, N, 3, H, W) float32, normalised; or, from ``images="fast"``, (T, N, H, W, 3) uint8 RGB, which
            ``Batch.to`` normalises; or, if ``raw``, camera images (T, N, H', W', 3) uint8 RGB.
        cameras: ``intrinsics`` (T, N, 3, 3), ``cam_to_ego`` (T, N, 4, 4), ``ego_to_global`` (T, N, 4, 4),
            ``image_aug`` (T, N, 3, 3), ``bev_aug`` (3, 3); float32.
        boxes: (M, 9) float32: centre x, y, z, length, width, height, yaw, vx, vy in the (augmented) ego frame of
            CAM_FRONT; metres, radians, metres per second.
        labels: (M,) int64, positions in CLASSES.
        box_to_global: (4, 4) float64, the frame of the boxes before BEV augmentation to the global frame.
        depth: (N, H, W) float32 metres from LiDAR, 0 where unknown; None unless asked for.
        semantics: (X, Y, Z) uint8, positions in OCCUPANCY_CLASSES, mirrored as ``bev_aug`` says; None unless asked for.
        mask_camera: (X, Y, Z) bool, cells that a camera observes, mirrored alike; None unless asked for.
        timestamp: of the key frame, seconds.
        scene: name of the scene.
        raw: the images are as the cameras gave them, for a model that prepares them itself.
    """

    token: str
    images: Tensor
    cameras: dict[str, Tensor]
    boxes: Tensor
    labels: Tensor
    box_to_global: Tensor
    depth: Tensor | None = None
    semantics: Tensor | None = None
    mask_camera: Tensor | None = None
    timestamp: float = 0.0
    scene: str = ""
    raw: bool = False


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples stacked along a new first axis B; what differs in size between samples, and names, are lists over them.

    ``cameras`` has exactly the fields of ``bev_lss.CameraRig``: ``CameraRig(**batch.cameras)``.
    """

    tokens: list[str]
    images: Tensor  # (B, T, N, 3, H, W) float32; as in Sample before ``to``
    cameras: dict[str, Tensor]  # as in Sample, with B in front
    boxes: list[Tensor]  # (M, 9) each
    labels: list[Tensor]  # (M,) each
    box_to_global: Tensor  # (B, 4, 4) float64
    depth: Tensor | None = None  # (B, N, H, W)
    semantics: Tensor | None = None  # (B, X, Y, Z) uint8
    mask_camera: Tensor | None = None  # (B, X, Y, Z) bool
    timestamps: list[float] = field(default_factory=list)  # of the key frames, seconds
    scenes: list[str] = field(default_factory=list)  # names
    raw: bool = False  # the images are camera images and stay so

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Batch with what a model reads on ``device``; ``box_to_global`` stays, only submissions need it.

        Images that are bytes still are normalised there, unless the batch is ``raw``: they travel at a quarter of the
        size.
        """
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if moved.raw or moved.images.dtype != torch.uint8:
            return moved
        return replace(moved, images=normalize_images(moved.images))

    def pin_memory(self) -> Batch:
        """Batch in page-locked memory; ``DataLoader(pin_memory=True)`` calls it."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return replace(
            self,
            images=function(self.images),
            cameras={name: function(tensor) for name, tensor in self.cameras.items()},
            boxes=[function(boxes) for boxes in self.boxes],
            labels=[function(labels) for labels in self.labels],
            depth=optional(self.depth),
            semantics=optional(self.semantics),
            mask_camera=optional(self.mask_camera),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of equal shape into a batch; the ``collate_fn`` of a DataLoader."""
    return Batch(
        tokens=[sample.token for sample in samples],
        images=torch.stack([sample.images for sample in samples]),
        cameras={name: torch.stack([sample.cameras[name] for sample in samples]) for name in samples[0].cameras},
        boxes=[sample.boxes for sample in samples],
        labels=[sample.labels for sample in samples],
        box_to_global=torch.stack([sample.box_to_global for sample in samples]),
        depth=_stack([sample.depth for sample in samples]),
        semantics=_stack([sample.semantics for sample in samples]),
        mask_camera=_stack([sample.mask_camera for sample in samples]),
        timestamps=[sample.timestamp for sample in samples],
        scenes=[sample.scene for sample in samples],
        raw=samples[0].raw,
    )


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    """The tensors stacked, where the samples have them."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None
