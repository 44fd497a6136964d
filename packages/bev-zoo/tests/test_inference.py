"""Models made ready for inference give what plain ones give."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_backbones import BevFpn
from bev_heads import CenterOutput
from bev_lss import CameraRig
from bev_ops import BevGrid, PoolPlan
from bev_zoo import (
    BackboneOptions,
    Detector,
    InferenceOptions,
    Recipe,
    SwinOptions,
    create_model,
    get_recipe,
    prepare_for_inference,
)
from bev_zoo.upsampling import CoarseBevFpn, UpsampledConv

SIZE = (64, 96)
FRAME_FIELDS = ("intrinsics", "cam_to_ego", "ego_to_global", "image_aug")  # of a rig, with an axis T
RESNET, SWIN = "tiny with a ResNet", "tiny with a Swin"
FAMILIES = ("bevdet-tiny", RESNET, SWIN, "bevdet-tiny-4d", "bevdet-tiny-depth", "bevdet-tiny-stereo", "bevdet-tiny-occ")
PLAIN = InferenceOptions(fuse=False, channels_last=False, reuse_plans=False)
FLOAT32 = {
    "nothing": PLAIN,
    "fuse": replace(PLAIN, fuse=True),
    "channels last": replace(PLAIN, channels_last=True),
    "all": InferenceOptions(),
}


def recipe_of(name: str) -> Recipe:
    recipe = replace(get_recipe("bevdet-tiny" if name in (RESNET, SWIN) else name), input_size=SIZE)
    if name == RESNET:
        backbone = BackboneOptions(
            name="resnet18", pretrained=None, strides=(16, 32), checkpointing=True, neck_channels=32
        )
        recipe = replace(recipe, name=name, backbone=backbone)
    if name == SWIN:
        backbone = SwinOptions(
            width=8,
            depths=(2, 2, 2, 2),
            heads=(1, 2, 2, 2),
            windows=(4, 4, 4, 4),
            strides=(16, 32),
            neck_channels=32,
        )
        recipe = replace(recipe, name=name, backbone=backbone)
    if recipe.task == "occupancy":
        grid = BevGrid(x=(-12.8, 12.8, 1.6), y=(-12.8, 12.8, 1.6), z=(-1.0, 5.4, 0.4))
        recipe = replace(recipe, view=replace(recipe.view, grid=grid))
    return recipe


def live_model(name: str, rig: CameraRig) -> tuple[Detector, Tensor, CameraRig]:
    """A model whose batch norms have seen its own input, that input, and its calibration."""
    torch.manual_seed(0)
    model = create_model(recipe_of(name)).eval()
    frames = model.recipe.frames
    images = torch.randn(2, frames, 2, 3, *SIZE)
    rig = over_frames(rig, frames)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    with torch.no_grad():
        model(images, rig)
    return model.eval(), images, rig


def over_frames(rig: CameraRig, frames: int) -> CameraRig:
    """The same cameras over several frames of a drive straight ahead."""
    poses = rig.ego_to_global.repeat(1, frames, 1, 1, 1)
    poses[..., 0, 3] = -2.0 * torch.arange(frames)[:, None]
    repeated = {
        name: getattr(rig, name).repeat(1, frames, 1, 1, 1) for name in ("intrinsics", "cam_to_ego", "image_aug")
    }
    return CameraRig(**repeated, ego_to_global=poses, bev_aug=rig.bev_aug)


def tensors(outputs: list[CenterOutput] | Tensor) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for output in outputs for tensor in output]


def largest_difference(outputs: list[CenterOutput] | Tensor, wanted: list[CenterOutput] | Tensor) -> float:
    """Over all raw outputs, in standard deviations of each."""
    pairs = zip(tensors(outputs), tensors(wanted), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.std()) for ours, theirs in pairs)


def mean_difference(outputs: list[CenterOutput] | Tensor, wanted: list[CenterOutput] | Tensor) -> float:
    """Root mean square over all raw outputs, in standard deviations of each."""
    pairs = zip(tensors(outputs), tensors(wanted), strict=True)
    return math.sqrt(sum(float(((a - b) / b.std()).square().mean()) for a, b in pairs) / len(tensors(wanted)))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_family_gives_what_it_gave(name: str, rig: CameraRig) -> None:
    model, images, rig = live_model(name, rig)
    before = copy.deepcopy(model.state_dict())
    wanted = model(images, rig)
    for case, options in FLOAT32.items():
        ready = prepare_for_inference(model, options)
        for _ in range(2):  # the second call finds what the first one remembered
            outputs = ready(images, rig)
            assert largest_difference(outputs, wanted) < 1e-3, case
        assert all(tensor.dtype == torch.float32 for tensor in tensors(outputs))
        assert ready.recipe == model.recipe
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert largest_difference(model(images, rig), wanted) == 0


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_bfloat16_is_as_good_as_under_autocast(name: str, rig: CameraRig) -> None:
    model, images, rig = live_model(name, rig)
    wanted = model(images, rig)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = mean_difference(model(images, rig), wanted)
    with allowing_slow_types():
        ready = prepare_for_inference(model, InferenceOptions(dtype=torch.bfloat16))
    outputs = ready(images, rig)
    assert mean_difference(outputs, wanted) < 2 * autocast
    assert all(tensor.dtype == torch.float32 for tensor in tensors(outputs))
    dense = [module for module in ready.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear))]
    assert {module.weight.dtype for module in dense} == {torch.bfloat16}


# Norms that follow no single convolution: of camera parameters, and of the voxel neck's sum of convolutions.
KEPT_NORMS = {
    "bevdet-tiny-depth": {"view_transform.depth_net.camera_norm"},
    "bevdet-tiny-stereo": {"view_transform.depth_net.camera_norm"},
    "bevdet-tiny-occ": {"view_transform.depth_net.camera_norm", "bev_neck.fuse.1"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_fuse_leaves_no_norm_behind_a_convolution(name: str, rig: CameraRig) -> None:
    detector = prepare_for_inference(create_model(recipe_of(name)).eval()).detector
    norms = {key for key, module in detector.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert norms == KEPT_NORMS.get(name, set())
    relus = {key: module for key, module in detector.view_transform.named_modules() if isinstance(module, nn.ReLU)}
    assert all(relu.inplace for relu in relus.values())


@torch.no_grad()
def test_a_norm_whose_input_is_needed_elsewhere_stays(rig: CameraRig) -> None:
    model, images, rig = live_model("bevdet-tiny", rig)
    model.neck = _Peeking(model.neck.output_conv.out_channels, model.neck)
    model.eval()
    ready = prepare_for_inference(model)
    assert isinstance(ready.detector.neck.norm, nn.BatchNorm2d)
    assert isinstance(ready.detector.neck.relu, nn.ReLU)
    assert not ready.detector.neck.relu.inplace
    assert largest_difference(ready(images, rig), model(images, rig)) < 1e-3


class _Peeking(nn.Module):
    """A neck whose convolution is followed by a norm, and looked at beside it; and the same for the ReLU."""

    def __init__(self, channels: int, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck
        self.conv, self.norm, self.relu = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, levels: list[Tensor]) -> Tensor:
        convolved = self.conv(self.neck(levels))
        normed = self.norm(convolved)
        return self.relu(normed) + convolved + normed


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_convolving_before_upsampling_is_the_same(scale: int, bias: bool) -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias)
    coarse = torch.randn(2, 3, 4, 6)
    wanted = conv(F.interpolate(coarse, scale_factor=scale, mode="bilinear", align_corners=True))
    torch.testing.assert_close(UpsampledConv(conv.weight, conv.bias, scale)(coarse), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output_scale", [2, None])
@torch.no_grad()
def test_a_neck_that_convolves_first_is_the_same(output_scale: int | None) -> None:
    neck = BevFpn(3, 4, 6, scale=2, output_scale=output_scale).eval()
    maps = [torch.randn(2, 3, 8, 12), torch.randn(2, 4, 4, 6)]
    torch.testing.assert_close(CoarseBevFpn(neck, 3)(maps), neck(maps), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_detections_are_those_of_the_model(rig: CameraRig) -> None:
    model, images, rig = live_model("bevdet-tiny", rig)
    model.head.task_heads[0].heatmap[-1].bias += 4
    for ours, theirs in zip(prepare_for_inference(model).predict(images, rig), model.predict(images, rig), strict=True):
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bevdet-tiny-4d", "bevdet-tiny-stereo"])
def test_streams_give_what_those_of_the_model_give(name: str, dtype: torch.dtype, rig: CameraRig) -> None:
    model, images, rig = live_model(name, rig)
    with allowing_slow_types():
        streams = [prepare_for_inference(model, InferenceOptions(dtype=dtype)).stream(), model.stream()]
    for t in (1, 0):
        frame = CameraRig(*(getattr(rig, field)[:, t : t + 1] for field in FRAME_FIELDS), rig.bev_aug)
        ours, theirs = (stream.raw(images[:, t : t + 1], frame, timestamp=-0.5 * t) for stream in streams)
    if dtype == torch.float32:
        assert largest_difference(ours, theirs) < 1e-3
    assert 0 < mean_difference(ours, theirs) < 0.2


@pytest.mark.parametrize("reuse_plans", [True, False])
@torch.no_grad()
def test_a_changed_calibration_always_counts(
    reuse_plans: bool, rig: CameraRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, _ = live_model("bevdet-tiny", rig)
    ready = prepare_for_inference(model, InferenceOptions(reuse_plans=reuse_plans))
    rig = over_frames(rig, 1)
    built = counted_plans(monkeypatch)
    first = ready(images, rig)
    ready(images, over_frames(rig, 1))  # other tensors, same values
    assert len(built) == (1 if reuse_plans else 2)
    rig.cam_to_ego[0, 0, 0, 0, 3] += 3.0  # in place: the same tensors, other values
    moved = ready(images, rig)
    assert largest_difference(moved, first) > 0.1
    assert largest_difference(moved, model(images, rig)) < 1e-3


def counted_plans(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with every plan that is built."""
    built: list[object] = []
    build = PoolPlan.from_points

    def counting(points: Tensor, grid: BevGrid) -> PoolPlan:
        built.append(points.shape)
        return build(points, grid)

    monkeypatch.setattr(PoolPlan, "from_points", counting)
    return built


