"""Maps of past frames, kept from one frame to the next.

Shapes: B samples, H past frames (newest first), C channels, grid (Z x) Y x X. A *map* is (B, C, Y, X) or
(B, C, Z, Y, X).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bev_ops import BevGrid

from .motion import now_to_then
from .warp import warp_bev

__all__ = ["BevMemory"]


@dataclass(frozen=True, eq=False)
class BevMemory:
    """The maps of the last H frames, each in the ego frame of its own time, and where the ego was.

    Maps are stored as they were made, not as they were last warped: warping again and again would blur them.

    Args:
        maps: (B, H, C, [Z,] Y, X).
        cam0_to_global: (B, H, 4, 4) float64, camera 0 (which stands for the ego, see :func:`now_to_then`) to the global
            frame, metres.
    """

    maps: Tensor  # (B, H, C, [Z,] Y, X)
    cam0_to_global: Tensor  # (B, H, 4, 4) float64

    def __post_init__(self) -> None:
        wanted = (*self.maps.shape[:2], 4, 4)
        if self.maps.ndim not in (5, 6) or tuple(self.cam0_to_global.shape) != wanted:
            raise ValueError(
                "BevMemory wants maps (B, H, C, [Z,] Y, X) and poses (B, H, 4, 4), got "
                f"{tuple(self.maps.shape)} and {tuple(self.cam0_to_global.shape)}"
            )
        if self.cam0_to_global.dtype != torch.float64:
            raise ValueError(
                f"BevMemory wants float64 poses, got {self.cam0_to_global.dtype}: global positions are kilometres"
            )

    @classmethod
    def filled(cls, bev: Tensor, cam0_to_global: Tensor, length: int) -> BevMemory:
        """A memory whose ``length`` slots all hold the map (B, C, [Z,] Y, X) made at the pose (B, 4, 4)."""
        maps = bev[:, None].expand(-1, length, *[-1] * (bev.ndim - 1))
        return cls(maps, cam0_to_global[:, None].expand(-1, length, -1, -1))

    @property
    def length(self) -> int:
        """H."""
        return self.maps.shape[1]

    def pushed(self, bev: Tensor, cam0_to_global: Tensor) -> BevMemory:
        """The memory one frame later: this map is the newest, the oldest is forgotten."""
        return BevMemory(
            torch.cat([bev[:, None], self.maps[:, :-1]], dim=1),
            torch.cat([cam0_to_global[:, None], self.cam0_to_global[:, :-1]], dim=1),
        )

    def with_slots_from(self, slot: int, bev: Tensor, cam0_to_global: Tensor) -> BevMemory:
        """The same memory with another map and pose from ``slot`` to the oldest."""
        rest = BevMemory.filled(bev, cam0_to_global, self.length - slot)
        return BevMemory(
            torch.cat([self.maps[:, :slot], rest.maps], dim=1),
            torch.cat([self.cam0_to_global[:, :slot], rest.cam0_to_global], dim=1),
        )

    def motion(
        self,
        cam0_to_key_ego: Tensor,  # (B, 4, 4) camera 0 of now
        key_ego_to_global: Tensor,  # (B, 4, 4) ego pose of camera 0 of now
        bev_aug: Tensor,  # (B, 3, 3)
    ) -> Tensor:
        """From the key ego of now to that of every map, both augmented: (B, H, 4, 4) float32; see `now_to_then`."""
        global_to_key_ego = torch.linalg.inv(key_ego_to_global.double())[:, None]
        then = (global_to_key_ego @ self.cam0_to_global).float()  # (B, H, 4, 4)
        now = cam0_to_key_ego[:, None].expand_as(then)
        aug = bev_aug[:, None].expand(-1, self.length, -1, -1)
        motion = now_to_then(now.flatten(0, 1), then.flatten(0, 1), aug.flatten(0, 1))
        return motion.unflatten(0, (-1, self.length))

    def warped(
        self,
        cam0_to_key_ego: Tensor,  # (B, 4, 4) camera 0 of now
        key_ego_to_global: Tensor,  # (B, 4, 4) ego pose of camera 0 of now
        bev_aug: Tensor,  # (B, 3, 3)
        grid: BevGrid,
    ) -> list[Tensor]:
        """The maps as the key ego of now sees them, newest first; one sampling call for all."""
        motion = self.motion(cam0_to_key_ego, key_ego_to_global, bev_aug)
        maps = warp_bev(self.maps.flatten(0, 1), motion.flatten(0, 1), grid)
        return list(maps.unflatten(0, (-1, self.length)).unbind(1))
