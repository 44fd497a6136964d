"""Bird's-eye-view operators for PyTorch: lift-splat pooling, rotated and circle NMS, box overlap."""

from ._kernels import KernelStatus, kernel_status
from .grid import BevGrid
from .nms import nms_circle, nms_rotated
from .overlap import iou_rotated
from .plan import PoolPlan
from .pool import bev_pool

__all__ = [
    "BevGrid",
    "KernelStatus",
    "PoolPlan",
    "bev_pool",
    "iou_rotated",
    "kernel_status",
    "nms_circle",
    "nms_rotated",
]
