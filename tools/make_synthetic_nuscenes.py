#!/usr/bin/env python
"""Render a synthetic driving world to a v1.0-mini nuScenes data set, or blow one up to the size of v1.0-trainval."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path
from typing import Any

from bev_nuscenes.synthetic import WEATHERS, WorldSummary, make_trainval, make_world


def main() -> int:
    options = vars(_parser().parse_args())
    out, like = options.pop("out"), options.pop("like")
    base, like_scenes = options.pop("base"), options.pop("like_scenes")
    try:
        if like == "trainval":
            _make_trainval(out, base, like_scenes, options)
        elif base or like_scenes:
            raise ValueError(
                "--base and --like-scenes are options of --like trainval: give that too, or leave them out"
            )
        else:
            _report(make_world(out, **options), options["workers"])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("out", type=Path, help="folder to make")
    add("--scenes", type=int, default=10, help="number of scenes, 1 to 10")
    add("--samples-per-scene", type=int, default=10, metavar="K", help="key frames per scene, 0.5 s apart")
    add("--seed", type=int, default=0, help="same seed, same bytes")
    add("--sweeps", type=int, default=1, help="LiDAR sweeps between two key frames")
    add("--camera-sweeps", type=int, default=0, help="images per camera between two key frames")
    add("--density", type=float, default=1.0, help="share of the optional objects; above 1, up to 3: a crowded street")
    add("--weather", choices=(*WEATHERS, "mixed"), default="clear", help="mixed: drawn for each scene")
    add("--variety", type=float, default=0.0, help="share of the objects with other than the plain shapes, 0 to 1")
    add(
        "--intersections", action="store_true", help="every scene at a junction: turning, stopping and starting traffic"
    )
    add("--sensor-noise", type=float, default=0.0, help="0 perfect cameras, 1 as noisy as real ones")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    add(
        "--like",
        choices=("mini", "trainval"),
        default="mini",
        help="trainval: 850 scenes linked to a small world's files",
    )
    add("--base", type=Path, help="the small world of --like trainval; by default it is rendered to OUT.base")
    add(
        "--like-scenes",
        type=int,
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="fewer scenes of --like trainval than 700 and 150, of 40 key frames each",
    )
    return parser


def _report(summary: WorldSummary, workers: int) -> None:
    print(summary)
    if summary.created:
        per_scene, rate = summary.seconds / summary.options.scenes, summary.images / summary.seconds
        print(f"{per_scene:.1f} s per scene, {rate:.2f} images/s, with {workers} worker{'s' if workers > 1 else ''}")
    for split, classes in summary.annotations.items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in classes.items()))


def _make_trainval(out: Path, base: Path | None, like_scenes: list[int] | None, options: dict[str, Any]) -> None:
    if out.exists():  # before the base is rendered for nothing
        raise FileExistsError(f"{out} exists: name another folder, or delete it")
    if base is None:
        base = out.with_name(f"{out.name}.base")
        _report(make_world(base, **options), options["workers"])
    scenes = None if like_scenes is None else dict(zip(("train", "val"), like_scenes, strict=True))
    print(make_trainval(out, base, scenes=scenes))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
