"""What is compared, and the check that both sides compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Case", "DisagreementError", "Problem", "check_close", "random_generator"]


class DisagreementError(RuntimeError):
    """Ours and the plain version gave different results: a defect, and no time is worth anything."""


@dataclass(frozen=True)
class Case:
    """An operator at one size.

    Attributes:
        name: of the operator.
        baseline: what the plain version is called.
        plain: runs the plain version.
        ours: runs the operator.
        check: compares the results of both; raises DisagreementError.
    """

    name: str
    baseline: str
    plain: Callable[[], object]
    ours: Callable[[], object]
    check: Callable[[], None]


class Problem(NamedTuple):
    """Cases that share their inputs, built when their turn comes, so that only one problem is in memory at a time."""

    size: str
    build: Callable[[], list[Case]]


def check_close(name: str, ours: Tensor, plain: Tensor, tolerance: float, *, exceptions: float = 0.0) -> None:
    """Compare element by element.

    Args:
        name: of the operator, for the message.
        ours, plain: results of the same shape.
        tolerance: largest difference allowed, as a share of the largest value of the plain result.
        exceptions: share of the elements that may differ more, where both sides round to different sides of a border.

    Raises:
        DisagreementError: they differ; the message gives the worst element.
    """
    if ours.shape != plain.shape:
        raise DisagreementError(f"{name}: ours has shape {tuple(ours.shape)}, the plain version {tuple(plain.shape)}")
    difference = (ours.double() - plain.double()).abs()
    bound = tolerance * max(plain.double().abs().max().item(), 1e-30) if plain.numel() else 0.0
    wrong = ~(difference <= bound)  # also where either is NaN
    if wrong.sum().item() <= exceptions * difference.numel():
        return
    worst = int(difference.nan_to_num(nan=torch.inf).argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), ours.shape))
    raise DisagreementError(
        f"{name}: {int(wrong.sum())} of {difference.numel()} values differ by more than {bound:.3g}; at {place} ours "
        f"is {ours.flatten()[worst].item():g}, the plain version {plain.flatten()[worst].item():g}"
    )


def random_generator(seed: int) -> torch.Generator:
    """Numbers on the CPU, so that every device gets the same."""
    return torch.Generator().manual_seed(seed)
