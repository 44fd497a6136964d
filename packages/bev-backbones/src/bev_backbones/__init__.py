"""Image backbones, necks and BEV encoders for camera-only bird's-eye-view perception."""

from .bev_fpn import BevFpn
from .bev_resnet import BevResNet
from .fpn import FinestFpn
from .timm_backbone import TimmBackbone

__all__ = ["BevFpn", "BevResNet", "FinestFpn", "TimmBackbone"]
