"""The program `bev-vis`: parse, run, and tell the user's mistakes in one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from .render import RenderOptions, render

_OPTIONS: dict[str, Callable[..., Any]] = {"render": RenderOptions}
_COMMANDS = {RenderOptions: render}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 2 for what the user can put right, after one line about it."""
    options = tyro.extras.subcommand_cli_from_dict(
        _OPTIONS, prog="bev-vis", description="Pictures of what a bird's-eye-view detector sees.", args=args
    )
    try:
        print(_COMMANDS[type(options)](options))
    except (ValueError, OSError) as error:
        print(f"bev-vis: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
