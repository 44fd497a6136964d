"""Streaming: the same predictions as a batch, from one frame at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from bev_lss import CameraRig
from bev_zoo import Detections, Detector, Stream, StreamOrderError, create_model

SIZE = (64, 96)
FRAMES = 8
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


def make_model(name: str, history: int = HISTORY) -> Detector:
    """A temporal system with few frames and small images; batch norms are given something to do."""
    torch.manual_seed(1)
    model = create_model(name, input_size=SIZE, align="after")
    recipe = dataclasses.replace(model.recipe, temporal=dataclasses.replace(model.recipe.temporal, history=history))
    model = create_model(recipe).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module", params=TEMPORAL)
def model(request: pytest.FixtureRequest) -> Detector:
    return make_model(request.param)


def heatmap(output: object) -> torch.Tensor:
    return output[0].heatmap


def difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.std()).item()


def test_a_stream_equals_the_batch_at_every_frame_of_a_scene(model: Detector) -> None:
    drive, stream = Drive(), model.stream()
    for k, (images, rig, seconds) in enumerate(drive.frames()):
        got = heatmap(stream.raw(images, rig, timestamp=seconds, scene="a"))
        with torch.no_grad():
            wanted = heatmap(model(*drive.batch(k, model.recipe.frames)))
        assert difference(got, wanted) < 2e-4, f"frame {k}"


def test_history_matters(model: Detector) -> None:
    drive, stream = Drive(), model.stream()
    streamed = [stream.raw(images, rig, timestamp=s) for images, rig, s in drive.frames()][-1]
    alone = model.stream().raw(*drive.batch(FRAMES - 1, 1))
    assert difference(heatmap(streamed), heatmap(alone)) > 5e-3


def test_jitter_of_the_cameras_makes_a_small_difference(model: Detector) -> None:
    drive, stream = Drive(jitter_s=0.005), model.stream()
    got = [heatmap(stream.raw(images, rig, timestamp=s)) for images, rig, s in drive.frames()][-1]
    with torch.no_grad():
        wanted = heatmap(model(*drive.batch(FRAMES - 1, model.recipe.frames)))
    assert 0 < (got - wanted).abs().mean() < 0.1 * wanted.std()


def test_hold_first_differs_only_while_the_history_is_not_full(model: Detector) -> None:
    drive = Drive()
    published, held = model.stream(), model.stream(scene_start="hold-first")
    differences = [
        difference(heatmap(held.raw(images, rig)), heatmap(published.raw(images, rig)))
        for images, rig, _ in drive.frames()
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
        for images, rig, _ in Drive().frames():
            stream.raw(images, rig)
        calls[history] = counts
    assert calls[1] == calls[6] == [2] * FRAMES  # two cameras, once per frame


def test_state_can_be_read_out_and_put_back(model: Detector) -> None:
    frames = list(Drive().frames())
    stream = model.stream()
    for images, rig, seconds in frames[:2]:
        stream(images, rig, timestamp=seconds, scene="a")
    state = stream.state()
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())

    resumed = model.stream()
    resumed.load_state(state, scene="a")

    for images, rig, seconds in frames[2:]:
        wanted = heatmap(stream.raw(images, rig, timestamp=seconds, scene="a"))
        assert torch.equal(heatmap(resumed.raw(images, rig, timestamp=seconds, scene="a")), wanted)


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


def test_inputs_that_do_not_fit_are_refused(model: Detector) -> None:
    drive, stream = Drive(), model.stream()
    with pytest.raises(ValueError, match="wants one frame"):
        stream(*drive.batch(3, model.recipe.frames))
    images, rig = drive.batch(0, 1)
    stream(images, rig)
    one_camera = CameraRig(
        **{
            field.name: getattr(rig, field.name)[:, :, :1] if field.name != "bev_aug" else rig.bev_aug
            for field in dataclasses.fields(rig)
        }
    )
    with pytest.raises(ValueError, match="samples and cameras"):
        stream(images[:, :, :1], one_camera)
    with pytest.raises(ValueError, match="missing"):
        stream.load_state({"maps": torch.zeros(1)})
    state = stream.state()
    with pytest.raises(ValueError, match="another system"):
        stream.load_state(state | {"maps": state["maps"][:, :, :, ::2], "cam0_to_global": state["cam0_to_global"]})


def test_systems_without_history_have_no_stream() -> None:
    with pytest.raises(ValueError, match="has no history"):
        create_model("bevdet-tiny", input_size=SIZE).stream()
    with pytest.raises(ValueError, match="scene_start must be one of"):
        Stream(make_model("bevdet-tiny-4d"), scene_start="never")


def test_predictions_are_decoded(model: Detector) -> None:
    (detections,) = model.stream()(*Drive().batch(0, 1))
    assert isinstance(detections, Detections)
