"""Settings of the CenterPoint head: targets, losses, decoding. Defaults are those of the published BEVDet-R50."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = ["CenterLossOptions", "CenterTargetOptions", "DecodeOptions", "NmsKind", "NmsOptions"]

NmsKind = Literal["rotated", "circle"]


@dataclass(frozen=True, kw_only=True)
class CenterTargetOptions:
    """How ground-truth boxes become training targets."""

    max_objects: int = 500
    """Boxes per sample and task that are trained on; further ones are dropped."""
    gaussian_overlap: float = 0.1
    """A peak is as wide as a box may be shifted and still overlap its ground truth by this IoU."""
    min_radius: int = 2
    """Lower bound of the peak's radius, in cells."""

    def __post_init__(self) -> None:
        _require(self.max_objects >= 1, f"max_objects must be at least 1; got {self.max_objects}")
        _require(0 < self.gaussian_overlap < 1, f"gaussian_overlap must lie in (0, 1); got {self.gaussian_overlap}")
        _require(self.min_radius >= 0, f"min_radius must not be negative; got {self.min_radius}")


@dataclass(frozen=True, kw_only=True)
class CenterLossOptions:
    """Weights of the two loss terms and of the ten numbers of a box code."""

    heatmap_weight: float = 1.0
    box_weight: float = 0.25
    code_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
    """Offset x, y; height; log length, width, height; sin, cos of yaw; vx, vy."""

    def __post_init__(self) -> None:
        count = len(self.code_weights)
        _require(count == 10, f"code_weights must hold 10 numbers, one per entry of a box code; got {count}")


@dataclass(frozen=True, kw_only=True)
class NmsOptions:
    """Non-maximum suppression within one task."""

    kind: NmsKind = "rotated"
    """'rotated': suppress by the overlap of turned rectangles. 'circle': suppress by the distance of the centres."""
    threshold: float = 0.2
    """Rotated: a box that overlaps a better one by more than this IoU goes."""
    radius: float = 4.0
    """Circle: a box whose *squared* distance to a better one is at most this goes (published quirk)."""
    rescale: tuple[float, ...] = ()
    """Rotated: factors on the box sizes while they are compared (scale-NMS): none, one for all, or one per class."""
    pre_max: int = 1000
    """At most this many best boxes enter the suppression."""
    post_max: int = 500
    """At most this many best boxes leave it."""

    def __post_init__(self) -> None:
        kinds = get_args(NmsKind)
        _require(self.kind in kinds, f"NMS kind must be one of {', '.join(kinds)}; got {self.kind!r}")
        _require(all(factor > 0 for factor in self.rescale), f"rescale factors must be positive; got {self.rescale}")
        _require(
            self.pre_max >= 1 and self.post_max >= 1,
            f"pre_max and post_max must be at least 1; got {self.pre_max} and {self.post_max}",
        )


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How raw predictions become boxes."""

    max_candidates: int = 500
    """Best cells per sample and task that are looked at."""
    score_threshold: float = 0.1
    """Only scores above this are kept."""
    center_range: tuple[float, float, float, float, float, float] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    """Lower x, y, z and upper x, y, z of the box centres that are kept, in metres, bounds included."""
    nms: tuple[NmsOptions, ...] = field(default_factory=lambda: (NmsOptions(),))
    """One for all tasks, or one per task."""

    def __post_init__(self) -> None:
        _require(self.max_candidates >= 1, f"max_candidates must be at least 1; got {self.max_candidates}")
        lower, upper = self.center_range[:3], self.center_range[3:]
        ordered = len(upper) == 3 and all(low < up for low, up in zip(lower, upper, strict=True))
        _require(ordered, f"center_range must be lower x, y, z, upper x, y, z, lower < upper; got {self.center_range}")
        _require(len(self.nms) >= 1, "nms must hold one NmsOptions for all tasks or one per task; got none")

    def nms_of_tasks(self, classes_per_task: tuple[int, ...]) -> tuple[NmsOptions, ...]:
        """One NmsOptions per task, checked against the number of classes of each.

        Raises:
            ValueError: the number of NmsOptions or of rescale factors fits neither rule.
        """
        count, tasks = len(self.nms), len(classes_per_task)
        _require(count in (1, tasks), f"nms must hold 1 or {tasks} (one per task) NmsOptions; got {count}")
        per_task = self.nms * tasks if count == 1 else self.nms
        for task, (nms, classes) in enumerate(zip(per_task, classes_per_task, strict=True)):
            _require(
                len(nms.rescale) in (0, 1, classes),
                f"nms of task {task}: rescale must hold 0, 1 or {classes} (one per class) factors; "
                f"got {len(nms.rescale)}",
            )
        return per_task


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
