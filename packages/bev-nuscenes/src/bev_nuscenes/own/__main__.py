"""Check own data, and bring data of other formats into it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..command_line import run_program
from .commands import add_check, add_from_nuscenes, add_kitti, add_ros

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 1 if the data has errors, 2 if something must be given otherwise."""
    options = _parser().parse_args(arguments)
    return run_program("bev_nuscenes.own", lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bev_nuscenes.own", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_check(commands.add_parser("check", help="every problem of a folder, and what is in it"))
    add_from_nuscenes(commands.add_parser("from-nuscenes", help="write scenes of nuScenes in this format"))
    add_kitti(commands.add_parser("kitti", help="describe a drive of KITTI's kind"))
    add_ros(commands.add_parser("ros", help="describe a drive recorded with ROS"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
