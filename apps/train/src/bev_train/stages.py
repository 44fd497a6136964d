"""The stages of a detector: the parts that are recomputed, or shared out between processes, one after the other."""

from __future__ import annotations

from torch import nn

from bev_backbones import SwinBackbone, TimmBackbone

__all__ = ["stages"]


def stages(model: nn.Module) -> list[nn.Module]:
    """Stages of the image backbone (blocks, of a Swin) and of the BEV encoders, in the order of the model.

    Each is called as a module, with tensors in and out, and changes no input in place.
    """
    found: list[nn.Module] = []
    for part in model.children():
        if isinstance(part, TimmBackbone):
            found += [child for child in part.body.children() if any(True for _ in child.children())]
        elif isinstance(part, SwinBackbone):
            found += [block for stage in part.stages for block in stage.blocks]
        elif isinstance(inner := getattr(part, "stages", None), nn.ModuleList):
            found += list(inner)
    return found
