"""CenterPoint head (Yin et al., 2021) in the form the published BEVDet systems use.

Shapes: B samples, C channels, K classes of a task, (Y, X) cells of the BEV grid, M boxes of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bev_ops import BevGrid

from .box_code import CenterOutput
from .decode import decode_centers
from .detections import Detections
from .losses import center_loss
from .options import CenterLossOptions, CenterTargetOptions, DecodeOptions
from .targets import CenterTargets, center_targets

__all__ = ["CenterHead"]


class CenterHead(nn.Module):
    """One shared convolution, then per task one branch for each of heatmap, offset, height, size, yaw and velocity.

    Parameters lie where the published ones do (`shared_conv.conv`, `task_heads.0.height.0.bn`, ...), apart from four
    names: reg is `offset`, dim is `size`, rot is `yaw`, vel is `velocity`. Convolutions start from normal distributions
    with variance 2 / fan-out (Kaiming, as published) and zero bias; the last one of the heatmap has `heatmap_bias`, so
    that every cell starts as background (sigmoid(-2.19) = 0.1).

    Args:
        in_channels: channels of the BEV feature.
        tasks: names of the classes of each task; labels count them one after another.
        grid: the cells of the BEV feature.
        convs_per_branch: convolutions of a branch, the last one (plain) included.
        heatmap_bias: initial logit of the heatmap.
        log_dimensions: predict the logarithm of the size.

    Raises:
        ValueError: no tasks, an empty or repeated class, or NMS settings that do not fit the tasks.
    """

    def __init__(
        self,
        in_channels: int,
        tasks: Sequence[Sequence[str]],
        grid: BevGrid,
        *,
        shared_channels: int = 64,
        head_channels: int = 64,
        convs_per_branch: int = 2,
        heatmap_bias: float = -2.19,
        log_dimensions: bool = True,
        target_options: CenterTargetOptions | None = None,
        loss_options: CenterLossOptions | None = None,
        decode_options: DecodeOptions | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tuple(task) for task in tasks)
        _check_tasks(self.tasks)
        if convs_per_branch < 1:
            raise ValueError(f"convs_per_branch must be at least 1; got {convs_per_branch}")
        self.in_channels = in_channels
        self.grid = grid
        self.log_dimensions = log_dimensions
        self.target_options = target_options or CenterTargetOptions()
        self.loss_options = loss_options or CenterLossOptions()
        self.decode_options = decode_options or DecodeOptions()
        self.decode_options.nms_of_tasks(self.classes_per_task)

        self.shared_conv = _ConvBnRelu(in_channels, shared_channels)
        self.task_heads = nn.ModuleList(
            _TaskHead(shared_channels, head_channels, classes, convs_per_branch, heatmap_bias)
            for classes in self.classes_per_task
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, in the order of the labels."""
        return tuple(name for task in self.tasks for name in task)

    @property
    def classes_per_task(self) -> tuple[int, ...]:
        return tuple(len(task) for task in self.tasks)

    def forward(self, bev: Tensor) -> list[CenterOutput]:
        """Raw predictions of every task from a BEV feature (B, C, Y, X).

        Raises:
            ValueError: the channels or the cells are not those the head was built for.
        """
        wanted = (self.in_channels, self.grid.size[1], self.grid.size[0])
        if bev.ndim != 4 or tuple(bev.shape[1:]) != wanted:
            raise ValueError(
                f"the BEV feature must be (B, {wanted[0]}, {wanted[1]}, {wanted[2]}): channels, cells along y, "
                f"cells along x; got {tuple(bev.shape)}; build the head with the encoder's channels and grid"
            )
        shared = self.shared_conv(bev)
        return [task_head(shared) for task_head in self.task_heads]

    def targets(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[CenterTargets]:
        """What each task should predict for boxes [(M, 9)] and labels [(M,)] per sample; see `center_targets`."""
        return center_targets(
            boxes, labels, self.classes_per_task, self.grid, self.target_options, log_dimensions=self.log_dimensions
        )

    def loss(
        self, outputs: Sequence[CenterOutput], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Weighted loss terms whose sum is the loss; see `center_loss` for their names.

        Args:
            outputs: what `forward` returned.
            boxes: per sample (M, 9) in the (augmented) key-ego frame; (0, 9) for a sample without boxes.
            labels: per sample (M,) integers.

        Raises:
            ValueError: boxes or labels that do not fit each other, the batch or the classes, or non-finite boxes.
        """
        heatmap = outputs[0].heatmap
        if len(boxes) != len(heatmap):
            raise ValueError(f"boxes must hold one tensor per sample, {len(heatmap)} for this batch; got {len(boxes)}")
        targets = self.targets([b.to(heatmap.device) for b in boxes], [label.to(heatmap.device) for label in labels])
        return center_loss(outputs, targets, self.loss_options)

    def decode(self, outputs: Sequence[CenterOutput]) -> list[Detections]:
        """Detections of every sample from what `forward` returned; see `decode_centers`."""
        return decode_centers(outputs, self.grid, self.decode_options, log_dimensions=self.log_dimensions)


class _ConvBnRelu(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class _TaskHead(nn.Module):
    """The branches of one task, in the order of the published checkpoints."""

    def __init__(self, in_channels: int, channels: int, classes: int, convs: int, heatmap_bias: float) -> None:
        super().__init__()
        self.offset = _branch(in_channels, channels, 2, convs)
        self.height = _branch(in_channels, channels, 1, convs)
        self.size = _branch(in_channels, channels, 3, convs)
        self.yaw = _branch(in_channels, channels, 2, convs)
        self.velocity = _branch(in_channels, channels, 2, convs)
        self.heatmap = _branch(in_channels, channels, classes, convs)
        nn.init.constant_(self.heatmap[-1].get_parameter("bias"), heatmap_bias)

    def forward(self, shared: Tensor) -> CenterOutput:
        return CenterOutput(
            heatmap=self.heatmap(shared),
            offset=self.offset(shared),
            height=self.height(shared),
            size=self.size(shared),
            yaw=self.yaw(shared),
            velocity=self.velocity(shared),
        )


def _branch(in_channels: int, channels: int, out_channels: int, convs: int) -> nn.Sequential:
    widths = [in_channels] + [channels] * (convs - 1)
    hidden = [_ConvBnRelu(width, channels) for width in widths[:-1]]
    return nn.Sequential(*hidden, _conv(widths[-1], out_channels, bias=True))


def _conv(in_channels: int, out_channels: int, *, bias: bool) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _check_tasks(tasks: tuple[tuple[str, ...], ...]) -> None:
    classes = [name for task in tasks for name in task]
    if not tasks or not all(tasks):
        raise ValueError(f"tasks must hold at least one task with at least one class each; got {tasks}")
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ValueError(f"every class may stand in one task only; repeated: {', '.join(repeated)}")
