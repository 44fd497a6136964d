"""A synthetic nuScenes: driving scenes rendered to a v1.0-mini data set that the official devkit evaluates."""

from .schedule import WorldOptions
from .trainval import TrainvalSummary, make_trainval
from .weather import WEATHERS
from .world import WorldSummary, make_world

__all__ = ["WEATHERS", "TrainvalSummary", "WorldOptions", "WorldSummary", "make_trainval", "make_world"]
