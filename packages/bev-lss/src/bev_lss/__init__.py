"""Camera geometry and lift-splat view transforms."""

from .depth_net import PlainDepthNet
from .depth_supervision import depth_labels, depth_loss
from .frustum import DepthBins, frustum_points, points_to_ego
from .lift_splat import LiftSplat, LiftSplatOutput
from .plan_cache import PlanCache
from .rig import CalibrationError, CameraRig

__all__ = [
    "CalibrationError",
    "CameraRig",
    "DepthBins",
    "LiftSplat",
    "LiftSplatOutput",
    "PlainDepthNet",
    "PlanCache",
    "depth_labels",
    "depth_loss",
    "frustum_points",
    "points_to_ego",
]
