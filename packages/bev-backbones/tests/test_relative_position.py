"""Relative position tables of another window size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bev_backbones.relative_position import resize_relative_position_table


@pytest.mark.parametrize(("window", "wanted"), [(7, 16), (7, 8), (12, 16), (12, 8), (16, 12), (3, 4), (3, 40)])
def test_the_spline_is_that_of_fitpack(window: int, wanted: int) -> None:
    """The published code interpolates with FITPACK (scipy's interp2d, kind="cubic", on a grid)."""
    interpolate = pytest.importorskip("scipy.interpolate")
    table = torch.randn((2 * window - 1) ** 2, 3)
    resized = resize_relative_position_table(table, 2 * wanted - 1).unflatten(0, (2 * wanted - 1, -1))
    offsets, targets = _published_offsets(window, wanted), np.arange(1 - wanted, wanted, dtype=float)
    for head in range(3):
        known = table[:, head].reshape(2 * window - 1, -1).double().numpy()
        spline = interpolate.RectBivariateSpline(offsets, offsets, known, kx=3, ky=3, s=0)
        np.testing.assert_allclose(resized[..., head].numpy(), spline(targets, targets), atol=1e-5)


def _published_offsets(window: int, wanted: int) -> np.ndarray:
    """Known offsets whose distances grow geometrically, so that the last lies where the last wanted one does."""
    count, reach = window - 1, wanted - 1
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        total = sum(ratio**i for i in range(count))
        low, high = (low, ratio) if total > reach else (ratio, high)
    right = np.cumsum([ratio**i for i in range(count)])
    return np.concatenate([-right[::-1], [0.0], right])


def test_the_centre_and_a_constant_stay() -> None:
    table = torch.randn(13 * 13, 2)
    resized = resize_relative_position_table(table, 31)
    torch.testing.assert_close(resized[31 * 31 // 2], table[13 * 13 // 2])
    torch.testing.assert_close(resize_relative_position_table(torch.ones(169, 2), 31), torch.ones(961, 2))


@pytest.mark.parametrize("rows", [170, 36, 9])
def test_tables_of_no_window_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"window of at least 3 to be interpolated, got {rows} rows"):
        resize_relative_position_table(torch.zeros(rows, 2), 31)
