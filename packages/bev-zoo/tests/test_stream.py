"""Streaming: the same predictions as a batch, from one frame at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from bev_lss import CameraRig
from bev_ops import BevGrid
from bev_zoo import Detections, Detector, Recipe, Stream, StreamOrderError, create_model, get_recipe

SIZE = (64, 96)
FRAMES = 6  # the last two have a full history
HISTORY = 3
TEMPORAL = ("bevdet-tiny-4d", "bevdet-tiny-stereo")


class Drive:
    """A drive of key frames 0.5 s apart past random images: two cameras, each with its own timing offset."""

    def __init__(self, *, jitter_s: float = 0.0, speed: float = 6.0, yaw_rate: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(FRAMES, 2, 3, *SIZE, generator=generator)
        self.offsets = torch.tensor([0.0, 0.03]) + jitter_s * torch.randn(FRAMES, 2, generator=generator)
        self.speed, self.yaw_rate = speed, yaw_rate

    def batch(self, newest: int, frames: int) -> tuple[torch.Tensor, CameraRig]:
        """What the data set gives for a frame: missing frames are the frame itself (published rule)."""
        order = [newest - t if newest >= t else newest for t in range(frames)]
        poses = torch.stack([torch.stack([self._pose(0.5 * k + o) for o in self.offsets[k].tolist()]) for k in order])
        lead = (1, frames, 2)
        rig = CameraRig(
            intrinsics=torch.tensor([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]).expand(*lead, 3, 3).contiguous(),
            cam_to_ego=torch.stack([_camera(0.0), _camera(math.pi)]).expand(*lead, 4, 4).contiguous(),
            ego_to_global=poses[None].float(),
            image_aug=torch.eye(3).expand(*lead, 3, 3).contiguous(),
            bev_aug=torch.eye(3)[None],
        )
        return self.images[order][None], rig

    def frames(self) -> Iterator[tuple[torch.Tensor, CameraRig, float]]:
        for k in range(FRAMES):
            yield *self.batch(k, 1), 0.5 * k

    def _pose(self, seconds: float) -> torch.Tensor:
        """Along a circle, well away from the global origin."""
        yaw = self.yaw_rate * seconds
        radius = self.speed / self.yaw_rate
        pose = torch.eye(4, dtype=torch.float64)
        pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        pose[:2, 3] = torch.tensor([600 + radius * math.sin(yaw), 1500 + radius * (1 - math.cos(yaw))])
        return pose


def _camera(yaw: float) -> torch.Tensor:
    """A camera that looks along a yaw, 1.5 m above the ego."""
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[math.sin(yaw), 0, math.cos(yaw)], [-math.cos(yaw), 0, math.sin(yaw)], [0, -1, 0]])
    pose[2, 3] = 1.5
    return pose


def make_recipe(name: str, history: int = HISTORY) -> Recipe:
    """A temporal system with few frames, small images and coarse maps."""
    recipe = get_recipe(name)
    grid = BevGrid(x=(-51.2, 51.2, 3.2), y=(-51.2, 51.2, 3.2), z=(-5.0, 3.0, 8.0))
    return dataclasses.replace(
        recipe,
        input_size=SIZE,
        view=dataclasses.replace(recipe.view, grid=grid),
        temporal=dataclasses.replace(recipe.temporal, history=history, align="after"),
    )


def make_model(name: str, history: int = HISTORY) -> Detector:
    """Batch norms are given something to do."""
    torch.manual_seed(1)
    model = create_model(make_recipe(name, history)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module", params=TEMPORAL)
def model(request: pytest.FixtureRequest) -> Detector:
    return make_model(request.param)


@pytest.fixture(scope="module")
def streamed(model: Detector) -> list[torch.Tensor]:
    """The heatmaps of the drive, frame by frame."""
    stream = model.stream()
    return [heatmap(stream.raw(images, rig, timestamp=s, scene="a")) for images, rig, s in Drive().frames()]


def heatmap(output: object) -> torch.Tensor:
    return output[0].heatmap


def difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.std()).item()


def test_a_stream_equals_the_batch_at_every_frame_of_a_scene(model: Detector, streamed: list[torch.Tensor]) -> None:
    drive = Drive()
    for k, got in enumerate(streamed):
        with torch.no_grad():
            wanted = heatmap(model(*drive.batch(k, model.recipe.frames)))
        assert difference(got, wanted) < 2e-4, f"frame {k}"


def test_history_matters(model: Detector, streamed: list[torch.Tensor]) -> None:
    alone = model.stream().raw(*Drive().batch(FRAMES - 1, 1))
    assert difference(streamed[-1], heatmap(alone)) > 5e-3


def test_jitter_of_the_cameras_makes_a_small_difference(model: Detector) -> None:
    drive, stream = Drive(jitter_s=0.005), model.stream()
    got = [heatmap(stream.raw(images, rig, timestamp=s)) for images, rig, s in drive.frames()][-1]
    with torch.no_grad():
        wanted = heatmap(model(*drive.batch(FRAMES - 1, model.recipe.frames)))
    assert 0 < (got - wanted).abs().mean() < 0.1 * wanted.std()


def test_hold_first_differs_only_while_the_history_is_not_full(model: Detector, streamed: list[torch.Tensor]) -> None:
    held = model.stream(scene_start="hold-first")
    differences = [
        difference(heatmap(held.raw(images, rig)), published)
        for (images, rig, _), published in zip(Drive().frames(), streamed, strict=True)
    ]
    assert differences[0] < 1e-4
    assert max(differences[1:HISTORY]) > 1e-3
    assert max(differences[HISTORY + 1 :]) < 1e-4


def test_image_work_does_not_depend_on_the_history() -> None:
    calls = {}
    for history in (1, 6):
        stream = make_model("bevdet-tiny-4d", history).stream()
        counts: list[int] = []
        stream.model.backbone.register_forward_hook(lambda m, i, o, counts=counts: counts.append(len(i[0])))
        for images, rig, _ in list(Drive().frames())[:3]:
            stream.raw(images, rig)
        calls[history] = counts
    assert calls[1] == calls[6] == [2] * 3  # two cameras, once per frame


def test_state_can_be_read_out_and_put_back(model: Detector, streamed: list[torch.Tensor]) -> None:
    """At every frame: while the history fills, and when it is full."""
    stream = model.stream()
    for (images, rig, seconds), wanted in zip(Drive().frames(), streamed, strict=True):
        assert torch.equal(heatmap(stream.raw(images, rig, timestamp=seconds, scene="a")), wanted)
        state = stream.state()
        stream = model.stream()
        stream.load_state(state, scene="a")
    seen = ("lifted", "stereo", "cam_to_key_ego", "intrinsics", "image_aug", "bev_aug", "cam_to_global")
    previous = {f"previous.{name}" for name in seen} if model.recipe.stereo else set()
    assert state.keys() == {"maps", "cam0_to_global", "count", "timestamp"} | previous
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


@pytest.mark.parametrize(
    ("second", "starts_anew"),
    [
        ({"timestamp": 0.5, "scene": "a"}, False),
        ({"timestamp": 0.5, "scene": "b"}, True),
        ({"timestamp": 0.1, "scene": "b"}, True),
        ({"timestamp": 9.0, "scene": "a"}, True),
    ],
)
def test_a_new_scene_or_a_gap_starts_anew(model: Detector, second: dict[str, object], starts_anew: bool) -> None:
    drive, stream = Drive(), model.stream()
    stream.raw(*drive.batch(0, 1), timestamp=0.0, scene="a")
    got = heatmap(stream.raw(*drive.batch(1, 1), **second))
    fresh = heatmap(model.stream().raw(*drive.batch(1, 1)))
    assert torch.equal(got, fresh) == starts_anew


def test_a_frame_out_of_order_is_refused_and_changes_nothing(model: Detector) -> None:
    drive, stream = Drive(), model.stream()
    stream.raw(*drive.batch(1, 1), timestamp=1.0)
    before = stream.state()
    for late in (0.5, 1.0):
        with pytest.raises(StreamOrderError, match="must come in order"):
            stream.raw(*drive.batch(0, 1), timestamp=late)
    after = stream.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def with_cameras(rig: CameraRig, cameras: int, samples: int = 1) -> CameraRig:
    parts = {field.name: getattr(rig, field.name) for field in dataclasses.fields(rig)}
    chosen = {name: part if name == "bev_aug" else part[:, :, :cameras] for name, part in parts.items()}
    return CameraRig(**{name: part.expand(samples, *part.shape[1:]) for name, part in chosen.items()})


def test_samples_stay_as_many_and_cameras_where_they_are_compared(model: Detector) -> None:
    stream, (images, rig) = model.stream(), Drive().batch(0, 1)
    stream.raw(images, rig)
    with pytest.raises(ValueError, match=r"runs \(B, N\) = \(1, 2\) samples and cameras, got \(3, 2\)"):
        stream.raw(images.expand(3, -1, -1, -1, -1, -1), with_cameras(rig, 2, samples=3))
    if model.recipe.stereo:
        with pytest.raises(ValueError, match=r"samples and cameras, got \(1, 1\)"):
            stream.raw(images[:, :, :1], with_cameras(rig, 1))
    else:
        alone = model.stream().raw(images[:, :, :1], with_cameras(rig, 1))
        assert not torch.equal(heatmap(stream.raw(images[:, :, :1], with_cameras(rig, 1))), heatmap(alone))


def test_other_numbers_of_frames_are_refused(model: Detector) -> None:
    with pytest.raises(ValueError, match=r"T=1.*a stream takes one frame per call"):
        model.stream()(*Drive().batch(3, model.recipe.frames))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: {"maps": state["maps"]}, "missing .*'cam0_to_global', 'count'"),
        (lambda state: state | {"extra": state["maps"]}, r"unknown \['extra'\]"),
        (lambda state: state | {"maps": state["maps"][..., ::2, :]}, "another system"),
        (lambda state: state | {"maps": state["maps"][:, :, ::2]}, r"3 maps .* = \(32, 32, 32\), .* \(16, 32, 32\)"),
        (
            lambda state: state | {k: state[k][:, :2] for k in ("maps", "cam0_to_global")},
            r"keeps 3 maps .* holds 2 of .* another system",
        ),
    ],
    ids=["missing", "unknown", "cells", "channels", "history"],
)
def test_states_that_do_not_fit_are_refused_and_change_nothing(model: Detector, damage: object, message: str) -> None:
    stream = model.stream()
    stream.raw(*Drive().batch(0, 1))
    state = stream.state()
    with pytest.raises(ValueError, match=message):
        stream.load_state(damage(state))
    assert all(torch.equal(tensor, state[name]) for name, tensor in stream.state().items())


def test_half_a_scene_start_is_refused() -> None:
    stream = make_model("bevdet-tiny-stereo").stream()
    stream.raw(*Drive().batch(0, 1))
    state = stream.state()
    del state["start.lifted"]
    with pytest.raises(ValueError, match=r"missing \['start.lifted'\]"):
        stream.load_state(state)


def test_systems_without_history_have_no_stream() -> None:
    with pytest.raises(ValueError, match="has no history"):
        create_model("bevdet-tiny", input_size=SIZE).stream()
    with pytest.raises(ValueError, match="scene_start must be one of"):
        Stream(make_model("bevdet-tiny-4d"), scene_start="never")


def test_predictions_are_decoded(model: Detector) -> None:
    (detections,) = model.stream()(*Drive().batch(0, 1))
    assert isinstance(detections, Detections)
