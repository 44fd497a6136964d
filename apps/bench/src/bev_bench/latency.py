"""``bev-bench latency``: from images to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bev_bench.device import begin
from bev_bench.machine import this_machine
from bev_bench.memory import working_mib
from bev_bench.options import LatencyOptions
from bev_bench.report import Figure, Report, Row
from bev_bench.settings import PRECISIONS, Setting, check_setting
from bev_bench.stopwatch import Contender, Times, measure
from bev_bench.system import System, build_system, check_system
from bev_heads import CenterOutput, Detections
from bev_zoo import Detector, InferenceOptions, prepare_for_inference

__all__ = ["measure_latency"]

_NOTES = (
    "network: images to raw outputs; post-processing: raw outputs to boxes or classes; total: one call of predict, "
    "timed on its own; FPS: samples per second of it",
    "ratio: how many times as fast in total as the first setting, round by round; memory: of one predict, beyond "
    "weights and input; difference: largest change of a raw output against the first setting, over their deviation",
)


def measure_latency(options: LatencyOptions) -> Report:
    """Measure one or several settings of a system.

    Raises:
        ValueError: a mistake in the options or the checkpoint.
    """
    device, repetition = begin(options.run)
    settings = options.settings()
    for setting in settings:
        check_setting(setting, device)
    recipe = check_system(options.system)
    system = build_system(options.system, recipe, device, options.run.seed)
    with torch.no_grad():
        candidates = [_candidate(system, setting) for setting in settings]
        contenders = [contender for candidate in candidates for contender in candidate.contenders(system)]
        times = measure(contenders, device, repetition, what=recipe.name)
        rows = _rows(system, candidates, times, device)
    return Report(command="latency", facts=system.facts, rows=rows, notes=_NOTES, machine=this_machine(device))


def _prepared(model: Detector, setting: Setting) -> nn.Module:
    """What runs a detector in a setting; the model itself stays as it is, and is what runs the plain one."""
    if setting == Setting():
        return model
    options = InferenceOptions(
        fuse=setting.fuse,
        channels_last=setting.channels_last,
        dtype=PRECISIONS[setting.precision],
        compile=setting.compile,
        cuda_graph=setting.cuda_graph,
        reuse_plans=setting.plan_cache,
    )
    return prepare_for_inference(model, options)


class _Candidate(NamedTuple):
    setting: Setting
    model: nn.Module
    outputs: list[CenterOutput] | Tensor  # of one call, for timing what comes after it

    def contenders(self, system: System) -> list[Contender]:
        name, decode = self.setting.name, system.model.head.decode
        return [
            Contender.of(f"{name}: network", partial(self.model, *system.inputs)),
            Contender.of(f"{name}: post-processing", partial(decode, self.outputs)),
            Contender.of(f"{name}: total", partial(self.model.predict, *system.inputs)),
        ]


def _candidate(system: System, setting: Setting) -> _Candidate:
    model = _prepared(system.model, setting)
    return _Candidate(setting, model, _copied(model(*system.inputs)))


def _copied(outputs: list[CenterOutput] | Tensor) -> list[CenterOutput] | Tensor:
    """The next call may write into the same memory."""
    if isinstance(outputs, Tensor):
        return outputs.clone()
    return [CenterOutput(*(tensor.clone() for tensor in output)) for output in outputs]


def _rows(
    system: System, candidates: Sequence[_Candidate], times: Sequence[Times], device: torch.device
) -> tuple[Row, ...]:
    samples = len(system.inputs.images)
    first_total, first = times[2], candidates[0]
    rows = []
    for i, candidate in enumerate(candidates):
        network, post, total = times[3 * i : 3 * i + 3]
        predict = partial(candidate.model.predict, *system.inputs)
        memory = working_mib(predict, device)
        figures = [
            Figure.of("network", "ms", network.total),
            Figure.of("post-processing", "ms", post.total),
            Figure.of("total", "ms", total.total),
            Figure.of("FPS", "", [1e3 * samples / ms for ms in total.total]),
            *([Figure.of("ratio", "", total.ratios(first_total))] if i else []),
            *([] if memory is None else [Figure.exact("memory", "MiB", round(memory))]),
            *([Figure.exact("difference", "std", _difference(candidate.outputs, first.outputs))] if i else []),
            *_found(predict()),
        ]
        rows.append(Row(case=system.model.recipe.name, setting=candidate.setting.name, figures=tuple(figures)))
    return tuple(rows)


def _difference(outputs: list[CenterOutput] | Tensor, wanted: list[CenterOutput] | Tensor) -> float:
    ours, theirs = _flat(outputs), _flat(wanted)
    return float(((ours - theirs).abs().max() / theirs.std()).cpu())


def _flat(outputs: list[CenterOutput] | Tensor) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs.float().flatten()
    return torch.cat([tensor.float().flatten() for output in outputs for tensor in output])


def _found(results: list[Detections] | list[Tensor]) -> list[Figure]:
    """How many boxes came out of it, on average; nothing for voxels."""
    boxes = [len(result) for result in results if isinstance(result, Detections)]
    return [Figure.exact("boxes", "", sum(boxes) / len(boxes))] if boxes else []
