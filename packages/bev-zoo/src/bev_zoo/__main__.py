"""List the systems, show one, convert its checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from .convert import Conversion, convert_checkpoint
from .show import as_text
from .table import as_json, as_table, summaries, summary

_LONG = 500  # characters


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 if the caller has something to mend, which is then said in one line."""
    options = _parser().parse_args(arguments)
    try:
        print(options.command(options))
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("BEVKIT_DEBUG", "0") not in ("", "0"):
            raise
        print(f"bev_zoo: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bev_zoo", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="all recipes in a table", description="All recipes in a table.")
    command.add_argument("--json", action="store_true", help="as JSON, with the operations of every stage")
    command.set_defaults(command=_list)

    command = commands.add_parser("show", help="one recipe, whole", description="Every option of a recipe.")
    command.add_argument("name", metavar="NAME", help="the recipe")
    command.set_defaults(command=_show)

    command = commands.add_parser(
        "convert",
        help="a published checkpoint to ours",
        description="Write a published checkpoint as safetensors of ours. It fits as a whole, or nothing is written.",
    )
    command.add_argument("source", metavar="CHECKPOINT.pth", type=Path, help="the file to read")
    command.add_argument("target", metavar="OUT.safetensors", type=Path, help="the file to write")
    command.add_argument("--recipe", metavar="NAME", help="the system; recognised by its weights if left out")
    command.add_argument("--force", action="store_true", help="write over a file that is there")
    command.set_defaults(command=_convert)
    return parser


def _list(options: argparse.Namespace) -> str:
    return (as_json if options.json else as_table)(summaries())


def _show(options: argparse.Namespace) -> str:
    return as_text(summary(options.name))


def _convert(options: argparse.Namespace) -> str:
    done = convert_checkpoint(options.source, options.target, recipe=options.recipe, force=options.force)
    taken = f"recipe  {done.recipe}" + ("" if options.recipe else _why(done))
    return f"{taken}\nwrote   {done.path}: {done.entries} entries, {done.size:,} bytes\nsha256  {done.sha256}"


def _why(done: Conversion) -> str:
    """How the recipe was chosen, and what else it might be."""
    if not done.same_weights:
        return " (recognised by its weights)"
    return f" (recognised by its weights, which fit {', '.join(done.same_weights)} too: --recipe says which it is)"


def _one_line(error: Exception) -> str:
    """The message without line breaks; where a list of entries makes it long, only their numbers per module."""
    lines = str(error).splitlines()
    whole = _joined(lines)
    if len(whole) <= _LONG:
        return whole
    return _joined(line.partition(":")[0] if line.startswith("    ") else line for line in lines)


def _joined(lines: Iterable[str]) -> str:
    return "; ".join(line.strip() for line in lines if line.strip()).replace(":; ", ": ")


if __name__ == "__main__":
    sys.exit(main())
