"""Occupancy head of the published BEVDet occupancy systems: the class of every voxel.

Shapes: B samples, C channels, (Z, Y, X) voxels as the encoder has them, (X, Y, Z) as ground truth and predictions have
them, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["OccupancyHead", "occupancy_loss"]


class OccupancyHead(nn.Module):
    """A 3x3x3 convolution with ReLU, then per voxel Linear, Softplus, Linear.

    The convolution starts from a normal distribution with variance 2 / fan-out and zero bias (Kaiming, as published),
    the linear layers as PyTorch has them. Published checkpoints call `conv` final_conv.conv and `predictor` predicter.

    Args:
        in_channels: channels of the voxel feature.
        hidden_channels: channels after the convolution; the hidden layer of the predictor has twice as many.
        classes: K, free space included.
    """

    def __init__(self, in_channels: int, *, hidden_channels: int = 32, classes: int = 18) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.conv = nn.Conv3d(in_channels, hidden_channels, kernel_size=3, padding=1)
        self.predictor = nn.Sequential(
            nn.Linear(hidden_channels, 2 * hidden_channels), nn.Softplus(), nn.Linear(2 * hidden_channels, classes)
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.constant_(self.conv.get_parameter("bias"), 0.0)

    def forward(self, voxels: Tensor) -> Tensor:
        """Logits (B, X, Y, Z, K) from a voxel feature (B, C, Z, Y, X).

        Raises:
            ValueError: not a voxel feature of the channels the head was built for.
        """
        return self.predictor(self._features(voxels))

    def loss(
        self,
        logits: Tensor,  # (B, X, Y, Z, K)
        semantics: Tensor,  # (B, X, Y, Z) integers
        mask_camera: Tensor,  # (B, X, Y, Z) bool
    ) -> dict[str, Tensor]:
        """`loss_occ` from what `forward` returned; see `occupancy_loss`."""
        return {"loss_occ": occupancy_loss(logits, semantics, mask_camera)}

    def loss_from_voxels(
        self,
        voxels: Tensor,  # (B, C, Z, Y, X)
        semantics: Tensor,  # (B, X, Y, Z) integers
        mask_camera: Tensor,  # (B, X, Y, Z) bool
    ) -> dict[str, Tensor]:
        """The same loss as `loss(forward(voxels), ...)`, with the predictor run on visible voxels only.

        Training keeps the predictor's activations, twice 64 and once 18 numbers per voxel of the published grid: what
        cameras do not see is most of it.

        Raises:
            ValueError: a voxel feature, labels or a mask that do not fit.
        """
        features = self._features(voxels)
        _check_targets(features.shape[:-1], semantics, mask_camera, self.classes)
        visible = mask_camera.flatten().nonzero().squeeze(1)
        # index_select, because its gradient takes about half the time of that of indexing by a mask.
        logits = self.predictor(features.flatten(0, 3).index_select(0, visible))
        return {"loss_occ": _mean_cross_entropy(logits, semantics.flatten()[visible])}

    @torch.no_grad()
    def decode(self, logits: Tensor) -> list[Tensor]:
        """Most likely class of every voxel, per sample (X, Y, Z) uint8, from what `forward` returned."""
        return list(logits.argmax(dim=-1).to(torch.uint8))

    def _features(self, voxels: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, X, Y, Z, hidden)."""
        if voxels.ndim != 5 or voxels.shape[1] != self.in_channels:
            raise ValueError(
                f"the voxel feature must be (B, {self.in_channels}, Z, Y, X), got {tuple(voxels.shape)}; "
                "build the head with the encoder's channels"
            )
        return self.conv(voxels).relu().permute(0, 4, 3, 2, 1)


def occupancy_loss(
    logits: Tensor,  # (..., K)
    semantics: Tensor,  # (...) integers
    mask_camera: Tensor,  # (...) bool
) -> Tensor:
    """Cross entropy in float32, averaged over the voxels that a camera sees; 0 where none is seen.

    The mean is over the visible voxels of this process's batch, all samples together (published: the count is not
    averaged over processes, unlike the counts of the detection head).

    Raises:
        ValueError: shapes that do not fit, a mask that is not bool, or labels outside 0..K-1, visible or not.
    """
    _check_targets(logits.shape[:-1], semantics, mask_camera, logits.shape[-1])
    return _mean_cross_entropy(logits[mask_camera], semantics[mask_camera])


def _mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar from (V, K) and (V,); V may be 0."""
    return cross_entropy(logits.float(), labels.long(), reduction="sum") / max(len(labels), 1)


def _check_targets(shape: torch.Size, semantics: Tensor, mask_camera: Tensor, classes: int) -> None:
    for name, tensor in (("semantics", semantics), ("mask_camera", mask_camera)):
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must be {tuple(shape)}, one entry per voxel (B, X, Y, Z); got {tuple(tensor.shape)}"
            )
    if mask_camera.dtype != torch.bool or semantics.dtype.is_floating_point:
        raise ValueError(
            f"mask_camera must be bool and semantics integers, got {mask_camera.dtype} and {semantics.dtype}"
        )
    lowest, highest = (int(value) for value in torch.aminmax(semantics))
    if lowest < 0 or highest >= classes:
        unknown = semantics[(semantics < 0) | (semantics >= classes)]
        values = ", ".join(str(int(value)) for value in unknown.unique()[:5])
        raise ValueError(
            f"occupancy labels must be 0 to {classes - 1}, got {len(unknown)} voxels of {values}; "
            "check the ground truth"
        )
