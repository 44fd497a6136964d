"""An exported model with the detector's own calls.

Letters: B samples, T frames (0 is now, newest first), N cameras, F past frames.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bev_heads import BoxCandidates, CenterOutput, Detections, decode_centers, suppress_candidates
from bev_lss import CameraRig, FrameCameras
from bev_temporal import camera_to_previous, now_to_then
from bev_zoo import Recipe
from bev_zoo.build import map_shape
from bev_zoo.stream import SceneStart

from .feed import Feed, identity_motion
from .manifest import Manifest, ManifestError
from .session import DeviceChoice, OnnxRuntimeSession, Session, providers_on
from .stream import DeployedStream

__all__ = ["Backend", "DeployedDetector", "load"]

Backend = Literal["onnxruntime", "tensorrt"]


def load(
    folder: str | Path,
    backend: Backend = "onnxruntime",
    *,
    recipe: str | None = None,
    device: DeviceChoice = "auto",
    **session_options: object,
) -> DeployedDetector:
    """Load what ``bev-deploy export`` (or ``build``) wrote.

    Args:
        folder: with ``manifest.json``.
        backend: "onnxruntime", or "tensorrt" for an engine that ``bev-deploy build`` made on this machine.
        recipe: name of the recipe it must be of; any if None.
        device: "cpu", "cuda", or "auto" for a GPU if the backend can use one; engines run on a GPU only.
        session_options: of :class:`OnnxRuntimeSession` or :class:`bev_deploy.tensorrt.EngineSession`.

    Raises:
        ManifestError: no export there, a changed one, or one of another recipe.
        ValueError: an unknown backend, or a model that it cannot run here.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    if recipe not in (None, manifest.recipe):
        raise ManifestError(f"{folder} holds {manifest.recipe}, not {recipe}: name that recipe, or another folder")
    if backend == "onnxruntime":
        session_options.setdefault("providers", providers_on(device))
        return DeployedDetector(manifest, OnnxRuntimeSession(folder, manifest, **session_options))
    if backend == "tensorrt":
        if device == "cpu":
            raise ValueError("engines of TensorRT run on a GPU, not on the CPU: choose onnxruntime, or device cuda")
        from .tensorrt import EngineSession  # the bindings are optional

        return DeployedDetector(manifest, EngineSession(folder, manifest, **session_options))
    raise ValueError(f'backend must be "onnxruntime" or "tensorrt", got {backend!r}')


