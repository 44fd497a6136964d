"""Evaluate bird's-eye-view models with the official and published metrics; ``bev_eval.app`` does it from Python."""

from bev_eval.options import EvalOptions

__all__ = ["EvalOptions"]
