"""Image backbones, necks, and BEV and voxel encoders for camera-only bird's-eye-view perception."""

from .bev_fpn import BevFpn
from .bev_resnet import BevResNet
from .fpn import FinestFpn
from .swin import SwinBackbone
from .swin_weights import SwinWeightsReport, load_swin_weights, published_swin_entry, published_swin_name
from .timm_backbone import TimmBackbone
from .voxel_fpn import VoxelFpn
from .voxel_resnet import VoxelResNet

__all__ = [
    "BevFpn",
    "BevResNet",
    "FinestFpn",
    "SwinBackbone",
    "SwinWeightsReport",
    "TimmBackbone",
    "VoxelFpn",
    "VoxelResNet",
    "load_swin_weights",
    "published_swin_entry",
    "published_swin_name",
]
