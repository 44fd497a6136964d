"""The program ``bev-train``."""

from __future__ import annotations

import sys

import tyro

from bev_nuscenes.command_line import run_program
from bev_train.options import TrainOptions

__all__ = ["main"]


def main() -> int:
    """Read the command line, train, say where the result lies; returns the exit status."""
    options = tyro.cli(TrainOptions, prog="bev-train")
    return run_program("bev-train", lambda: _train(options))


def _train(options: TrainOptions) -> int:
    from bev_train.app import train  # here, so that --help answers without loading Lightning and the models

    result = train(options)
    if result.is_main_process:
        stopped = f" (stopped: {result.stopped_by})" if result.stopped_by else ""
        print(f"{result.step} steps done{stopped}; weights in {result.folder.weights}")
    return 128 + result.signal if result.signal else 0


if __name__ == "__main__":
    sys.exit(main())
