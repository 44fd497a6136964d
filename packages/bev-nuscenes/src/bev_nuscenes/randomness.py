"""Where random numbers come from: generators that depend on what they are for, never on who asks first."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "generator"]


class Purpose(IntEnum):
    """Keeps the streams of one seed apart."""

    AUGMENT = 1
    BALANCE = 2
    SHUFFLE = 3


def generator(purpose: Purpose, seed: int, *numbers: int) -> np.random.Generator:
    """The generator of a purpose under a seed and further numbers (epoch, index, ...), none of them negative."""
    return np.random.default_rng([purpose, seed, *numbers])
