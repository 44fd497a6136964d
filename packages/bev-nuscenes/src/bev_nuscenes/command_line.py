"""What programs on this data say to their user: a mistake in one line, without traceback, and how far they are."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable

from tqdm import tqdm

__all__ = ["progress", "run_program"]


def run_program(name: str, program: Callable[[], int]) -> int:
    """Run a program and return its exit status.

    A ``ValueError`` raised by one of this project's packages, and any ``OSError``, is the user's to mend: its message
    is printed as ``NAME: error: …``. Everything else is a defect and keeps its traceback, as does everything with
    ``BEVKIT_DEBUG=1``.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"{name}: warning: {message}", file=sys.stderr)
        try:
            return program()
        except (ValueError, OSError) as error:
            if os.environ.get("BEVKIT_DEBUG", "0") not in ("", "0") or not _is_users(error):
                raise
            print(f"{name}: error: {_message(error)}", file=sys.stderr)
            return 2


def progress(total: int | None, title: str, unit: str = "frame") -> tqdm:
    """A bar with the time left; a line every half minute where there is no terminal."""
    return tqdm(total=total, desc=title, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 30)


def _is_users(error: Exception) -> bool:
    if isinstance(error, OSError) or type(error).__module__.startswith("bev_"):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("bev_")


def _message(error: Exception) -> str:
    """The message alone, also where a data worker has wrapped it in its traceback."""
    text = str(error)
    if " in DataLoader worker process " not in text.partition("\n")[0]:
        return text
    return re.split(r"^[\w.]+: ", text, flags=re.MULTILINE)[-1].strip()
