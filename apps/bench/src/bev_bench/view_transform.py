"""``bev-bench view-transform``: what lifting image features into the bird's-eye view consists of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bev_bench.device import begin
from bev_bench.machine import this_machine
from bev_bench.options import ViewTransformOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.stopwatch import Contender, Times, measure
from bev_bench.system import System, build_system, check_system
from bev_lss import FrameCameras, camera_parameters
from bev_ops import PoolPlan, bev_pool
from bev_temporal import camera_to_previous
from bev_zoo import Detector
from bev_zoo.features import FrameFeatures, StereoReference

__all__ = ["measure_view_transform"]

_WHOLE, _WHOLE_PLANNED = "whole, plan built", "whole, plan known"
_NOTES = (
    "one frame, in fp32; plan building (geometry and sorting) happens once per calibration; shares are of the whole in "
    "the same round, with the plan built and with the plan known",
)


def measure_view_transform(options: ViewTransformOptions) -> Report:
    """Measure the stages of a system's view transform on the features of its own backbone.

    Raises:
        ValueError: a mistake in the options or the checkpoint.
    """
    device, repetition = begin(options.run)
    recipe = check_system(options.system)
    system = build_system(options.system, recipe, device, options.run.seed)
    with torch.no_grad():
        stages = _stages(system)
        contenders = [Contender.of(name, run) for name, run in stages.runs.items()]
        times = measure(contenders, device, repetition, what=recipe.name)
    facts = (*system.facts, Fact(name="frustum", value=stages.described))
    return Report(
        command="view-transform",
        facts=facts,
        rows=_rows(recipe.name, times),
        notes=_NOTES,
        machine=this_machine(device),
    )


class _Stages(NamedTuple):
    runs: dict[str, Callable[[], object]]
    described: str


class _Frame(NamedTuple):
    """The newest frame, ready for its view transform."""

    features: FrameFeatures
    cameras: FrameCameras
    params: Tensor  # (B, N, 27)
    reference: StereoReference | None


def _stages(system: System) -> _Stages:
    model, frame = system.model, _newest_frame(system)
    view = model.view_transform
    size = tuple(frame.features.lifted.shape[-2:])
    points = view.points(frame.cameras, size)
    plan = PoolPlan.from_points(points, view.grid)
    cost = _cost_volume(model, frame)
    per_image = [None if t is None else t.flatten(0, 1) for t in (frame.features.lifted, frame.params, cost)]
    logits, context = (t.unflatten(0, frame.params.shape[:2]).float() for t in view.depth_net(*per_image))
    depth = logits.softmax(dim=2)

    def whole(plan: PoolPlan | None) -> object:
        plan = plan or PoolPlan.from_points(view.points(frame.cameras, size), view.grid)
        cost = _cost_volume(model, frame)
        return view(frame.features.lifted, frame.cameras, camera_params=frame.params, cost_volume=cost, plan=plan)

    runs: dict[str, Callable[[], object]] = {
        _WHOLE: lambda: whole(None),
        _WHOLE_PLANNED: lambda: whole(plan),
        "plan: geometry": lambda: view.points(frame.cameras, size),
        "plan: sorting": lambda: PoolPlan.from_points(points, view.grid),
        "cost volume": partial(_cost_volume, model, frame),
        "depth net": lambda: view.depth_net(*per_image),
        "depth softmax": lambda: logits.softmax(dim=2),
        "pooling": lambda: bev_pool(depth, context, plan),
    }
    if not model.recipe.stereo:
        del runs["cost volume"]
    shape = "x".join(map(str, plan.shape[1:]))
    spread = "log-spaced" if view.bins.log_spaced else "uniform"
    described = f"{shape} {spread} points, {plan.num_points} in {plan.num_cells} cells, C={context.shape[2]}"
    return _Stages(runs, described)


def _newest_frame(system: System) -> _Frame:
    model, (images, rig) = system.model, system.inputs
    cameras = rig.frame_cameras(0)
    reference = None
    if model.recipe.stereo:
        reference = StereoReference(model.stereo_features(images[:, 1]), camera_to_previous(rig)[:, 0])
    return _Frame(model.image_features(images[:, 0]), cameras, camera_parameters(cameras), reference)


def _cost_volume(model: Detector, frame: _Frame) -> Tensor | None:
    if frame.reference is None:
        return None
    seen, motion = frame.reference
    return model.cost_volume(frame.features.stereo, seen, motion, frame.cameras.intrinsics, frame.cameras.image_aug)


def _rows(case: str, times: list[Times]) -> tuple[Row, ...]:
    built, known = times[:2]
    rows = []
    for time in times:
        figures = [Figure.of("time", "ms", time.total), Figure.of("share, plan built", "%", _shares(time, built))]
        if time is not built and not time.name.startswith("plan:"):
            figures.append(Figure.of("share, plan known", "%", _shares(time, known)))
        rows.append(Row(case=case, setting=time.name, figures=tuple(figures)))
    return tuple(rows)


def _shares(part: Times, whole: Times) -> list[float]:
    """Percent of a whole, round by round."""
    return [100 * share for share in whole.ratios(part)]
