"""``bev-bench trt``: a TensorRT engine, one step and a whole call."""

from __future__ import annotations

from functools import partial

from bev_bench.device import begin
from bev_bench.exports import WEIGHTS_OF_EXPORTS, export_inputs
from bev_bench.machine import this_machine
from bev_bench.options import EngineOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.stopwatch import Contender, measure
from bev_bench.system import system_facts

__all__ = ["measure_engine"]

_NOTES = (
    "step: one run of the engine on inputs that are there, with a full history; whole call: predict with all frames, "
    "calibration, post-processing and all; FPS: samples per second",
)


def measure_engine(options: EngineOptions) -> Report:
    """Measure the engine of a folder.

    Raises:
        ValueError: no engine there, one of another GPU or version, or no TensorRT or GPU here.
    """
    from bev_deploy import load  # here, so that everything else needs no runtimes
    from bev_deploy.tensorrt import engine_metadata, step_inputs

    _, repetition = begin(options.run)
    model = load(options.folder, "tensorrt", device=options.run.device)
    built = engine_metadata(options.folder)
    samples = model.manifest.batch or built.max_batch
    inputs = step_inputs(model, samples=samples, seed=options.run.seed)
    contenders = [
        Contender.of("step", partial(model.session, inputs)),
        Contender.of("whole call", partial(model.predict, *export_inputs(model, samples, options.run.seed))),
    ]
    times = measure(contenders, model.device, repetition, what=model.recipe.name)
    rows = tuple(
        Row(
            case=model.recipe.name,
            setting=time.name,
            figures=(
                Figure.of("time", "ms", time.total),
                Figure.of("FPS", "", [1e3 * samples / ms for ms in time.total]),
            ),
        )
        for time in times
    )
    facts = (
        *system_facts(model.recipe, samples, WEIGHTS_OF_EXPORTS),
        Fact(name="engine", value=f"{options.folder}, TensorRT {built.tensorrt}, {built.gpu}"),
    )
    return Report(command="trt", facts=facts, rows=rows, notes=_NOTES, machine=this_machine(model.device))
