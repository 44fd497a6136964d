"""Image backbones, necks and BEV encoders for camera-only bird's-eye-view perception."""

from bev_backbones.bev_fpn import BevFpn
from bev_backbones.bev_resnet import BevResNet
from bev_backbones.fpn import FinestFpn
from bev_backbones.timm_backbone import TimmBackbone

__all__ = ["BevFpn", "BevResNet", "FinestFpn", "TimmBackbone"]
