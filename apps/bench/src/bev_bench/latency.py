"""``bev-bench latency``: from images to boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bev_bench.device import begin
from bev_bench.exports import WEIGHTS_OF_EXPORTS, Export, export_inputs, open_exports
from bev_bench.machine import this_machine
from bev_bench.memory import working_mib
from bev_bench.options import LatencyOptions
from bev_bench.report import Figure, Report, Row
from bev_bench.settings import PRECISIONS, Setting, check_setting
from bev_bench.stopwatch import Contender, Times, measure
from bev_bench.system import Inputs, System, build_system, check_system, system_facts
from bev_heads import CenterOutput, Detections
from bev_zoo import CameraRig, Detector, InferenceOptions, prepare_for_inference

__all__ = ["measure_latency"]

_NOTES = (
    "network: images to raw outputs; post-processing: raw outputs to boxes or classes; total: one call of predict, "
    "timed on its own; FPS: samples per second of it",
    "ratio: how many times as fast in total as the first setting, round by round; memory: of one predict, beyond "
    "weights and input; difference: largest change of a raw output against the first setting, over their deviation",
)
_EXPORT_NOTE = (
    "exported models pick their best candidates, or classes, in the network, unless they were exported with --raw, and "
    "have a difference only if they were, and take the first setting's images; their memory is the runtime's, and not "
    "measured"
)


def measure_latency(options: LatencyOptions) -> Report:
    """Measure one or several settings of a system, exported models among them.

    Raises:
        ValueError: a mistake in the options, the checkpoint or the exports.
    """
    device, repetition = begin(options.run)
    settings = options.settings()
    for setting in settings:
        check_setting(setting, device)
    recipe = check_system(options.system)
    exports = open_exports(options.exports, options.system, recipe, options.run)
    with torch.no_grad():
        if settings:
            system = build_system(options.system, recipe, device, options.run.seed)
            candidates, facts = [_in_pytorch(system, setting) for setting in settings], system.facts
        else:
            device, recipe = exports[0].model.device, exports[0].model.recipe
            candidates, facts = [], system_facts(recipe, options.system.samples, WEIGHTS_OF_EXPORTS)
        candidates += [_exported(export, options.system.samples, options.run.seed) for export in exports]
        contenders = [contender for candidate in candidates for contender in candidate.contenders()]
        times = measure(contenders, device, repetition, what=recipe.name)
        rows = _rows(recipe.name, candidates, times, device)
    notes = (*_NOTES, _EXPORT_NOTE) if exports else _NOTES
    return Report(command="latency", facts=facts, rows=rows, notes=notes, machine=this_machine(device))


class _Candidate(NamedTuple):
    """One of the things compared."""

    name: str
    inputs: Inputs
    network: Callable[[Tensor, CameraRig], Any]
    decode: Callable[[Any], list[Detections] | list[Tensor]]
    predict: Callable[[Tensor, CameraRig], list[Detections] | list[Tensor]]
    outputs: Any  # of the network, for timing what comes after it
    raw: list[CenterOutput] | Tensor | None  # the same as raw outputs, if it gives any
    own_memory: bool  # allocated by PyTorch, which can tell how much

    def is_comparable(self, other: _Candidate) -> bool:
        """Whether both gave raw outputs of the same images; an export that takes camera images has others."""
        ours, theirs = self.inputs.images, other.inputs.images
        same = (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)  # noise of one seed
        return same and self.raw is not None and other.raw is not None

    def contenders(self) -> list[Contender]:
        return [
            Contender.of(f"{self.name}: network", partial(self.network, *self.inputs)),
            Contender.of(f"{self.name}: post-processing", partial(self.decode, self.outputs)),
            Contender.of(f"{self.name}: total", partial(self.predict, *self.inputs)),
        ]


def _in_pytorch(system: System, setting: Setting) -> _Candidate:
    model = _prepared(system.model, setting)
    outputs = _copied(model(*system.inputs))
    decode = system.model.head.decode
    return _Candidate(setting.name, system.inputs, model, decode, model.predict, outputs, outputs, own_memory=True)


def _exported(export: Export, samples: int, seed: int) -> _Candidate:
    model = export.model
    inputs = export_inputs(model, samples, seed)
    outputs = {name: tensor.clone() for name, tensor in model.outputs(*inputs).items()}
    raw = model.raw(outputs) if model.manifest.raw else None
    return _Candidate(export.name, inputs, model.outputs, model.decoded, model.predict, outputs, raw, own_memory=False)


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


def _copied(outputs: list[CenterOutput] | Tensor) -> list[CenterOutput] | Tensor:
    """The next call may write into the same memory."""
    if isinstance(outputs, Tensor):
        return outputs.clone()
    return [CenterOutput(*(tensor.clone() for tensor in output)) for output in outputs]


def _rows(
    recipe: str, candidates: Sequence[_Candidate], times: Sequence[Times], device: torch.device
) -> tuple[Row, ...]:
    first_total, first = times[2], candidates[0]
    rows = []
    for i, candidate in enumerate(candidates):
        samples = len(candidate.inputs.images)
        network, post, total = times[3 * i : 3 * i + 3]
        predict = partial(candidate.predict, *candidate.inputs)
        memory = working_mib(predict, device) if candidate.own_memory else None
        compared = i > 0 and candidate.is_comparable(first)
        figures = [
            Figure.of("network", "ms", network.total),
            Figure.of("post-processing", "ms", post.total),
            Figure.of("total", "ms", total.total),
            Figure.of("FPS", "", [1e3 * samples / ms for ms in total.total]),
            *([Figure.of("ratio", "", total.ratios(first_total))] if i else []),
            *([] if memory is None else [Figure.exact("memory", "MiB", round(memory))]),
            *([Figure.exact("difference", "std", _difference(candidate.raw, first.raw))] if compared else []),
            *_found(predict()),
        ]
        rows.append(Row(case=recipe, setting=candidate.name, figures=tuple(figures)))
    return tuple(rows)


def _difference(outputs: list[CenterOutput] | Tensor, wanted: list[CenterOutput] | Tensor) -> float:
    ours, theirs = _flat(outputs).cpu(), _flat(wanted).cpu()
    return float((ours - theirs).abs().max() / theirs.std())


def _flat(outputs: list[CenterOutput] | Tensor) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs.float().flatten()
    return torch.cat([tensor.float().flatten() for output in outputs for tensor in output])


def _found(results: list[Detections] | list[Tensor]) -> list[Figure]:
    """How many boxes came out of it, on average; nothing for voxels."""
    boxes = [len(result) for result in results if isinstance(result, Detections)]
    return [Figure.exact("boxes", "", sum(boxes) / len(boxes))] if boxes else []
