"""What is wrong with a data set: all of it, not only the first thing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import DataError

__all__ = ["Problem", "raise_errors"]

_SHOWN = 3


class Problem(NamedTuple):
    """One thing that is wrong (``error``: the data cannot be used) or strange (``warning``: it can).

    ``place`` names the field, with scene and frame; ``message`` says what was wanted, what came and what to do.
    """

    level: Literal["error", "warning"]
    file: Path
    place: str
    message: str

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        return f"{self.file}{place}: {self.message}"


def raise_errors(problems: Iterable[Problem]) -> None:
    """Raise the errors among some problems, the first three in full.

    Raises:
        DataError: there is one.
    """
    errors = [problem for problem in problems if problem.level == "error"]
    if not errors:
        return
    text = "; ".join(str(problem) for problem in errors[:_SHOWN])
    if len(errors) > _SHOWN:
        folder = errors[0].file.parent
        text += f"; and {len(errors) - _SHOWN} more: python -m bev_nuscenes.own check {folder} lists them"
    raise DataError(text)
