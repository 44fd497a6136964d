"""Running a temporal system frame by frame: one frame in, predictions out, history kept inside.

Shapes: B samples that run side by side, N cameras, H past frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from bev_heads import CenterOutput, Detections
from bev_lss import CameraRig, FrameCameras, camera_parameters
from bev_temporal import BevMemory

from .build import map_shape
from .features import FrameFeatures, StereoReference
from .inputs import check_inputs
from .recipe import Recipe

if TYPE_CHECKING:
    from .detector import Detector

__all__ = ["Moment", "SceneStart", "Stream", "StreamOrderError", "check_streamed"]

SceneStart = Literal["as-published", "hold-first"]
_START_PREFIX = "start."


class StreamOrderError(ValueError):
    """A frame that is not newer than the one before it."""


@dataclass(frozen=True)
class Moment:
    """When and in which scene a frame was seen, as far as the caller says so.

    Attributes:
        timestamp: seconds.
        scene: any name.
    """

    timestamp: float | None = None
    scene: str | None = None

    def goes_on_to(self, later: Moment, max_gap_s: float) -> bool:
        """Whether a later frame belongs to the same scene: same name, and no longer pause than ``max_gap_s``.

        Raises:
            StreamOrderError: it is of the same scene and not later.
        """
        if later.scene != self.scene:
            return False
        if later.timestamp is None or self.timestamp is None:
            return True
        if later.timestamp <= self.timestamp:
            raise StreamOrderError(
                f"frames must come in order: got {later.timestamp:.6f} s after {self.timestamp:.6f} s; reset() to "
                "start anew"
            )
        return later.timestamp - self.timestamp <= max_gap_s


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame that later frames may be compared with, by tensors alone."""

    lifted: Tensor  # (B, N, C, h, w)
    stereo: Tensor | None  # (B, N, C', H / 4, W / 4); None in systems without stereo
    cam_to_key_ego: Tensor  # (B, N, 4, 4)
    intrinsics: Tensor  # (B, N, 3, 3)
    image_aug: Tensor  # (B, N, 3, 3)
    bev_aug: Tensor  # (B, 3, 3)
    cam_to_global: Tensor  # (B, N, 4, 4) float64

    @property
    def features(self) -> FrameFeatures:
        return FrameFeatures(self.lifted, self.stereo)

    @property
    def cameras(self) -> FrameCameras:
        return FrameCameras(self.cam_to_key_ego, self.intrinsics, self.image_aug, self.bev_aug)

    @property
    def cam0_to_global(self) -> Tensor:  # (B, 4, 4) float64
        return self.cam_to_global[:, 0]

    def reference_for(self, other: _Seen) -> StereoReference:
        """This frame, for the stereo of another."""
        other_to_this = torch.linalg.inv(self.cam_to_global) @ other.cam_to_global
        return StereoReference(self.stereo, other_to_this.float())


