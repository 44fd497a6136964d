#!/usr/bin/env python
"""Render a synthetic driving world to a v1.0-mini nuScenes data set."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bev_nuscenes.synthetic import make_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--scenes", type=int, default=10, help="number of scenes, 1 to 10")
    parser.add_argument(
        "--samples-per-scene", type=int, default=10, metavar="K", help="key frames per scene, 0.5 s apart"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--sweeps", type=int, default=1, help="LiDAR sweeps between two key frames")
    parser.add_argument("--camera-sweeps", type=int, default=0, help="images per camera between two key frames")
    parser.add_argument("--density", type=float, default=1.0, help="share of the optional objects")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = vars(parser.parse_args())
    try:
        summary = make_world(options.pop("out"), **options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary)
    for split, classes in summary.annotations.items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in classes.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
