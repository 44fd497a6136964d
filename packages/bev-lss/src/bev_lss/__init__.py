"""Camera geometry and lift-splat view transforms."""

from bev_lss.depth_net import PlainDepthNet
from bev_lss.frustum import DepthBins, frustum_points, points_to_ego
from bev_lss.lift_splat import LiftSplat, LiftSplatOutput
from bev_lss.plan_cache import PlanCache
from bev_lss.rig import CalibrationError, CameraRig

__all__ = [
    "CalibrationError",
    "CameraRig",
    "DepthBins",
    "LiftSplat",
    "LiftSplatOutput",
    "PlainDepthNet",
    "PlanCache",
    "frustum_points",
    "points_to_ego",
]
