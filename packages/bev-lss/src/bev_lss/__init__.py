"""Camera geometry and lift-splat view transforms."""

from .cameras import FrameCameras, camera_parameters
from .depth_net import CameraDepthNet, PlainDepthNet
from .depth_supervision import depth_labels, depth_loss
from .frustum import DepthBins, frustum_points, pixel_positions, points_to_ego
from .inverse import published_inverse
from .lift_splat import LiftSplat, LiftSplatOutput
from .plan_cache import PlanCache
from .rig import CalibrationError, CameraRig

__all__ = [
    "CalibrationError",
    "CameraDepthNet",
    "CameraRig",
    "DepthBins",
    "FrameCameras",
    "LiftSplat",
    "LiftSplatOutput",
    "PlainDepthNet",
    "PlanCache",
    "camera_parameters",
    "depth_labels",
    "depth_loss",
    "frustum_points",
    "pixel_positions",
    "points_to_ego",
    "published_inverse",
]
