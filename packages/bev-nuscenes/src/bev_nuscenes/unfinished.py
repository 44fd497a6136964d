"""Temporary files: which are being written, and which a killed process left."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

__all__ = ["claim", "remove_abandoned"]


def claim(file: IO) -> None:
    """Mark a temporary file as in use until it is closed or its process ends."""
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove temporary files that killed processes left; those that a process has claimed stay."""
    for path in paths:
        with suppress(OSError):  # in use, gone, or not ours to remove
            with path.open("r+b") as file:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # Windows itself refuses while somebody has it open
