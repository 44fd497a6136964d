"""Loading workers that die or hang: noticed between two steps, where nothing is half done."""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
from typing import Any

import lightning.pytorch as pl

__all__ = ["WorkerError", "WorkerFailures", "end_workers", "worker_error"]

_KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed|exited)")
_HANGS = re.compile(r"DataLoader timed out after (\S+) seconds")


class WorkerError(ValueError):
    """A loading worker died, or gave nothing for too long."""


class WorkerFailures(pl.Callback):
    """Keeps PyTorch from interrupting a running step when a loading worker dies.

    PyTorch raises its error from a signal handler, be it in the middle of an optimiser step. Put off, the error comes
    when the next batch is fetched, and what is saved then is the state after a whole step. It belongs at the end of the
    callbacks, so that saving is not interrupted either.
    """

    def __init__(self) -> None:
        self._handler: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
            self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)
            self._handler = None


def worker_error(error: BaseException) -> WorkerError | None:
    """What to tell the user about an error of the data loader; None if it is another error."""
    text = str(error)
    if _KILLED.search(text):
        first = text.splitlines()[0].rstrip(".")
        return WorkerError(
            f"{first}: probably out of memory (CPU memory or /dev/shm); lower --workers or --batch-size and continue "
            "with --resume"
        )
    if found := _HANGS.search(text):
        return WorkerError(
            f"the loading workers gave no batch for {float(found[1]):g} s (--worker-timeout): look at the disk or "
            "network under --data.root, and continue with --resume"
        )
    return None


def end_workers() -> None:
    """End the loading workers of this process; one that hangs does not listen to less."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join(5)
