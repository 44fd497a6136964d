"""What a published system is: one frozen dataclass per system, every field an option of a real class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from bev_heads import CenterLossOptions, CenterTargetOptions, DecodeOptions
from bev_lss import DepthBins
from bev_nuscenes import CLASSES, BevAugmentation, ImageAugmentation
from bev_ops import BevGrid

__all__ = [
    "Align",
    "BackboneOptions",
    "BevEncoderOptions",
    "DepthNetOptions",
    "HeadOptions",
    "OccupancyOptions",
    "Published",
    "Recipe",
    "SwinOptions",
    "TemporalOptions",
    "TrainingOptions",
    "ViewOptions",
]

Align = Literal["during", "after"]
Task = Literal["detection", "occupancy"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the authors report on the nuScenes validation set, in percent.

    ``map_after`` and ``nds_after`` are the same checkpoint with history aligned after the view transform.
    """

    map: float | None = None
    nds: float | None = None
    map_after: float | None = None
    nds_after: float | None = None
    miou: float | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Options of :class:`bev_backbones.TimmBackbone`, and of the feature pyramid on it."""

    name: str = "resnet50"
    pretrained: str | None = "tv_in1k"  # timm tag of the weights training starts from
    strides: tuple[int, ...] = (16, 32)
    checkpointing: bool = True
    neck_channels: int = 256


@dataclass(frozen=True, kw_only=True)
class SwinOptions:
    """Options of :class:`bev_backbones.SwinBackbone`, and of the neck that fuses its two coarsest stages."""

    width: int = 128
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    windows: tuple[int, int, int, int] = (12, 12, 12, 12)
    shifted: bool = True  # False: GeoMIM's Swin, whose windows never move
    position_embedding: tuple[int, int] | None = None  # stored height and width; resized to the input bicubically
    drop_path: float = 0.1
    checkpointing: tuple[int, int, int, int] = (0, 0, 0, 0)  # blocks per stage whose activations are recomputed
    pretrained: str | None = None  # timm model whose weights training starts from
    strides: tuple[int, ...] = (16, 32)
    neck_channels: int = 256

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"Swin (width {self.width})" if self.shifted else f"GeoMIM Swin (width {self.width})"


@dataclass(frozen=True, kw_only=True)
class DepthNetOptions:
    """Options of :class:`bev_lss.CameraDepthNet`, and of the stereo cost volume that feeds it."""

    aspp_channels: int | None = 96
    stereo: bool = False
    cost_bias: float = 5.0  # added to the stereo cost where the previous frame does not see the point
    checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of :class:`bev_lss.LiftSplat`."""

    grid: BevGrid = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
    depth: DepthBins = DepthBins(1.0, 60.0, 1.0)
    channels: int = 64
    depth_net: DepthNetOptions | None = None  # None: one 1x1 convolution
    depth_loss_weight: float | None = None  # weight of the LiDAR depth supervision; None trains without LiDAR


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """How past frames are used.

    ``align`` is the one option behind the two columns of the published table: every past frame is lifted straight into
    the key ego of now ("during" the view transform), or into its own ego frame and its map warped ("after").
    """

    history: int = 0  # past frames stacked beside now
    align: Align = "during"
    frame_blocks: int = 0  # residual blocks that the map of every frame passes before stacking

    def __post_init__(self) -> None:
        if self.history < 0 or self.frame_blocks < 0:
            raise ValueError(f"history and frame_blocks cannot be negative, got {self}")
        if self.align not in get_args(Align):
            raise ValueError(f"align must be one of {', '.join(get_args(Align))}, got {self.align!r}")


@dataclass(frozen=True, kw_only=True)
class BevEncoderOptions:
    """Options of the encoder and its neck.

    :class:`bev_backbones.BevResNet` and :class:`bev_backbones.BevFpn` on maps; :class:`bev_backbones.VoxelResNet` and
    :class:`bev_backbones.VoxelFpn` on the voxels of occupancy systems.
    """

    channels: tuple[int, ...] = (128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2)
    strides: tuple[int, ...] = (2, 2, 2)
    out_channels: int = 256
    checkpointing: bool = False  # of voxel encoders, that of single frames included
    neck_checkpointing: bool = False  # of the voxel neck; no published system does


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
class OccupancyOptions:
    """Options of :class:`bev_heads.OccupancyHead`."""

    hidden_channels: int = 32


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the system is trained: AdamW, linear warm-up, step schedule, gradient clipping, EMA."""

    epochs: int = 20
    batch_size: int = 8  # per process
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    layer_decay: float | None = None  # each backbone layer below the top learns slower by this factor
    clip_norm: float = 5.0
    warmup_steps: int = 200
    warmup_ratio: float = 0.001
    milestones: tuple[int, ...] = (20,)  # epochs at which the learning rate is multiplied by gamma
    gamma: float = 0.1
    ema_decay: float = 0.999
    ema_initial_updates: int = 10560
    class_balanced: bool = True
    syncbn_start_epoch: int | None = None  # batch norm is shared between processes from this epoch on
    temporal_start_epoch: int | None = None  # history stays off up to and including this epoch
    load_from_detection: bool = False  # the published run started from a detection checkpoint


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One system, whole: input, model, augmentation, training and what was published for it.

    Derive one from another with :func:`dataclasses.replace`.
    """

    name: str
    description: str
    published: Published | None = None
    input_size: tuple[int, int] = (256, 704)  # height, width of the network input, pixels
    classes: tuple[str, ...] = CLASSES
    backbone: BackboneOptions | SwinOptions = BackboneOptions()
    view: ViewOptions = ViewOptions()
    temporal: TemporalOptions = TemporalOptions()
    bev_encoder: BevEncoderOptions = BevEncoderOptions()
    head: HeadOptions | OccupancyOptions = HeadOptions()
    image_augmentation: ImageAugmentation = ImageAugmentation(
        resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True, crop_h=(0.0, 0.0), resize_test=0.0
    )
    bev_augmentation: BevAugmentation = BevAugmentation(
        rotate_deg=(-22.5, 22.5), scale=(0.95, 1.05), flip_x=0.5, flip_y=0.5
    )
    training: TrainingOptions = TrainingOptions()

    @property
    def task(self) -> Task:
        """What the system predicts: boxes, or the class of every voxel."""
        return "occupancy" if isinstance(self.head, OccupancyOptions) else "detection"

    @property
    def stereo(self) -> bool:
        """Whether depth is helped by matching each frame with the one before it."""
        return self.view.depth_net is not None and self.view.depth_net.stereo

    @property
    def frames(self) -> int:
        """Frames the model is called with, newest first: now, the history, and one stereo reference frame more."""
        return 1 + self.temporal.history + int(self.stereo)

    @property
    def frames_in_words(self) -> str:
        """What these frames are, newest first."""
        past = [f"{self.temporal.history} past"] if self.temporal.history else []
        return " + ".join(["now", *past, *(["1 stereo reference"] if self.stereo else [])])

    def __post_init__(self) -> None:
        _check_input_size(self)
        if isinstance(self.head, HeadOptions):
            covered = tuple(name for task in self.head.tasks for name in task)
            if covered != self.classes:
                raise ValueError(f"head.tasks must list the classes in order: wanted {self.classes}, got {covered}")


def _check_input_size(recipe: Recipe) -> None:
    stride = max(recipe.backbone.strides)
    height, width = recipe.input_size
    if height < stride or width < stride or height % stride or width % stride:
        raise ValueError(
            f"input_size must be positive multiples of {stride} (the coarsest stride of {recipe.backbone.name}), "
            f"got {height} x {width}"
        )
