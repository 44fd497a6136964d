"""Evaluate bird's-eye-view detectors with the official nuScenes metrics; ``bev_eval.app`` does it from Python."""

from bev_eval.options import EvalOptions

__all__ = ["EvalOptions"]
