"""The program `bev-vis`: parse, run, and tell the user's mistakes in one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from bev_nuscenes.command_line import run_program

from .curves import CurvesOptions
from .options import ExportOptions, RenderOptions, ReportOptions, ViewOptions

_OPTIONS: dict[str, Callable[..., Any]] = {
    "render": RenderOptions,
    "report": ReportOptions,
    "curves": CurvesOptions,
    "view": ViewOptions,
    "export": ExportOptions,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for what the user can put right, after one line about it."""
    options = tyro.extras.subcommand_cli_from_dict(
        _OPTIONS, prog="bev-vis", description="Pictures of what a bird's-eye-view detector sees.", args=args
    )
    return run_program("bev-vis", lambda: _run(options))


def _run(options: Any) -> int:
    """Run the command of the options and name the files it wrote."""
    if isinstance(options, CurvesOptions):
        from .curves import curves as command
    elif isinstance(options, ReportOptions):
        from .report import report as command
    elif isinstance(options, ViewOptions):
        from .view import view as command
    elif isinstance(options, ExportOptions):
        from .export import export as command
    else:
        from .render import render as command
    for written in command(options):
        print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
