"""Bird's-eye-view operators for PyTorch: lift-splat pooling, rotated and circle NMS, box overlap."""

from ._kernels import KernelStatus, kernel_status
from .best import best_of_rows
from .grid import BevGrid
from .nms import NmsRule, nms_batched, nms_circle, nms_rotated
from .overlap import iou_rotated
from .plan import PoolPlan
from .pool import bev_pool

__all__ = [
    "BevGrid",
    "KernelStatus",
    "NmsRule",
    "PoolPlan",
    "best_of_rows",
    "bev_pool",
    "iou_rotated",
    "kernel_status",
    "nms_batched",
    "nms_circle",
    "nms_rotated",
]
