"""A checkpoint as the published code writes it, with drawn weights."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bev_zoo import create_model
from bev_zoo.checkpoint import published_to_our_name

__all__ = ["write_published"]

# Our names to the published ones of a single-frame ResNet system.
_RULES = (
    (r"^backbone\.body\.", "img_backbone."),
    (r"^neck\.lateral_convs\.(\d)\.", r"img_neck.lateral_convs.\1.conv."),
    (r"^neck\.output_conv\.", "img_neck.fpn_convs.0.conv."),
    (r"^view_transform\.depth_net\.projection\.", "img_view_transformer.depth_net."),
    (r"^bev_encoder\.stages\.", "img_bev_encoder_backbone.layers."),
    (r"^bev_neck\.fuse\.", "img_bev_encoder_neck.conv."),
    (r"^bev_neck\.output\.", "img_bev_encoder_neck.up2."),
    (r"^head\.", "pts_bbox_head."),
    (r"^(pts_bbox_head\.task_heads\.\d+)\.offset\.", r"\1.reg."),
    (r"^(pts_bbox_head\.task_heads\.\d+)\.size\.", r"\1.dim."),
    (r"^(pts_bbox_head\.task_heads\.\d+)\.yaw\.", r"\1.rot."),
    (r"^(pts_bbox_head\.task_heads\.\d+)\.velocity\.", r"\1.vel."),
)


def write_published(recipe: str, path: Path) -> None:
    """Write ``{"meta": …, "state_dict": …}`` with freshly drawn weights of a single-frame ResNet recipe."""
    torch.manual_seed(0)
    state = {_published(name): tensor for name, tensor in create_model(recipe).state_dict().items()}
    torch.save({"meta": {"epoch": 20, "iter": 1}, "state_dict": state}, path)


def _published(name: str) -> str:
    published = name
    for pattern, replacement in _RULES:
        published = re.sub(pattern, replacement, published)
    assert published_to_our_name(published) == name != published, (name, published)
    return published
