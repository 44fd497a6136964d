"""Running a temporal system frame by frame: one frame in, predictions out, history kept inside.

Shapes: B samples that run side by side, N cameras, H past frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from bev_heads import CenterOutput, Detections
from bev_lss import CameraRig, FrameCameras, camera_parameters
from bev_temporal import BevMemory

from .features import FrameFeatures, StereoReference

if TYPE_CHECKING:
    from .detector import Detector

__all__ = ["SceneStart", "Stream", "StreamOrderError"]

SceneStart = Literal["as-published", "hold-first"]
_START_PREFIX = "start."


class StreamOrderError(ValueError):
    """A frame that is not newer than the one before it."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame that later frames may be compared with, by tensors alone."""

    lifted: Tensor  # (B, N, C, h, w)
    stereo: Tensor  # (B, N, C', H / 4, W / 4)
    cam_to_key_ego: Tensor  # (B, N, 4, 4)
    intrinsics: Tensor  # (B, N, 3, 3)
    image_aug: Tensor  # (B, N, 3, 3)
    bev_aug: Tensor  # (B, 3, 3)
    cam_to_global: Tensor  # (B, N, 4, 4) float64

    def cameras(self) -> FrameCameras:
        return FrameCameras(self.cam_to_key_ego, self.intrinsics, self.image_aug, self.bev_aug)

    def reference_for(self, other: _Seen) -> StereoReference:
        """This frame, for the stereo of another."""
        other_to_this = torch.linalg.inv(self.cam_to_global) @ other.cam_to_global
        return StereoReference(self.stereo, other_to_this.float())


