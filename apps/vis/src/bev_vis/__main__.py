"""The program `bev-vis`: parse, run, and tell the user's mistakes in one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from bev_nuscenes.command_line import run_program

from .render import RenderOptions, render

_OPTIONS: dict[str, Callable[..., Any]] = {"render": RenderOptions}
_COMMANDS = {RenderOptions: render}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for what the user can put right, after one line about it."""
    options = tyro.extras.subcommand_cli_from_dict(
        _OPTIONS, prog="bev-vis", description="Pictures of what a bird's-eye-view detector sees.", args=args
    )
    return run_program("bev-vis", lambda: _run(options))


def _run(options: Any) -> int:
    print(_COMMANDS[type(options)](options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
