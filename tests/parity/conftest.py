"""Parity is judged at the rounding of the machine that recorded the reference."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def two_threads() -> None:
    """Two threads, as the recording had.

    Convolutions split their sums by the number of threads, and networks with weights by rule amplify the last bit a
    thousandfold: with one thread the same code differs from itself by up to 2e-3 standard deviations, with two it gives
    the recorded backbone values bit for bit.
    """
    torch.set_num_threads(2)
