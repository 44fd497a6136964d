"""Train bird's-eye-view detectors; ``bev_train.app.train`` does it from Python."""

from bev_train.options import TrainOptions

__all__ = ["TrainOptions"]
