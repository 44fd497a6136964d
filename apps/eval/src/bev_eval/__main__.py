"""The program ``bev-eval``."""

from __future__ import annotations

import sys

import tyro

from bev_eval.image_options import PredictOptions
from bev_eval.options import EvalOptions
from bev_nuscenes.command_line import run_program

__all__ = ["main"]


def main() -> int:
    """Read the command line, evaluate or predict, say what came out; returns the exit status."""
    if sys.argv[1:2] == ["predict"]:
        wanted = tyro.cli(PredictOptions, prog="bev-eval predict", args=sys.argv[2:])
        return run_program("bev-eval predict", lambda: _predict(wanted))
    options = tyro.cli(EvalOptions, prog="bev-eval")
    return run_program("bev-eval", lambda: _evaluate(options))


def _evaluate(options: EvalOptions) -> int:
    from bev_eval.app import evaluate_recipe  # here, so that --help answers without loading the models

    evaluation = evaluate_recipe(options)
    if not evaluation.is_main_process:
        return 0
    if evaluation.metrics is None:
        print(f"{evaluation.submission} is ready for the evaluation server; {options.data.version} has no annotations")
        return 0
    print(evaluation.metrics.table())
    print(f"figures in {evaluation.submission.with_name('metrics.json')}")
    return 0


def _predict(options: PredictOptions) -> int:
    from bev_eval.predict_images import predict_images

    predicted = predict_images(options)
    what = "voxels" if predicted.boxes is None else f"{predicted.boxes} boxes"
    print(f"{what} of {predicted.frames} frames in {predicted.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
