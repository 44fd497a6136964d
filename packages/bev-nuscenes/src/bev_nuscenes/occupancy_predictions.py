"""Occupancy predictions in the format of the CVPR 2023 occupancy challenge: a folder with one TOKEN.npz per sample.

Each file holds one compressed (200, 200, 16) uint8 array of labels, axes X, Y, Z, under numpy's name for a nameless
array (``arr_0``), as the challenge's own code writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .files import atomic_write, read_arrays
from .occupancy import check_occupancy

__all__ = ["missing_predictions", "read_prediction", "write_prediction"]


def write_prediction(folder: str | Path, token: str, labels: Any) -> Path:
    """Write one sample's labels, an array or a tensor on any device; a reader sees all of the file or nothing.

    Args:
        folder: where predictions go, made if need be.
        token: sample token, the file's name.
        labels: (X, Y, Z) integers, positions in OCCUPANCY_CLASSES.

    Returns:
        The file.

    Raises:
        DataError: a wrong shape, or labels that are none; nothing is written.
    """
    array = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    checked = check_occupancy(array, f"the prediction of sample {token}")
    path = prediction_path(folder, token)
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, checked)
    return path


def read_prediction(folder: str | Path, token: str) -> np.ndarray:
    """Labels (X, Y, Z) uint8 of one sample.

    Raises:
        DataError: the file is missing or damaged, does not hold exactly one array, or holds none of labels.
    """
    path = prediction_path(folder, token)
    arrays = read_arrays(path, "prediction", "predict the sample first")
    if len(arrays) != 1:
        raise DataError(f"prediction {path} must hold one array, got {len(arrays)} ({', '.join(arrays)})")
    return check_occupancy(next(iter(arrays.values())), f"prediction {path}")


def missing_predictions(folder: str | Path, tokens: Sequence[str]) -> list[str]:
    """Those of the tokens, in their order, without a file in a folder."""
    return [token for token in tokens if not prediction_path(folder, token).is_file()]


def prediction_path(folder: str | Path, token: str) -> Path:
    """File of one sample."""
    return Path(folder) / f"{token}.npz"
