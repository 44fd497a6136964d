"""What a detector and its stream are called with, checked."""

from __future__ import annotations

from torch import Tensor

from bev_lss import CameraRig

from .recipe import Recipe

__all__ = ["check_inputs"]


def check_inputs(recipe: Recipe, images: Tensor, rig: CameraRig, *, streamed: bool = False) -> None:
    """Compare images (B, T, N, 3, H, W) and rig with the recipe and with each other.

    Args:
        recipe: of the detector.
        images: for its backbone.
        rig: their calibration.
        streamed: T is 1, and not ``recipe.frames``.

    Raises:
        ValueError: they disagree.
    """
    height, width = recipe.input_size
    frames = 1 if streamed else recipe.frames
    if images.ndim != 6 or images.shape[1] != frames or tuple(images.shape[3:]) != (3, height, width):
        why = "a stream takes one frame per call" if streamed else f"T is {recipe.frames_in_words}"
        raise ValueError(
            f"{recipe.name} wants images (B, T={frames}, N, 3, {height}, {width}), got {tuple(images.shape)}: {why}; "
            "other sizes need create_model(..., input_size=(H, W))"
        )
    if tuple(images.shape[:3]) != (rig.batch_size, rig.num_frames, rig.num_cameras):
        raise ValueError(
            f"images have (B, T, N) = {tuple(images.shape[:3])}, the rig has "
            f"{(rig.batch_size, rig.num_frames, rig.num_cameras)}: they must be equal"
        )
