"""``bev-bench ops``: operators against plain versions of the same."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bev_bench.cases import decode_cases, pool_cases, stereo_cases, warp_cases
from bev_bench.cases.case import Case, Problem
from bev_bench.device import begin
from bev_bench.machine import this_machine
from bev_bench.memory import working_mib
from bev_bench.options import GROUPS, Group, OpsOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.settings import PRECISIONS
from bev_bench.stopwatch import Contender, Repetition, measure

__all__ = ["measure_operators"]

_NOTES = (
    "each plain version is PyTorch written in this program, and gives the same result, which is checked first; it is "
    "not the published CUDA code",
    "ratio: how many times as fast as the plain version, round by round; memory: of one call, with its result, without "
    "its inputs",
)


def measure_operators(options: OpsOptions) -> Report:
    """Check and measure all operators that are asked for.

    Raises:
        ValueError: a mistake in the options.
        bev_bench.cases.DisagreementError: an operator and its plain version give different results.
    """
    device, repetition = begin(options.run)
    rows: list[Row] = []
    for problem in _problems(options, device):
        for case in problem.build():
            rows += _measured(case, problem.size, device, repetition)
    facts = (
        Fact(name="sizes", value="quick" if options.quick else "of the published systems"),
        Fact(name="pooled type", value=options.precision),
        Fact(name="inputs", value=f"random (seed {options.run.seed}), rig nuScenes-like, made up"),
    )
    return Report(command="ops", facts=facts, rows=tuple(rows), notes=_NOTES, machine=this_machine(device))


def _problems(options: OpsOptions, device: torch.device) -> list[Problem]:
    quick, seed, dtype = options.quick, options.run.seed, PRECISIONS[options.precision]
    groups: dict[Group, Callable[[], list[Problem]]] = {
        "pool": lambda: pool_cases(quick=quick, device=device, dtype=dtype, seed=seed),
        "stereo": lambda: stereo_cases(quick=quick, device=device, seed=seed),
        "decode": lambda: decode_cases(quick=quick, device=device, seed=seed),
        "warp": lambda: warp_cases(quick=quick, device=device, seed=seed),
    }
    return [problem for group in GROUPS if group in options.only for problem in groups[group]()]


def _measured(case: Case, size: str, device: torch.device, repetition: Repetition) -> list[Row]:
    case.check()
    contenders = [Contender.of(case.baseline, case.plain), Contender.of("ours", case.ours)]
    times = measure(contenders, device, repetition, what=f"{case.name}, {size}")
    rows = []
    for contender, time in zip(contenders, times, strict=True):
        memory = working_mib(contender.run, device)
        figures = (
            Figure.of("time", "ms", time.total),
            *([Figure.of("ratio", "", time.ratios(times[0]))] if time is not times[0] else []),
            *([] if memory is None else [Figure.exact("memory", "MiB", round(memory, 1))]),
        )
        rows.append(Row(case=f"{case.name}, {size}", setting=contender.name, figures=figures))
    return rows
