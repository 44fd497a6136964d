"""Reading and writing files with errors that name them. Every read of the data set passes through here."""

from __future__ import annotations

import io
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DataError

__all__ = ["atomic_write", "read_arrays", "read_image", "read_lidar"]

_UNPACK = "is that part of the data set unpacked, is the root right?"


def read_image(path: Path, size: tuple[int, int], *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an RGB JPEG and check that its (width, height) is ``size``, the one its calibration refers to.

    Args:
        path: the file.
        size: (width, height) it must have.
        at_least: decode only to the smallest of 1/1, 1/2, 1/4 and 1/8 of the size that is no smaller than this
            (width, height). JPEG's own scaling does that at a fraction of the time; pixels differ a little from those
            of a full decode that is resized.

    Raises:
        DataError: the file is missing, not a JPEG, truncated or of another size; the message names it.
    """
    data = _read_bytes(path, "image")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            found = image.size
            if at_least is not None:
                image.draft("RGB", at_least)
            decoded = image.convert("RGB")
    except UnidentifiedImageError:
        raise DataError(f"image {path} is not a JPEG file; fetch it again from the data set") from None
    except (OSError, SyntaxError) as error:
        raise DataError(f"image {path} is truncated or damaged ({error}); fetch it again from the data set") from None
    if found != size:
        raise DataError(
            f"image {path} has {found[0]}x{found[1]} pixels but its calibration is for {size[0]}x{size[1]}; "
            "use the original image, the data set resizes it itself"
        )
    return decoded


def read_lidar(path: Path) -> np.ndarray:
    """Points (P, 3) float32 in metres, LiDAR frame, of a ``.pcd.bin`` file (x, y, z, intensity, ring per point)."""
    data = _read_bytes(path, "LiDAR file")
    if len(data) % 20:
        raise DataError(f"LiDAR file {path} is truncated ({len(data)} bytes, not a multiple of 20); fetch it again")
    return np.frombuffer(data, dtype="<f4").reshape(-1, 5)[:, :3]


def read_arrays(path: Path, kind: str, if_missing: str = _UNPACK) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file without pickle.

    Args:
        path: the file.
        kind: what to call the file in an error.
        if_missing: what an error tells the user to do when there is no such file.

    Raises:
        DataError: the file is missing, damaged or no ``.npz``; the message names it.
    """
    data = _read_bytes(path, kind, if_missing)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{kind} {path} is not an .npz file or is damaged ({error}); fetch it again") from None


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` that replaces it once written and synced; on an error nothing changes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_bytes(path: Path, kind: str, if_missing: str = _UNPACK) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{kind} {path} is missing; {if_missing}") from None
    except OSError as error:
        raise DataError(f"{kind} {path} cannot be read: {error.strerror}") from None
