"""An exported model, frame by frame.

Letters: B samples, N cameras, F past frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bev_heads import Detections
from bev_lss import CameraRig, FrameCameras
from bev_temporal import BevMemory
from bev_zoo.stream import Moment, SceneStart, check_streamed

if TYPE_CHECKING:
    from .detector import DeployedDetector

__all__ = ["DeployedStream"]


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame that the model can be run on."""

    images: Tensor  # (B, N, …)
    cameras: FrameCameras
    cam_to_global: Tensor  # (B, N, 4, 4) float64

    @property
    def cam0_to_global(self) -> Tensor:
        return self.cam_to_global[:, 0]


@dataclass(frozen=True, eq=False)
class _State:
    """What the stream remembers of the scene so far."""

    memory: BevMemory
    count: int  # frames seen, counted up to one more than the history
    cam_to_global: Tensor  # (B, N, 4, 4) float64, of the frame before
    moment: Moment = field(default_factory=Moment)
    stereo: Tensor | None = None  # (B, N, C', H / 4, W / 4) of the frame before
    first: _Frame | None = None  # stereo, while the history is not full: the first frame


class DeployedStream:
    """As :class:`bev_zoo.Stream`, for an exported model; :meth:`bev_deploy.DeployedDetector.stream` makes it.

    One run of the model per frame. With ``scene_start="as-published"``, stereo models are run three times per frame
    until the history is full; "hold-first" costs nothing.

    Args:
        model: with history.
        max_gap_s: a longer pause than this, in seconds, starts a new scene.
        scene_start: what stands in for frames before the first, see :class:`bev_zoo.Stream`.

    Raises:
        ValueError: the recipe has no history, or an unknown rule.
    """

    def __init__(
        self, model: DeployedDetector, *, max_gap_s: float = 2.0, scene_start: SceneStart = "as-published"
    ) -> None:
        check_streamed(model.recipe, scene_start)
        self.model = model
        self.max_gap_s = max_gap_s
        self.scene_start = scene_start
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a scene."""
        self._state: _State | None = None

    def __call__(
        self, images: Tensor, rig: CameraRig, *, timestamp: float | None = None, scene: str | None = None
    ) -> list[Detections] | list[Tensor]:
        """Predictions for the next frame; arguments and errors as of :meth:`bev_zoo.Stream.__call__`."""
        return self.model.decoded(self.outputs(images, rig, timestamp=timestamp, scene=scene))

    def outputs(
        self, images: Tensor, rig: CameraRig, *, timestamp: float | None = None, scene: str | None = None
    ) -> dict[str, Tensor]:
        """What the model gives for the next frame, by name."""
        self.model.check(images, rig, frames=1)
        moment, before = Moment(timestamp, scene), self._state
        if before is not None and not before.moment.goes_on_to(moment, self.max_gap_s):
            before = None
        cam_to_global = rig.ego_to_global[:, 0].double() @ rig.cam_to_ego[:, 0].double()
        frame = _Frame(images[:, 0], rig.frame_cameras(0), cam_to_global)
        outputs, memory = self._step(frame, rig.ego_to_global[:, 0, 0], before)
        self._state = replace(self._remembered(frame, outputs, memory, before), moment=moment)
        return outputs

    def state(self) -> dict[str, Tensor]:
        """What the stream remembers, as named tensors (copies): empty before the first frame.

        ``maps``, ``cam0_to_global``, ``count``, ``cam_to_global``; with times ``timestamp``; in stereo systems
        ``stereo``. What the published rule needs at the start of a scene is not among them: after
        :meth:`load_state` a history that is not full is that of "hold-first".
        """
        now = self._state
        if now is None:
            return {}
        state = {"maps": now.memory.maps, "cam0_to_global": now.memory.cam0_to_global}
        state |= {"count": torch.tensor(now.count), "cam_to_global": now.cam_to_global}
        if now.moment.timestamp is not None:
            state["timestamp"] = torch.tensor(now.moment.timestamp, dtype=torch.float64)
        if now.stereo is not None:
            state["stereo"] = now.stereo
        return {name: tensor.clone() for name, tensor in state.items()}

    def load_state(self, state: Mapping[str, Tensor], *, scene: str | None = None) -> None:
        """Go on from a state that :meth:`state` gave; empty resets.

        Args:
            state: the named tensors.
            scene: the name of the scene it stands in, if the frames to come are named.

        Raises:
            ValueError: entries missing or unknown; the stream stays as it was.
        """
        if not state:
            self.reset()
            return
        wanted = {"maps", "cam0_to_global", "count", "cam_to_global"} | (
            {"stereo"} if self.model.recipe.stereo else set()
        )
        missing, unknown = sorted(wanted - state.keys()), sorted(state.keys() - wanted - {"timestamp"})
        if missing or unknown:
            raise ValueError(f"this state does not fit: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        timestamp, stereo = state.get("timestamp"), state.get("stereo")
        self._state = _State(
            BevMemory(state["maps"].clone(), state["cam0_to_global"].clone()),
            int(state["count"]),
            state["cam_to_global"].clone(),
            Moment(None if timestamp is None else float(timestamp), scene),
            None if stereo is None else stereo.clone(),
        )

    # -- one step ------------------------------------------------------------------------------------------------------

    def _step(
        self, now: _Frame, key_ego_to_global: Tensor, before: _State | None
    ) -> tuple[dict[str, Tensor], BevMemory | None]:
        """The outputs for now, and the history that went into them (None for that of a fresh scene)."""
        samples, length = len(now.images), self.model.recipe.temporal.history
        if before is None:
            poses = now.cam0_to_global[:, None].expand(-1, length, -1, -1)
            inputs = self.model.past([], self._motion(None, poses, now, key_ego_to_global), samples)
            return self._run(now, inputs, None), None
        memory, valid = self._history(now, before)
        motion = self._motion(memory.maps, memory.cam0_to_global, now, key_ego_to_global)
        inputs = self.model.feed.history(memory.maps, valid.expand(samples, -1), motion)
        return self._run(now, inputs, before), memory

    def _run(self, now: _Frame, past: dict[str, Tensor], before: _State | None) -> dict[str, Tensor]:
        inputs = {"images": now.images, **self.model.feed.cameras(now.cameras), **past}
        if self.model.recipe.stereo and (before is None or before.stereo is None):
            inputs |= self.model.no_stereo(len(now.images), now.cameras)
        elif self.model.recipe.stereo:
            inputs |= self._compared(now, before.stereo, before.cam_to_global)
        return self.model.session(inputs)

    def _compared(self, frame: _Frame, stereo: Tensor, cam_to_global: Tensor) -> dict[str, Tensor]:
        """What goes in for a frame that is compared with another."""
        to_other = (torch.linalg.inv(cam_to_global) @ frame.cam_to_global).float()
        valid = torch.ones(len(stereo), dtype=torch.bool, device=stereo.device)
        return self.model.feed.stereo(stereo, valid, to_other, frame.cameras)

    def _motion(self, maps: Tensor | None, poses: Tensor, now: _Frame, key_ego_to_global: Tensor) -> Tensor:
        if maps is None:  # nothing is looked at but the poses
            maps = poses.new_zeros(*poses.shape[:2], 1, 1, 1)
        memory = BevMemory(maps, poses)
        return memory.motion(now.cameras.cam_to_key_ego[:, 0], key_ego_to_global, now.cameras.bev_aug)

    def _history(self, now: _Frame, before: _State) -> tuple[BevMemory, Tensor]:
        """The past maps that go into the stack of now, and which of them are there (F,); see bev_zoo.Stream."""
        memory, missing_from = before.memory, before.count
        slots = torch.arange(memory.length, device=memory.maps.device)
        if missing_from > memory.length or self.scene_start == "hold-first":
            return memory, slots >= 0
        itself = memory.maps[:, 0]  # any map: where it goes, the graph takes that of now
        if before.first is not None:
            alone = self._run(now, self.model.past([], None, len(now.images)), None)
            itself = alone["next_history"][:, 0]
            first = self._first_compared_with(now, alone["next_stereo"], before.first)
            memory = memory.with_slots_from(missing_from - 1, first, before.first.cam0_to_global)
        if missing_from < memory.length:
            memory = memory.with_slots_from(missing_from, itself, now.cam0_to_global)
        stereo = before.first is not None
        return memory, slots >= 0 if stereo else slots < missing_from

    def _first_compared_with(self, now: _Frame, stereo: Tensor, first: _Frame) -> Tensor:
        """The map of the first frame, with the stereo of now."""
        inputs = {"images": first.images, **self.model.feed.cameras(first.cameras)}
        inputs |= self.model.past([], None, len(now.images)) | self._compared(first, stereo, now.cam_to_global)
        return self.model.session(inputs)["next_history"][:, 0]

    def _remembered(
        self, now: _Frame, outputs: dict[str, Tensor], memory: BevMemory | None, before: _State | None
    ) -> _State:
        length, maps = self.model.recipe.temporal.history, outputs["next_history"]
        stereo = outputs.get("next_stereo")
        if before is None:
            poses = now.cam0_to_global[:, None].expand(-1, length, -1, -1)
            first = now if stereo is not None and self.scene_start == "as-published" else None
            return _State(BevMemory(maps, poses), 1, now.cam_to_global, stereo=stereo, first=first)
        poses = torch.cat([now.cam0_to_global[:, None], memory.cam0_to_global[:, :-1]], dim=1)
        count = min(before.count + 1, length + 1)
        first = before.first if count <= length else None
        return _State(BevMemory(maps, poses), count, now.cam_to_global, stereo=stereo, first=first)
