"""Reading and writing files with errors that name them. Every read of the data set passes through here."""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DataError, UnreadableFileError
from .remote import DataPath
from .unfinished import claim

if sys.platform != "win32":
    import fcntl

__all__ = [
    "DEEP_MODES",
    "LIDAR_SUFFIXES",
    "atomic_write",
    "exclusive",
    "read_arrays",
    "read_bytes",
    "read_image",
    "read_lidar",
    "read_reduced",
    "user_cache",
]

DEEP_MODES = ("I", "F")
"""With these begin PIL's modes of more than 8 bits."""

LIDAR_SUFFIXES = (".bin", ".npy")

_PNG = b"\x89PNG"
_UNPACK = "is that part of the data set unpacked, is the root right?"


def read_image(path: DataPath, size: tuple[int, int]) -> Image.Image:
    """Decode a JPEG or PNG to RGB with PIL and check that its (width, height) is ``size``, that of its calibration.

    Raises:
        UnreadableFileError: the file, which is named, is missing, neither of the two, truncated, of another size, or
            grey of more than 8 bits.
    """
    return _decode(path, read_bytes(path, "image"), size)


def read_reduced(path: DataPath, size: tuple[int, int], factor: int = 1) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of a JPEG decoded to 1/``factor`` of its ``size`` (width, height); 1, 2, 4 or 8.

    Several times as fast as ``read_image``; pixels differ by a level here and there. Raises as that does, and also
    where data is damaged in a way that PIL passes over. A PNG is decoded in full and then reduced.
    """
    from .fast_images import decode_reduced, jpeg_size  # here, so that everything else needs no OpenCV

    data = read_bytes(path, "image")
    if data.startswith(_PNG):
        return np.asarray(_decode(path, data, size).reduce(factor))
    try:
        found = jpeg_size(data)
    except ValueError:
        raise _no_jpeg(path) from None
    except KeyError:
        raise _damaged(path, "unknown subsampling") from None
    _check_size(path, found, size)
    try:
        return decode_reduced(data, factor)
    except ValueError as error:
        raise _damaged(path, error) from None


def read_lidar(path: DataPath) -> np.ndarray:
    """Points (P, 3) float32 in metres, LiDAR frame.

    The name says what the file holds: ``.pcd.bin`` five float32 per point (nuScenes: x, y, z, intensity, ring), any
    other ``.bin`` four (KITTI: x, y, z, reflectance), ``.npy`` an array (P, 3 or more) that begins with x, y, z.

    Raises:
        UnreadableFileError: the file is missing, damaged or of another kind; the message names it.
    """
    if not path.name.endswith(LIDAR_SUFFIXES):
        raise UnreadableFileError(f"LiDAR file {path} is neither .bin nor .npy; convert it", str(path))
    data = read_bytes(path, "LiDAR file")
    if path.name.endswith(".npy"):
        return _points_of_array(path, data)
    columns = 5 if path.name.endswith(".pcd.bin") else 4
    if len(data) % (4 * columns):
        raise UnreadableFileError(
            f"LiDAR file {path} is truncated ({len(data)} bytes, not a multiple of {4 * columns}); fetch it again",
            str(path),
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, columns)[:, :3]


def read_arrays(path: DataPath, kind: str, if_missing: str = _UNPACK) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file without pickle.

    Args:
        path: the file.
        kind: what to call the file in an error.
        if_missing: what an error tells the user to do when there is no such file.

    Raises:
        UnreadableFileError: the file is missing, damaged or no ``.npz``; the message names it.
    """
    data = read_bytes(path, kind, if_missing)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # damage shows as anything
        raise UnreadableFileError(
            f"{kind} {path} is not an .npz file or is damaged ({error}); fetch it again", str(path)
        ) from None


def read_bytes(path: DataPath, kind: str, if_missing: str = _UNPACK) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        kind: what an error calls it.
        if_missing: what an error tells the user to do when there is no such file.

    Raises:
        UnreadableFileError: the file is missing or cannot be read; the message names it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadableFileError(f"{kind} {path} is missing; {if_missing}", str(path)) from None
    except OSError as error:
        raise UnreadableFileError(f"{kind} {path} cannot be read: {error.strerror or error}", str(path)) from None


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` that replaces it once written and synced; on an error nothing changes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open(mode) as file:
            claim(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time write a file; where the system has no such locks, each writes for itself.

    Raises:
        DataError: the file's folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); name a writable place") from None
    with lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def user_cache() -> Path:
    """Where what was made from data is kept: $XDG_CACHE_HOME/bevkit/nuscenes, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bevkit" / "nuscenes"


def _decode(path: DataPath, data: bytes, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            decoded, mode = image.convert("RGB"), image.mode
    except UnidentifiedImageError:
        raise _no_jpeg(path) from None
    except Exception as error:  # damage shows as anything
        raise _damaged(path, error) from None
    if mode.startswith(DEEP_MODES):
        raise UnreadableFileError(
            f"image {path} has more than 8 bits per pixel and channel ({mode}), which would be cut off; scale it to 8",
            str(path),
        )
    _check_size(path, decoded.size, size)
    return decoded


def _points_of_array(path: DataPath, data: bytes) -> np.ndarray:
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # damage shows as anything
        raise UnreadableFileError(
            f"LiDAR file {path} is no .npy file or is damaged ({error}); fetch it again", str(path)
        ) from None
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiu":
        raise UnreadableFileError(
            f"LiDAR file {path} needs numbers (P, 3 or more), got {array.dtype} {array.shape}", str(path)
        )
    return array[:, :3].astype(np.float32)


def _no_jpeg(path: DataPath) -> UnreadableFileError:
    return UnreadableFileError(
        f"image {path} is not a JPEG file, nor a PNG; fetch it again from the data set", str(path)
    )


def _damaged(path: DataPath, error: Exception | str) -> UnreadableFileError:
    return UnreadableFileError(
        f"image {path} is truncated or damaged ({error}); fetch it again from the data set", str(path)
    )


def _check_size(path: DataPath, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise UnreadableFileError(
            f"image {path} has {found[0]}x{found[1]} pixels but its calibration is for {wanted[0]}x{wanted[1]}; "
            "use the original image, the data set resizes it itself",
            str(path),
        )
