"""What a published system is: one frozen dataclass per system, every field an option of a real class."""

from __future__ import annotations

from dataclasses import dataclass, field

from bev_heads import CenterLossOptions, CenterTargetOptions, DecodeOptions
from bev_lss import DepthBins
from bev_nuscenes import CLASSES, BevAugmentation, ImageAugmentation
from bev_ops import BevGrid

__all__ = [
    "BackboneOptions",
    "BevEncoderOptions",
    "HeadOptions",
    "Published",
    "Recipe",
    "TrainingOptions",
    "ViewOptions",
]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the authors report on the nuScenes validation set, in percent."""

    map: float
    nds: float
    source: str


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Options of :class:`bev_backbones.TimmBackbone` and of the neck on it."""

    name: str = "resnet50"
    pretrained: str | None = "tv_in1k"  # timm tag of the weights training starts from
    strides: tuple[int, ...] = (16, 32)
    checkpointing: bool = True
    neck_channels: int = 256


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of :class:`bev_lss.LiftSplat`."""

    grid: BevGrid = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
    depth: DepthBins = DepthBins(1.0, 60.0, 1.0)
    channels: int = 64
    depth_loss_weight: float | None = None  # weight of the LiDAR depth supervision; None trains without LiDAR


@dataclass(frozen=True, kw_only=True)
class BevEncoderOptions:
    """Options of :class:`bev_backbones.BevResNet` and :class:`bev_backbones.BevFpn`."""

    channels: tuple[int, ...] = (128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2)
    strides: tuple[int, ...] = (2, 2, 2)
    out_channels: int = 256


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of :class:`bev_heads.CenterHead`; ``tasks`` must cover the recipe's classes in order."""

    tasks: tuple[tuple[str, ...], ...] = (CLASSES,)
    shared_channels: int = 64
    branch_channels: int = 64
    heatmap_bias: float = -2.19  # initial logit of the heatmap
    targets: CenterTargetOptions = field(default_factory=CenterTargetOptions)
    loss: CenterLossOptions = field(default_factory=CenterLossOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the system is trained: AdamW, linear warm-up, step schedule, gradient clipping, EMA."""

    epochs: int = 20
    batch_size: int = 8  # per process
    learning_rate: float = 2e-4
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    warmup_steps: int = 200
    warmup_ratio: float = 0.001
    milestones: tuple[int, ...] = (20,)  # epochs at which the learning rate is multiplied by gamma
    gamma: float = 0.1
    ema_decay: float = 0.999
    ema_initial_updates: int = 10560
    class_balanced: bool = True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One system, whole: input, model, augmentation, training and what was published for it.

    Derive one from another with :func:`dataclasses.replace`.
    """

    name: str
    description: str
    published: Published | None = None
    input_size: tuple[int, int] = (256, 704)  # height, width of the network input, pixels
    frames: int = 1  # frames the model is called with, newest first
    classes: tuple[str, ...] = CLASSES
    backbone: BackboneOptions = BackboneOptions()
    view: ViewOptions = ViewOptions()
    bev_encoder: BevEncoderOptions = BevEncoderOptions()
    head: HeadOptions = HeadOptions()
    image_augmentation: ImageAugmentation = ImageAugmentation(
        resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True, crop_h=(0.0, 0.0), resize_test=0.0
    )
    bev_augmentation: BevAugmentation = BevAugmentation(
        rotate_deg=(-22.5, 22.5), scale=(0.95, 1.05), flip_x=0.5, flip_y=0.5
    )
    training: TrainingOptions = TrainingOptions()

    def __post_init__(self) -> None:
        stride = max(self.backbone.strides)
        height, width = self.input_size
        if height < stride or width < stride or height % stride or width % stride:
            raise ValueError(
                f"input_size must be positive multiples of {stride} (the coarsest stride of {self.backbone.name}), "
                f"got {height} x {width}"
            )
        covered = tuple(name for task in self.head.tasks for name in task)
        if covered != self.classes:
            raise ValueError(f"head.tasks must list the classes in order: wanted {self.classes}, got {covered}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
