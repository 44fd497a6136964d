"""A synthetic nuScenes: driving scenes rendered to a v1.0-mini data set that the official devkit evaluates."""

from .schedule import WorldOptions
from .world import WorldSummary, make_world

__all__ = ["WorldOptions", "WorldSummary", "make_world"]
