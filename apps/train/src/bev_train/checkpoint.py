"""Checkpoint files that are whole or absent, and that tell when they are damaged.

A checkpoint is what ``torch.save`` writes (a zip archive) with the SHA-256 of its own bytes as the archive's comment:
one file, no second one that could belong to another, and ``torch.load`` reads it as ever.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError

__all__ = [
    "CheckpointError",
    "SavedState",
    "VerifiedCheckpointIO",
    "is_intact",
    "newest_intact",
    "previous_of",
    "replace_durably",
    "saving",
    "write_checkpoint",
]

_COMMENT = re.compile(rb"bevkit sha256 ([0-9a-f]{64})\Z")
_COMMENT_BYTES = len("bevkit sha256 ") + 64
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_BLOCK = 1 << 22


class CheckpointError(ValueError):
    """No checkpoint of the run can be read."""


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that was read and found intact.

    Attributes:
        path: the file.
        step: optimiser steps taken when it was written.
    """

    path: Path
    step: int


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints for Lightning with :func:`write_checkpoint`; reads them as Lightning does.

    Args:
        damaged: a checkpoint that the next save replaces instead of keeping it as the previous one.
    """

    def __init__(self, damaged: Path | None = None) -> None:
        super().__init__()
        self._damaged = damaged

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        write_checkpoint(checkpoint, path, keep=path != self._damaged)
        self._damaged = None


def write_checkpoint(content: dict[str, Any], path: Path, *, keep: bool = True) -> None:
    """Write a checkpoint: to a temporary file, synced, then under its name; the one before becomes the previous one.

    A process that dies at any moment leaves at least one whole checkpoint under its name.

    Args:
        content: what ``torch.save`` takes.
        path: the file; its folder must exist.
        keep: keep what ``path`` holds now as the previous checkpoint.

    Raises:
        OSError: the file cannot be written; both checkpoints are as they were.
    """
    partial = path.with_name(path.name + ".partial")
    with saving(path, partial):
        with partial.open("w+b") as file:
            torch.save(content, file)
            _append_checksum(file)
        _sync(partial)
        if keep and path.exists():
            path.replace(previous_of(path))
        replace_durably(partial, path)


@contextmanager
def saving(path: Path, *partials: Path) -> Iterator[None]:
    """Says in one line that a file of the run could not be written, after removing what there is of it.

    Raises:
        OSError: instead of any error of the file system, also where PyTorch or safetensors report it in their own way.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        for partial in partials:
            partial.unlink(missing_ok=True)
        reason = _system_error(error, path)
        if reason is None:
            raise
        raise OSError(
            f"{path} could not be written ({os.strerror(reason)}): make room or free the folder, and continue "
            "with --resume; the files saved before are as they were"
        ) from error


def replace_durably(partial: Path, path: Path) -> None:
    """Give a finished file its name, and see to it that both survive a loss of power."""
    _sync(partial)
    partial.replace(path)
    if os.name == "posix":
        _sync(path.parent)


def previous_of(last: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return last.with_name("previous.ckpt")


def newest_intact(last: Path, *, tell: Callable[[str], None] = warnings.warn) -> SavedState | None:
    """The last checkpoint, or the one before if that is damaged; None if the run never saved.

    Args:
        last: the last checkpoint.
        tell: receives what is wrong with the last one and what is lost.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    candidates = [path for path in (last, previous_of(last)) if path.is_file()]
    found = next((state for path in candidates if (state := _read_state(path)) is not None), None)
    if found is None and candidates:
        names = " and ".join(str(path) for path in candidates)
        raise CheckpointError(
            f"{names}: not a readable checkpoint (truncated or damaged): restore one, or start a new run"
        )
    if found is not None and found.path != last:
        trouble = "is damaged" if last.exists() else "is missing"
        tell(
            f"{last} {trouble}: going on from {found.path} at step {found.step}; the steps trained after that are lost "
            "and done again"
        )
    return found


def is_intact(path: Path) -> bool:
    """Whether a checkpoint is what was written: its checksum holds."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - _COMMENT_BYTES
        if size <= 0:
            return False
        file.seek(size)
        told = _COMMENT.match(file.read())
        return told is not None and _checksum(file, size) == told[1].decode()


def _read_state(path: Path) -> SavedState | None:
    if not is_intact(path):
        return None
    return SavedState(path, torch.load(path, map_location="meta", weights_only=True)["global_step"])


def _append_checksum(file: IO[bytes]) -> None:
    """The length of the comment ends a zip archive, the comment follows it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(size - 2)
    file.write(_COMMENT_BYTES.to_bytes(2, "little"))
    digest = _checksum(file, size)
    file.seek(size)
    file.write(f"bevkit sha256 {digest}".encode())


def _checksum(file: IO[bytes], size: int) -> str:
    """SHA-256 of the first ``size`` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _system_error(error: BaseException, path: Path) -> int | None:
    """The number of the system's error behind an error; None if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        seen = seen.__cause__ or seen.__context__
    told = str(error).lower()
    if numbered := _OS_ERROR.search(told):  # as safetensors writes it
        return int(numbered[1])
    if "no space left" in told or ("write" in told and _free_bytes(path.parent) < _BLOCK):
        return errno.ENOSPC
    return None


def _free_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
