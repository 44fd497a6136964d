"""Heads on bird's-eye-view and voxel features: targets, losses, decoding."""

from .box_code import CenterOutput, decode_boxes, encode_boxes, gather_codes
from .center_head import CenterHead
from .decode import (
    BoxCandidates,
    best_candidates,
    decode_centers,
    decode_centers_padded,
    suppress_candidates,
)
from .detections import Detections, PaddedDetections
from .losses import center_loss, gaussian_focal_loss, mean_over_processes
from .occupancy_head import OccupancyHead, occupancy_loss
from .options import CenterLossOptions, CenterTargetOptions, DecodeOptions, NmsOptions
from .targets import CenterTargets, center_targets, gaussian_radius

__all__ = [
    "BoxCandidates",
    "CenterHead",
    "CenterLossOptions",
    "CenterOutput",
    "CenterTargetOptions",
    "CenterTargets",
    "DecodeOptions",
    "Detections",
    "NmsOptions",
    "OccupancyHead",
    "PaddedDetections",
    "best_candidates",
    "center_loss",
    "center_targets",
    "decode_boxes",
    "decode_centers",
    "decode_centers_padded",
    "encode_boxes",
    "gather_codes",
    "gaussian_focal_loss",
    "gaussian_radius",
    "mean_over_processes",
    "occupancy_loss",
    "suppress_candidates",
]
