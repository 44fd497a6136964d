"""The program ``bev-deploy``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from bev_nuscenes.command_line import run_program

from .commands import options
from .commands.convert import build, quantize
from .commands.export import export
from .commands.inspect import check, show

__all__ = ["main"]

_OPTIONS: dict[str, Callable[..., Any]] = {
    "export": options.ExportArguments,
    "quantize": options.QuantizeArguments,
    "build": options.BuildArguments,
    "show": options.ShowArguments,
    "check": options.CheckArguments,
}
_COMMANDS: dict[type, Callable[[Any], int]] = {
    options.ExportArguments: export,
    options.QuantizeArguments: quantize,
    options.BuildArguments: build,
    options.ShowArguments: show,
    options.CheckArguments: check,
}
_DESCRIPTION = "Bird's-eye-view detectors as ONNX files, quantised models and TensorRT engines, with their state."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for what the user can put right, after one line about it."""
    chosen = tyro.extras.subcommand_cli_from_dict(_OPTIONS, prog="bev-deploy", description=_DESCRIPTION, args=arguments)
    return run_program("bev-deploy", lambda: _COMMANDS[type(chosen)](chosen))


if __name__ == "__main__":
    sys.exit(main())
