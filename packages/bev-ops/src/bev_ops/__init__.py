"""Bird's-eye-view operators for PyTorch: lift-splat pooling, stereo matching, map warping, NMS, box overlap."""

from ._kernels import KernelStatus, kernel_status
from .best import best_of_rows
from .grid import BevGrid
from .nms import NmsRule, nms_batched, nms_circle, nms_rotated
from .overlap import iou_rotated
from .peaks import draw_peaks
from .plan import PoolPlan
from .pool import bev_pool
from .softmax import depth_softmax
from .sweep import SweepViews, matching_cost, matching_probability
from .warp import warp_affine

__all__ = [
    "BevGrid",
    "KernelStatus",
    "NmsRule",
    "PoolPlan",
    "SweepViews",
    "best_of_rows",
    "bev_pool",
    "depth_softmax",
    "draw_peaks",
    "iou_rotated",
    "kernel_status",
    "matching_cost",
    "matching_probability",
    "nms_batched",
    "nms_circle",
    "nms_rotated",
    "warp_affine",
]