class Stream:
    """A temporal detector, one frame at a time; :meth:`bev_zoo.Detector.stream` makes it.

    Every frame passes backbone and view transform once. Its map, and in stereo systems its features, stay for the
    frames to come, so the work on images does not depend on the length of the history; aligning and stacking H stored
    maps is one sampling call and one concatenation.

    Results equal those of a batch with alignment after the view transform, whatever the recipe says: a stored map
    cannot be lifted anew. They are equal to rounding where the cameras' timing offsets and mountings repeat from frame
    to frame; a stored map was lifted with the offsets of its own time, where the batch takes those of now.

    At the start of a scene the history is not there yet. "as-published" does what the published data set does: frames
    that are missing are taken to be the frame of now, so that the oldest frame's stereo looks *forward*, at now; this
    costs a stereo system two more view transforms per frame until the history is full. "hold-first" takes them to be
    the scene's first frame, standing still, which costs nothing.

    Args:
        model: a detector with history. It is run in evaluation mode.
        max_gap_s: a longer pause than this, in seconds, starts a new scene (key frames are 0.5 s apart).
        scene_start: the rule above.

    Raises:
        ValueError: the recipe has no history, or an unknown rule.
    """

    def __init__(self, model: Detector, *, max_gap_s: float = 2.0, scene_start: SceneStart = "as-published") -> None:
        if model.recipe.temporal.history == 0:
            raise ValueError(f"{model.recipe.name} has no history: call predict on single frames")
        if scene_start not in get_args(SceneStart):
            raise ValueError(f"scene_start must be one of {', '.join(get_args(SceneStart))}, got {scene_start!r}")
        self.model = model
        self.max_gap_s = max_gap_s
        self.scene_start = scene_start
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a scene."""
        self._memory: BevMemory | None = None
        self._previous: _Seen | None = None  # stereo: the frame before this one
        self._first: _Seen | None = None  # stereo, while the history is not full: the scene's first frame
        self._count = 0  # frames seen in this scene, counted up to one more than the history
        self._shape: tuple[int, int] | None = None  # B, N
        self._timestamp: float | None = None
        self._scene: str | None = None

    @torch.no_grad()
    def __call__(
        self, images: Tensor, rig: CameraRig, *, timestamp: float | None = None, scene: str | None = None
    ) -> list[Detections] | list[Tensor]:
        """Predictions for the next frame, as :meth:`bev_zoo.Detector.predict` gives them.

        Args:
            images: (B, 1, N, 3, H, W) normalised.
            rig: its calibration, one frame.
            timestamp: seconds; must grow from call to call. Left out, no order is checked and no gap is seen.
            scene: any name; another one than before starts a new scene.

        Raises:
            StreamOrderError: not newer than the frame before it. The stream stays as it was.
            ValueError: shapes that do not fit the recipe or the frames before.
        """
        return self.model.head.decode(self.raw(images, rig, timestamp=timestamp, scene=scene))

    @torch.no_grad()
    def raw(
        self, images: Tensor, rig: CameraRig, *, timestamp: float | None = None, scene: str | None = None
    ) -> list[CenterOutput] | Tensor:
        """The same, before decoding."""
        self._check(images, rig)
        self._start_or_continue(timestamp, scene, _samples_and_cameras(images))
        was_training = self.model.training
        self.model.eval()
        try:
            outputs = self._step(images[:, 0], rig)
        finally:
            self.model.train(was_training)
        self._shape, self._timestamp, self._scene = _samples_and_cameras(images), timestamp, scene
        return outputs

    def state(self) -> dict[str, Tensor]:
        """Everything the stream remembers, as named tensors (copies): empty before the first frame.

        ``maps``, ``cam0_to_global``, ``count``; with times also ``timestamp`` (float64 seconds); in stereo systems
        ``previous.*``, and ``start.*`` while the history is not full.
        """
        if self._memory is None:
            return {}
        state = {"maps": self._memory.maps, "cam0_to_global": self._memory.cam0_to_global}
        state["count"] = torch.tensor(self._count)
        if self._timestamp is not None:
            state["timestamp"] = torch.tensor(self._timestamp, dtype=torch.float64)
        for prefix, seen in (("previous.", self._previous), (_START_PREFIX, self._first)):
            if seen is not None:
                state |= {prefix + field.name: getattr(seen, field.name) for field in fields(seen)}
        return {name: tensor.clone() for name, tensor in state.items()}

    def load_state(self, state: Mapping[str, Tensor], *, scene: str | None = None) -> None:
        """Go on from a state that :meth:`state` gave.

        Args:
            state: the named tensors; empty resets.
            scene: the name of the scene it stands in, if the frames to come are named.

        Raises:
            ValueError: entries missing or unknown, or maps of another system; the stream stays as it was.
        """
        parts = _split_state(state, stereo=self.model.recipe.stereo)
        if parts is not None:
            self._check_maps(parts.memory)
        self.reset()
        if parts is None:
            return
        self._memory, self._previous, self._first = parts.memory, parts.previous, parts.first
        self._count, self._timestamp, self._scene = parts.count, parts.timestamp, scene

    # -- one step ------------------------------------------------------------------------------------------------------

    def _step(self, images: Tensor, rig: CameraRig) -> list[CenterOutput] | Tensor:
        features = self.model.image_features(images)
        now = _seen(features, rig)
        bev = self._map(now, features, self._previous)
        cam0_to_global = now.cam_to_global[:, 0]
        history = self._history(now, bev)
        key_ego_to_global = rig.ego_to_global[:, 0, 0]
        past = history.warped(now.cam_to_key_ego[:, 0], key_ego_to_global, rig.bev_aug, self.model.recipe.view.grid)
        self._remember(now, bev, cam0_to_global)
        return self.model.head(self.model.encoded([bev, *past]))

    def _map(self, frame: _Seen, features: FrameFeatures, compared_with: _Seen | None) -> Tensor:
        """The map of a frame; without another to be compared with, stereo sees the frame itself."""
        reference = None
        if self.model.recipe.stereo:
            reference = (compared_with or frame).reference_for(frame)
        cameras = frame.cameras()
        return self.model.frame_map(features, cameras, camera_parameters(cameras), reference).bev

    def _history(self, now: _Seen, bev: Tensor) -> BevMemory:
        """The H past maps that go into the stack of now."""
        length = self.model.recipe.temporal.history
        here = now.cam_to_global[:, 0]
        if self._memory is None:
            return BevMemory.filled(bev, here, length)
        if self._count > length or self.scene_start == "hold-first":
            return self._memory
        memory, missing_from = self._memory, self._count
        if self._first is not None:  # the oldest frame there is, compared with now
            oldest = self._map(self._first, FrameFeatures(self._first.lifted, self._first.stereo), now)
            memory = memory.with_slots_from(missing_from - 1, oldest, self._first.cam_to_global[:, 0])
        if missing_from < length:
            itself = bev if self._first is None else self._map(now, FrameFeatures(now.lifted, now.stereo), None)
            memory = memory.with_slots_from(missing_from, itself, here)
        return memory

    def _remember(self, now: _Seen, bev: Tensor, cam0_to_global: Tensor) -> None:
        length = self.model.recipe.temporal.history
        if self._memory is None:
            self._memory = BevMemory.filled(bev, cam0_to_global, length)
            if self.model.recipe.stereo and self.scene_start == "as-published":
                self._first = now
        else:
            self._memory = self._memory.pushed(bev, cam0_to_global)
        self._count = min(self._count + 1, length + 1)
        if self._count > length:
            self._first = None
        self._previous = now if self.model.recipe.stereo else None

    # -- checks --------------------------------------------------------------------------------------------------------

    def _start_or_continue(self, timestamp: float | None, scene: str | None, shape: tuple[int, int]) -> None:
        """Reset on a new scene or a gap; refuse a frame that is out of order."""
        if self._memory is not None and (scene != self._scene or self._paused(timestamp)):
            self.reset()
        if self._shape is not None and self._shape != shape:
            raise ValueError(f"the stream runs (B, N) = {self._shape} samples and cameras, got {shape}: reset() first")

    def _paused(self, timestamp: float | None) -> bool:
        if timestamp is None or self._timestamp is None:
            return False
        if timestamp <= self._timestamp:
            raise StreamOrderError(
                f"frames must come in order: got {timestamp:.6f} s after {self._timestamp:.6f} s; reset() to start anew"
            )
        return timestamp - self._timestamp > self.max_gap_s

    def _check(self, images: Tensor, rig: CameraRig) -> None:
        height, width = self.model.recipe.input_size
        if images.ndim != 6 or images.shape[1] != 1 or tuple(images.shape[3:]) != (3, height, width):
            raise ValueError(
                f"a stream of {self.model.recipe.name} wants one frame (B, 1, N, 3, {height}, {width}) per call, got "
                f"{tuple(images.shape)}"
            )
        if tuple(images.shape[:3]) != (rig.batch_size, rig.num_frames, rig.num_cameras):
            raise ValueError(
                f"images have (B, T, N) = {tuple(images.shape[:3])}, the rig has "
                f"{(rig.batch_size, rig.num_frames, rig.num_cameras)}: they must be equal"
            )

    def _check_maps(self, memory: BevMemory) -> None:
        recipe = self.model.recipe
        x, y, z = recipe.view.grid.size
        cells = (z, y, x) if recipe.task == "occupancy" else (y, x)
        got = (memory.length, *memory.maps.shape[3:])
        if got != (recipe.temporal.history, *cells):
            raise ValueError(
                f"{recipe.name} keeps {recipe.temporal.history} maps of {cells} cells, the state holds "
                f"{got[0]} of {got[1:]}: it belongs to another system"
            )


@dataclass(frozen=True, eq=False)
class _State:
    memory: BevMemory
    count: int
    timestamp: float | None
    previous: _Seen | None
    first: _Seen | None


def _split_state(state: Mapping[str, Tensor], *, stereo: bool) -> _State | None:
    if not state:
        return None
    names = [field.name for field in fields(_Seen)]
    groups = {prefix: [prefix + name for name in names] for prefix in ("previous.", _START_PREFIX)}
    wanted = {"maps", "cam0_to_global", "count"} | (set(groups["previous."]) if stereo else set())
    optional = {"timestamp"} | (set(groups[_START_PREFIX]) if stereo else set())
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted - optional)
    if missing or unknown:
        raise ValueError(f"this state does not fit: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")

    def seen(prefix: str) -> _Seen | None:
        return _Seen(**{n: state[prefix + n].clone() for n in names}) if prefix + names[0] in state else None

    timestamp = state.get("timestamp")
    return _State(
        BevMemory(state["maps"].clone(), state["cam0_to_global"].clone()),
        int(state["count"]),
        None if timestamp is None else float(timestamp),
        seen("previous."),
        seen(_START_PREFIX),
    )


def _samples_and_cameras(images: Tensor) -> tuple[int, int]:
    return images.shape[0], images.shape[2]


def _seen(features: FrameFeatures, rig: CameraRig) -> _Seen:
    cameras = rig.frame_cameras(0)
    cam_to_global = rig.ego_to_global[:, 0].double() @ rig.cam_to_ego[:, 0].double()
    return _Seen(features.lifted, features.stereo, *cameras.tensors(), cam_to_global)
