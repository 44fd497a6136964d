"""An evaluation shared out between processes (torchrun): who takes what, and how the results come together."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed

from bev_nuscenes.unfinished import claim

__all__ = ["ProcessError", "Processes", "gathered", "joined"]

_T = TypeVar("_T")
_PATIENCE = timedelta(hours=12)  # the slowest share of a split may take so much longer than the fastest


class ProcessError(ValueError):
    """Another process of the evaluation ended early."""


@dataclass(frozen=True)
class Processes:
    """The processes of an evaluation, as one of them sees them.

    Attributes:
        rank: which of them this is.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def share(self, groups: Sequence[_T]) -> list[_T]:
        """What this process does of work in groups."""
        return list(groups[self.rank :: self.count])

    def wait_for_all(self) -> None:
        """Go on when every process has come here.

        Raises:
            ProcessError: one never will.
        """
        if self.count == 1:
            return
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise ProcessError(
                f"process {self.rank} waited for the others, and one ended early: its own message says why; no figures "
                "were written"
            ) from error


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone. Each takes the GPU of its number."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("gloo", timeout=_PATIENCE)  # only ever waits: results go through files
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def gathered(rows: Iterable[_T], sizes: Sequence[int], folder: Path, processes: Processes) -> Iterator[_T]:
    """The rows of all processes on the main one, in the order one process would have made them; none on the others.

    Every process writes its rows to a file in the folder, which all of them must see; memory does not grow with them.

    Args:
        rows: what this process made, group by group of its share.
        sizes: rows of every group, those of other processes too.
        folder: where the files lie until they are read.
        processes: who shares the groups.

    Raises:
        ProcessError: another process ended early.
    """
    if processes.count == 1:
        yield from rows
        return
    paths = [folder / f".rows-{rank}.part" for rank in range(processes.count)]
    try:
        with paths[processes.rank].open("wb") as file:
            claim(file)
            for row in rows:
                pickle.dump(row, file, protocol=pickle.HIGHEST_PROTOCOL)
            file.flush()
            processes.wait_for_all()
        if processes.is_main:
            yield from _interleaved(paths, sizes)
    finally:
        for path in paths if processes.is_main else ():
            path.unlink(missing_ok=True)


def _interleaved(paths: Sequence[Path], sizes: Sequence[int]) -> Iterator[object]:
    files = [path.open("rb") for path in paths]
    try:
        for group, size in enumerate(sizes):
            for _ in range(size):
                yield pickle.load(files[group % len(files)])
    finally:
        for file in files:
            file.close()
