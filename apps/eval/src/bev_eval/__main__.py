"""The program ``bev-eval``."""

from __future__ import annotations

import sys

import tyro

from bev_eval.options import EvalOptions
from bev_nuscenes.command_line import run_program

__all__ = ["main"]


def main() -> int:
    """Read the command line, evaluate, print the figures; returns the exit status."""
    options = tyro.cli(EvalOptions, prog="bev-eval")
    return run_program("bev-eval", lambda: _evaluate(options))


def _evaluate(options: EvalOptions) -> int:
    from bev_eval.app import evaluate_recipe  # here, so that --help answers without loading the models

    evaluation = evaluate_recipe(options)
    if evaluation.metrics is None:
        print(f"{evaluation.submission} is ready for the evaluation server; {options.data.version} has no annotations")
        return 0
    print(evaluation.metrics.table())
    print(f"figures in {evaluation.submission.with_name('metrics.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