@torch.no_grad()
def test_every_stage_can_be_compiled(rig: CameraRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for the real compiler, but run as it is, which is much quicker."""
    compile_stage = torch.compile
    compiled: list[object] = []

    def traced(stage: object) -> object:
        compiled.append(stage)
        return compile_stage(stage, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    model, images, rig = live_model("bevdet-tiny-4d", rig)
    outputs = prepare_for_inference(model, InferenceOptions(compile=True))(images, rig)
    assert len(compiled) == 5  # images, depth, frame encoder, encoder, head
    assert largest_difference(outputs, model(images, rig)) < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_graphs_give_what_they_recorded(name: str, dtype: torch.dtype, rig: CameraRig) -> None:
    model, images, rig = live_model(name, rig)
    model, images, rig = model.cuda(), images.cuda(), rig.to("cuda")
    allowed = 1e-3 if dtype == torch.float32 else 2e-2  # algorithms may differ
    eager = prepare_for_inference(model, InferenceOptions(dtype=dtype))
    graphed = prepare_for_inference(model, InferenceOptions(dtype=dtype, cuda_graph=True))
    turned = CameraRig(*(getattr(rig, field).flip(2) for field in FRAME_FIELDS), rig.bev_aug)
    first_sample = CameraRig(*(getattr(rig, field)[:1] for field in FRAME_FIELDS), rig.bev_aug[:1])
    calls = [(images, rig), (images.flip(0), rig), (images, turned), (images[:1], first_sample), (images, rig)]
    results = [graphed(*call) for call in calls]
    for call, result in zip(calls, results, strict=True):  # only now: later calls must have left them alone
        assert mean_difference(result, eager(*call)) < allowed
    if model.recipe.temporal.history:
        streams = [ready.stream() for ready in (graphed, eager)]
        for t in (1, 0):
            frame = CameraRig(*(getattr(rig, field)[:, t : t + 1] for field in FRAME_FIELDS), rig.bev_aug)
            ours, theirs = (stream.raw(images[:, t : t + 1], frame) for stream in streams)
            assert mean_difference(ours, theirs) < allowed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (InferenceOptions(dtype=torch.float64), r"dtype must be one of .*float16, got torch\.float64"),
        (InferenceOptions(cuda_graph=True), "a CUDA graph needs a model on an NVIDIA GPU, this one is on cpu"),
    ],
)
def test_what_cannot_be_done_is_refused(model: Detector, options: InferenceOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_for_inference(model.eval(), options)


def test_training_is_refused_before_and_after(model: Detector) -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        prepare_for_inference(model.train())
    ready = prepare_for_inference(model.eval())
    assert ready.eval() is ready
    assert not ready.training
    with pytest.raises(ValueError, match="cannot be trained"):
        ready.train()
    with pytest.raises(ValueError, match="stays where it is"):
        ready.double()
    with pytest.raises(ValueError, match="has no history"):
        ready.stream()


def test_options_without_effect_are_told(rig: CameraRig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(recipe_of("bevdet-tiny-4d")).eval()
    folded = prepare_for_inference(model).detector
    with pytest.warns(UserWarning, match="fuse does nothing"):
        prepare_for_inference(folded)
    model.use_history = False
    with pytest.warns(UserWarning, match="use_history = False is ignored"):
        prepare_for_inference(model, PLAIN)
    model.use_history = True
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"}, raising=False)
    with pytest.warns(UserWarning, match="by way of float32: slower"):
        prepare_for_inference(model, replace(PLAIN, dtype=torch.bfloat16))


@contextmanager
def allowing_slow_types() -> Iterator[None]:
    """Without the warning of a CPU that computes a type by way of another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*by way of float32")
        yield
