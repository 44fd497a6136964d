"""Results of an earlier run in the folder that is written to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bev_nuscenes.unfinished import remove_abandoned

__all__ = ["remove_earlier"]


def remove_earlier(folder: Path, patterns: Iterable[str], *, overwrite: bool) -> None:
    """Remove the files of a folder that match a pattern, if they may be replaced; the folder need not exist.

    What a run that was killed left unfinished goes first, and is no result.

    Raises:
        ValueError: there are some, and they must be kept.
    """
    remove_abandoned([*folder.glob(".*.part"), *folder.glob("occupancy/.*.part")])
    earlier = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if earlier and not overwrite:
        raise ValueError(
            f"{earlier[0]} exists already: choose another folder with --out, or replace it with --overwrite"
        )
    for path in earlier:
        path.unlink()
