"""Files that are read: of which kinds, and that whatever is wrong with them names them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import DataError, UnreadableFileError
from bev_nuscenes.files import read_arrays, read_image, read_lidar, read_reduced


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("a.pcd.bin", np.arange(10, dtype="<f4"), None),
        ("a.bin", np.arange(8, dtype="<f4"), None),
        ("a.bin", np.arange(7, dtype="<f4"), "not a multiple of 16"),
        ("a.npy", np.arange(8.0).reshape(2, 4), None),
        ("a.npy", np.arange(8.0), "needs numbers"),
        ("a.pcd", np.arange(8, dtype="<f4"), "neither .bin nor .npy"),
    ],
)
def test_lidar_files(tmp_path: Path, name: str, array: np.ndarray, words: str | None) -> None:
    path = tmp_path / name
    np.save(path, array) if name.endswith(".npy") else array.tofile(path)
    if words is None:
        points = read_lidar(path)
        assert (points.shape, points.dtype) == ((2, 3), np.float32)
        np.testing.assert_array_equal(points[0], [0, 1, 2])
    else:
        with pytest.raises(DataError, match=words):
            read_lidar(path)


def _jpeg(sampling: int) -> bytes:
    """An image whose header has another sampling of its first channel than its data."""
    file = io.BytesIO()
    Image.new("RGB", (160, 90)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    data[data.index(b"\xff\xc0") + 11] = sampling
    return bytes(data)


def _npz(flags: int) -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    data = bytearray(file.getvalue())
    for marker, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(marker) + place] |= flags
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [
        ("a.jpg", _jpeg(0x14), lambda path: read_reduced(path, (160, 90))),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\x02IHDR\0\0\x03\xc2\xa2\xd7", lambda path: read_image(path, (160, 90))),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'shape': (2,  \n", read_lidar),
        ("a.npy", _npz(0), read_lidar),
        ("a.npz", _npz(0x40), lambda path: read_arrays(path, "file")),
    ],
    ids=["JPEG", "PNG", "npy", "npz as npy", "npz"],
)
def test_whatever_a_decoder_raises_the_file_is_unreadable(tmp_path, name, data, read):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableFileError, match=name) as raised:
        read(tmp_path / name)
    assert raised.value.path == str(tmp_path / name)