class DeployedDetector:
    """An exported model; call it as the :class:`bev_zoo.Detector` it was made from.

    A model with history runs once per frame: whole sequences go through it oldest frame first, and every step but the
    last is run for its map alone. Pooling tables follow the calibration of every call.

    Args:
        manifest: of the export.
        session: the loaded model.

    Attributes:
        recipe: of the model, at the input size and alignment of the export.
    """

    def __init__(self, manifest: Manifest, session: Session) -> None:
        self.manifest = manifest
        self.session = session
        self.recipe: Recipe = manifest.recipe_at_size()
        self.feed = Feed(self.recipe, manifest.bounds if session.fixed_tables else None)
        self._specs = {spec.name: spec for spec in manifest.inputs}

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.session.device

    def predict(self, images: Tensor, rig: CameraRig) -> list[Detections] | list[Tensor]:
        """As :meth:`bev_zoo.Detector.predict`.

        Args:
            images: (B, T, N, 3, H, W) normalised, or (B, T, N, H', W', 3) uint8 if the model pre-processes.
            rig: the calibration, T frames.

        Raises:
            ValueError: inputs that do not fit the export.
        """
        return self.decoded(self.outputs(images, rig))

    def outputs(self, images: Tensor, rig: CameraRig) -> dict[str, Tensor]:
        """What the model gives for a whole sequence, by name, state included; arguments as for :meth:`predict`."""
        self.check(images, rig, self.recipe.frames)
        cameras = rig.all_frame_cameras()
        stereo = self._reference(images, cameras) if self.recipe.stereo else None
        motions = camera_to_previous(rig) if self.recipe.stereo else None
        maps: list[Tensor] = []  # newest first
        for t in reversed(range(1 + self.recipe.temporal.history)):
            inputs = {"images": images[:, t], **self.feed.cameras(*self._seen_from_now(cameras, t))}
            if self.recipe.temporal.history:
                inputs |= self.past(maps, self._motions(cameras) if t == 0 else None, len(images))
            if motions is not None:
                valid = torch.ones(len(images), dtype=torch.bool, device=self.device)
                inputs |= self.feed.stereo(stereo, valid, motions[:, t], cameras[t])
            outputs = self.session(inputs)
            maps = [outputs["next_history"][:, 0], *maps] if self.recipe.temporal.history else maps
            stereo = outputs.get("next_stereo")
        return outputs

    def stream(self, *, max_gap_s: float = 2.0, scene_start: SceneStart = "as-published") -> DeployedStream:
        """As :meth:`bev_zoo.Detector.stream`.

        Raises:
            ValueError: the recipe has no history.
        """
        return DeployedStream(self, max_gap_s=max_gap_s, scene_start=scene_start)

    def decoded(self, outputs: dict[str, Tensor]) -> list[Detections] | list[Tensor]:
        """Named outputs to what :meth:`predict` gives."""
        if self.recipe.task == "occupancy":
            voxels = outputs["logits"].argmax(-1) if self.manifest.raw else outputs["voxels"]
            return list(voxels.to(torch.uint8))
        head, grid = self.recipe.head, self.recipe.view.grid
        if self.manifest.raw:
            return decode_centers(self.raw(outputs), grid, head.decode)
        candidates = BoxCandidates(outputs["boxes"], outputs["scores"], outputs["labels"].long())
        return suppress_candidates(candidates, [len(task) for task in head.tasks], grid, head.decode).unpadded()

    def raw(self, outputs: dict[str, Tensor]) -> list[CenterOutput] | Tensor:
        """Named raw outputs as :meth:`bev_zoo.Detector.forward` gives them.

        Raises:
            ValueError: the model was exported with post-processing.
        """
        if not self.manifest.raw:
            raise ValueError("this model was exported with post-processing: export it with --raw for raw outputs")
        if self.recipe.task == "occupancy":
            return outputs["logits"]
        tasks = range(len(self.recipe.head.tasks))
        return [CenterOutput(*(outputs[f"task{t}_{field}"] for field in CenterOutput._fields)) for t in tasks]

    # -- the inputs of a step ------------------------------------------------------------------------------------------

    def past(self, maps: list[Tensor], motion: Tensor | None, samples: int) -> dict[str, Tensor]:
        """What some past maps, newest first, go in as; those that are missing are taken to be that of now.

        Args:
            maps: (B, C, [Z,] Y, X) each.
            motion: (B, F, 4, 4) from now to them; an ego that stands still if None.
            samples: B.
        """
        count, device = self.recipe.temporal.history, self.device
        spec = self._specs["history"]
        filled = torch.zeros(samples, count, *map_shape(self.recipe), dtype=getattr(torch, spec.dtype), device=device)
        for slot, bev in enumerate(maps):
            filled[:, slot] = bev
        valid = (torch.arange(count, device=device) < len(maps)).expand(samples, count)
        return self.feed.history(filled, valid, identity_motion(samples, count, device) if motion is None else motion)

    def no_stereo(self, samples: int, cameras: FrameCameras) -> dict[str, Tensor]:
        """What goes in for a frame that is compared with itself."""
        spec, device = self._specs["stereo"], self.device
        features = torch.zeros(samples, *spec.shape[1:], dtype=getattr(torch, spec.dtype), device=device)
        still = identity_motion(samples, cameras.num_cameras, device)
        return self.feed.stereo(features, torch.zeros(samples, dtype=torch.bool, device=device), still, cameras)

    def check(self, images: Tensor, rig: CameraRig, frames: int) -> None:
        """Compare images and rig with the export.

        Raises:
            ValueError: they do not fit it or each other.
        """
        spec = self._specs["images"]
        batch = len(images) if self.manifest.batch is None else self.manifest.batch
        wanted = (batch, frames, *spec.shape[1:])
        if tuple(images.shape) != wanted or images.dtype != getattr(torch, spec.dtype):
            raise ValueError(
                f"this export of {self.recipe.name} wants images {wanted} {spec.dtype}, got {tuple(images.shape)} "
                f"{images.dtype}: feed it so, or export with other --batch, --cameras, --input-size or --preprocess"
            )
        if (rig.batch_size, rig.num_frames, rig.num_cameras) != wanted[:3]:
            raise ValueError(
                f"images have (B, T, N) = {wanted[:3]}, the rig has "
                f"{(rig.batch_size, rig.num_frames, rig.num_cameras)}: they must be equal"
            )

    def _reference(self, images: Tensor, cameras: tuple[FrameCameras, ...]) -> Tensor:
        """Stereo features of the oldest frame, which is only compared with."""
        t = self.recipe.frames - 1
        inputs = {"images": images[:, t], **self.feed.cameras(cameras[t])}
        return self.session(inputs | self.past([], None, len(images)) | self.no_stereo(len(images), cameras[t]))[
            "next_stereo"
        ]

    def _seen_from_now(self, cameras: tuple[FrameCameras, ...], t: int) -> tuple[FrameCameras, FrameCameras]:
        """The cameras that frame t is lifted with, and those its depth net is told; see :class:`bev_zoo.Detector`."""
        at_now_pose = replace(cameras[t], cam_to_key_ego=cameras[0].cam_to_key_ego)
        return (at_now_pose if self.recipe.temporal.align == "after" else cameras[t]), at_now_pose

    def _motions(self, cameras: tuple[FrameCameras, ...]) -> Tensor | None:
        """(B, F, 4, 4); None where alignment is part of the lifting."""
        if self.recipe.temporal.align == "during":
            return None
        then = [cameras[t].cam_to_key_ego[:, 0] for t in range(1, 1 + self.recipe.temporal.history)]
        now, aug = cameras[0].cam_to_key_ego[:, 0], cameras[0].bev_aug
        return torch.stack([now_to_then(now, pose, aug) for pose in then], dim=1)