@dataclass(frozen=True, eq=False)
class _State:
    """What a stream remembers of the scene so far."""

    memory: BevMemory
    count: int  # frames seen, counted up to one more than the history
    moment: Moment = field(default_factory=Moment)
    previous: _Seen | None = None  # stereo: the frame before
    first: _Seen | None = None  # stereo, while the history is not full: the first frame


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
        check_streamed(model.recipe, scene_start)
        self.model = model
        self.max_gap_s = max_gap_s
        self.scene_start = scene_start
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a scene."""
        self._state: _State | None = None

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
        check_inputs(self.model.recipe, images, rig, streamed=True)
        moment, state = Moment(timestamp, scene), self._state
        if state is not None and not state.moment.goes_on_to(moment, self.max_gap_s):
            state = None
        if state is not None:
            self._check_continuation(state, images)
        was_training = self.model.training
        self.model.eval()
        try:
            outputs, state = self._step(images[:, 0], rig, state)
        finally:
            self.model.train(was_training)
        self._state = replace(state, moment=moment)
        return outputs

    def state(self) -> dict[str, Tensor]:
        """Everything the stream remembers, as named tensors (copies): empty before the first frame.

        ``maps``, ``cam0_to_global``, ``count``; with times also ``timestamp`` (float64 seconds); in stereo systems
        ``previous.*``, and ``start.*`` while the history is not full.
        """
        now = self._state
        if now is None:
            return {}
        state = {"maps": now.memory.maps, "cam0_to_global": now.memory.cam0_to_global, "count": torch.tensor(now.count)}
        if now.moment.timestamp is not None:
            state["timestamp"] = torch.tensor(now.moment.timestamp, dtype=torch.float64)
        for prefix, seen in (("previous.", now.previous), (_START_PREFIX, now.first)):
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
        loaded = _named_state(state, scene, stereo=self.model.recipe.stereo) if state else None
        if loaded is not None:
            self._check_maps(loaded.memory)
        self._state = loaded

    # -- one step ------------------------------------------------------------------------------------------------------

    def _step(
        self, images: Tensor, rig: CameraRig, before: _State | None
    ) -> tuple[list[CenterOutput] | Tensor, _State]:
        now = _seen(self.model.image_features(images), rig)
        bev = self._map(now, None if before is None else before.previous)
        history = self._history(now, bev, before)
        key_ego_to_global = rig.ego_to_global[:, 0, 0]
        past = history.warped(now.cam_to_key_ego[:, 0], key_ego_to_global, rig.bev_aug, self.model.recipe.view.grid)
        return self.model.head(self.model.encoded([bev, *past])), self._remembered(now, bev, before)

    def _map(self, frame: _Seen, compared_with: _Seen | None) -> Tensor:
        """The map of a frame; without another to be compared with, stereo sees the frame itself."""
        reference = None
        if self.model.recipe.stereo:
            reference = (compared_with or frame).reference_for(frame)
        return self.model.frame_map(frame.features, frame.cameras, camera_parameters(frame.cameras), reference).bev

    def _history(self, now: _Seen, bev: Tensor, before: _State | None) -> BevMemory:
        """The H past maps that go into the stack of now."""
        length = self.model.recipe.temporal.history
        if before is None:
            return BevMemory.filled(bev, now.cam0_to_global, length)
        memory, missing_from, first = before.memory, before.count, before.first
        if missing_from > length or self.scene_start == "hold-first":
            return memory
        if first is not None:  # the oldest frame there is, compared with now
            memory = memory.with_slots_from(missing_from - 1, self._map(first, now), first.cam0_to_global)
        if missing_from < length:
            itself = bev if first is None else self._map(now, None)
            memory = memory.with_slots_from(missing_from, itself, now.cam0_to_global)
        return memory

    def _remembered(self, now: _Seen, bev: Tensor, before: _State | None) -> _State:
        length, stereo = self.model.recipe.temporal.history, self.model.recipe.stereo
        previous = now if stereo else None
        if before is None:
            first = now if stereo and self.scene_start == "as-published" else None
            return _State(BevMemory.filled(bev, now.cam0_to_global, length), count=1, previous=previous, first=first)
        count = min(before.count + 1, length + 1)
        first = before.first if count <= length else None
        return _State(before.memory.pushed(bev, now.cam0_to_global), count=count, previous=previous, first=first)

    # -- checks --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _check_continuation(state: _State, images: Tensor) -> None:
        """Samples must be as many as before, and cameras where they are compared with those before."""
        samples, _, cameras = images.shape[:3]
        wanted = (state.memory.maps.shape[0], cameras)
        if state.previous is not None:
            wanted = tuple(state.previous.lifted.shape[:2])
        if (samples, cameras) != wanted:
            raise ValueError(
                f"the stream runs (B, N) = {wanted} samples and cameras, got {(samples, cameras)}: reset() first"
            )

    def _check_maps(self, memory: BevMemory) -> None:
        recipe = self.model.recipe
        wanted, got = (recipe.temporal.history, map_shape(recipe)), (memory.length, tuple(memory.maps.shape[2:]))
        if got != wanted:
            raise ValueError(
                f"{recipe.name} keeps {wanted[0]} maps (C, [Z,] Y, X) = {wanted[1]}, the state holds {got[0]} of "
                f"{got[1]}: it belongs to another system"
            )


def check_streamed(recipe: Recipe, scene_start: SceneStart) -> None:
    """Check that a recipe can be streamed so.

    Raises:
        ValueError: it has no history, or the rule is unknown.
    """
    if recipe.temporal.history == 0:
        raise ValueError(f"{recipe.name} has no history: call predict on single frames")
    if scene_start not in get_args(SceneStart):
        raise ValueError(f"scene_start must be one of {', '.join(get_args(SceneStart))}, got {scene_start!r}")


def _named_state(state: Mapping[str, Tensor], scene: str | None, *, stereo: bool) -> _State:
    """The state that :meth:`Stream.state` took apart."""
    names = [field.name for field in fields(_Seen)]
    groups = {prefix: [prefix + name for name in names] for prefix in ("previous.", _START_PREFIX)}
    wanted = {"maps", "cam0_to_global", "count"} | (set(groups["previous."]) if stereo else set())
    if stereo and not state.keys().isdisjoint(groups[_START_PREFIX]):
        wanted |= set(groups[_START_PREFIX])
    missing, unknown = sorted(wanted - state.keys()), sorted(state.keys() - wanted - {"timestamp"})
    if missing or unknown:
        raise ValueError(f"this state does not fit: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")

    def seen(prefix: str) -> _Seen | None:
        return _Seen(**{n: state[prefix + n].clone() for n in names}) if prefix + names[0] in state else None

    timestamp = state.get("timestamp")
    return _State(
        BevMemory(state["maps"].clone(), state["cam0_to_global"].clone()),
        int(state["count"]),
        Moment(None if timestamp is None else float(timestamp), scene),
        seen("previous."),
        seen(_START_PREFIX),
    )


def _seen(features: FrameFeatures, rig: CameraRig) -> _Seen:
    cameras = rig.frame_cameras(0)
    cam_to_global = rig.ego_to_global[:, 0].double() @ rig.cam_to_ego[:, 0].double()
    return _Seen(features.lifted, features.stereo, *cameras.tensors(), cam_to_global)
