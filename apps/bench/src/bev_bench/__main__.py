"""The program ``bev-bench``: parse, measure, print, write; mistakes of the user in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from bev_bench import options
from bev_nuscenes.command_line import run_program

__all__ = ["main"]

_OPTIONS: dict[str, Callable[..., Any]] = {
    "latency": options.LatencyOptions,
    "sequential": options.SequentialOptions,
    "view-transform": options.ViewTransformOptions,
    "ops": options.OpsOptions,
    "flops": options.FlopsOptions,
    "data": options.DataBenchOptions,
    "train": options.TrainBenchOptions,
    "trt": options.EngineOptions,
    "compare": options.CompareOptions,
}
_DESCRIPTION = "Time, memory and operations of bird's-eye-view models. What is compared runs in turns, in one process."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for what the user can put right, after one line about it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--compare"]:
        arguments[0] = "compare"
    chosen = tyro.extras.subcommand_cli_from_dict(_OPTIONS, prog="bev-bench", description=_DESCRIPTION, args=arguments)
    return run_program("bev-bench", lambda: _run(chosen))


def _run(chosen: Any) -> int:
    if isinstance(chosen, options.CompareOptions):
        from bev_bench.compare import compare_files

        print(compare_files(chosen))
        return 0
    from bev_bench.commands import COMMANDS  # here, so that --help answers without loading the models
    from bev_bench.report import as_markdown, as_table, to_json

    report = COMMANDS[type(chosen)](chosen)
    print(as_table(report))
    for path, text in ((chosen.run.json, to_json(report)), (chosen.run.markdown, as_markdown(report))):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
