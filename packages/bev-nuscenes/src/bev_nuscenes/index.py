"""The index: everything about a nuScenes version that training needs, as flat arrays in one file without pickle.

The file is an uncompressed ``.npz``. Its arrays are mapped into memory, not read: opening takes milliseconds whatever
the size, and all workers of a machine share the pages.

Legend: K key frames in order of time, N cameras, S scenes, M boxes of all key frames, I instances.
Strings are arrays of ASCII bytes.
"""

from __future__ import annotations

import glob
import json
import zipfile
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .errors import DataError
from .files import atomic_write
from .remote import DataPath, RemoteAccess, data_path
from .taxonomy import CAMERAS, CLASSES
from .unfinished import remove_abandoned

__all__ = ["FORMAT", "BoxTable", "CameraTable", "FrameTable", "IndexInfo", "LidarTable", "NuscenesIndex", "SceneTable"]

FORMAT = 1
"""Format version of the index file; a file of another version is refused."""


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index was made from.

    Attributes:
        version: ``v1.0-mini``, ``v1.0-trainval`` or ``v1.0-test``; ``own`` for data in the own format.
        root: folder that file names are relative to, or its URL.
        devkit: version of nuscenes-devkit that read the tables.
        fingerprint: digest of the tables' names, sizes and modification times.
        splits: per split of this version the names of its scenes.
        cameras: names of the N cameras, in the order of every tensor that has a camera axis.
        box_camera: the camera whose ego pose the boxes stand in.
        format: format version of the file.
    """

    version: str
    root: str
    devkit: str
    fingerprint: str
    splits: dict[str, list[str]]
    cameras: tuple[str, ...] = CAMERAS
    box_camera: str = "CAM_FRONT"
    format: int = FORMAT


class SceneTable(NamedTuple):
    names: np.ndarray  # (S,) bytes
    tokens: np.ndarray  # (S,) bytes


class FrameTable(NamedTuple):
    tokens: np.ndarray  # (K,) bytes
    timestamps: np.ndarray  # (K,) int64 microseconds
    scenes: np.ndarray  # (K,) int32 position in SceneTable
    previous: np.ndarray  # (K,) int32 position of the key frame before it in its scene, -1 for none
    next: np.ndarray  # (K,) int32 position of the key frame after it in its scene, -1 for none


class CameraTable(NamedTuple):
    files: np.ndarray  # (K, N) bytes, relative to the root
    timestamps: np.ndarray  # (K, N) int64 microseconds
    sizes: np.ndarray  # (K, N, 2) int32 width, height
    intrinsics: np.ndarray  # (K, N, 3, 3) float64
    cam_to_ego: np.ndarray  # (K, N, 4, 4) float64
    ego_to_global: np.ndarray  # (K, N, 4, 4) float64, at the camera's time stamp


class LidarTable(NamedTuple):
    files: np.ndarray  # (K,) bytes, empty where a key frame has no LiDAR
    timestamps: np.ndarray  # (K,) int64 microseconds
    lidar_to_ego: np.ndarray  # (K, 4, 4) float64
    ego_to_global: np.ndarray  # (K, 4, 4) float64, at the LiDAR's time stamp


class BoxTable(NamedTuple):
    """Boxes of the ten detection classes; key frame k owns rows ``offsets[k]:offsets[k + 1]``."""

    offsets: np.ndarray  # (K + 1,) int64
    boxes: np.ndarray  # (M, 9) float32, in the ego frame of the box camera
    labels: np.ndarray  # (M,) int8 position in CLASSES
    valid: np.ndarray  # (M,) bool: LiDAR or radar points in the box
    instances: np.ndarray  # (M,) int32 position in instance_tokens
    attributes: np.ndarray  # (M,) int8 position in ATTRIBUTES, -1 for none
    visibility: np.ndarray  # (M,) int8 1 (0-40 %) to 4 (80-100 %), 0 where unknown
    instance_tokens: np.ndarray  # (I,) bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class NuscenesIndex:
    """Index of one nuScenes version; see the tables for its arrays.

    Boxes stand in the *box ego* frame: the ego pose of the box camera at the key frame. In nuScenes that is CAM_FRONT,
    as the published systems have it.
    """

    info: IndexInfo
    scenes: SceneTable
    frames: FrameTable
    cameras: CameraTable
    lidar: LidarTable
    boxes: BoxTable
    path: Path | None = field(default=None, repr=False)
    access: RemoteAccess = field(default=RemoteAccess(), repr=False)  # where the root is a URL

    def __len__(self) -> int:
        """Number of key frames."""
        return len(self.frames.tokens)

    def __reduce__(self):
        # A worker that receives the index opens the file again instead of receiving the arrays.
        if self.path is None:
            return _restore, ({entry.name: getattr(self, entry.name) for entry in fields(self)},)
        return _reopen, (self.path, self.info.root, self.access)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits this version has."""
        return tuple(self.info.splits)

    def split_positions(self, split: str) -> np.ndarray:
        """Positions (K',) int64 of a split's key frames, in order of time.

        Raises:
            DataError: the version has no such split, or none of its scenes is in the data.
        """
        if split not in self.info.splits:
            names = ", ".join(self.splits)
            raise DataError(f"{self.info.version} has no split {split!r}; it has {names}")
        wanted = np.array(self.info.splits[split], dtype=bytes)
        positions = np.flatnonzero(np.isin(self.scenes.names, wanted)[self.frames.scenes])
        if not len(positions):
            raise DataError(f"split {split} is empty: none of its scenes is in the tables under {self.info.root}")
        return positions

    def token(self, position: int) -> str:
        """Sample token of a key frame."""
        return self.frames.tokens[position].decode()

    def tokens(self, split: str) -> list[str]:
        """Sample tokens of a split, in order of time."""
        return [self.token(position) for position in self.split_positions(split)]

    def scene_name(self, position: int) -> str:
        """Name of the scene a key frame belongs to."""
        return self.scenes.names[self.frames.scenes[position]].decode()

    def position(self, token: str) -> int:
        """Position of the key frame with a sample token."""
        found = np.flatnonzero(self.frames.tokens == token.encode())
        if not len(found):
            raise DataError(f"{self.info.version} under {self.info.root} has no sample {token!r}")
        return int(found[0])

    @property
    def root(self) -> DataPath:
        """The folder that files are in."""
        return data_path(self.info.root, self.access)

    def camera_path(self, position: int, camera: int) -> DataPath:
        """Path of an image; ``camera`` is a position in ``info.cameras``."""
        return self.root / self.cameras.files[position, camera].decode()

    def lidar_path(self, position: int) -> DataPath:
        """Path of the key frame's LiDAR file."""
        name = self.lidar.files[position].decode()
        if not name:
            raise DataError(f"sample {self.token(position)} has no LiDAR; use a recipe without depth supervision")
        return self.root / name

    def occupancy_path(self, position: int) -> DataPath:
        """Path of the key frame's occupancy ground truth, where Occ3D-nuScenes puts it: gts/SCENE/TOKEN/labels.npz."""
        return self.root / "gts" / self.scene_name(position) / self.token(position) / "labels.npz"

    def seconds(self, position: int) -> float:
        """Time stamp of a key frame in seconds."""
        return float(self.frames.timestamps[position]) * 1e-6

    def box_to_global(self, position: int) -> np.ndarray:
        """Transform (4, 4) float64 from the frame the boxes stand in to the global frame."""
        return np.array(self.cameras.ego_to_global[position, self.info.cameras.index(self.info.box_camera)])

    def box_rows(self, position: int, *, valid_only: bool = True) -> np.ndarray:
        """Rows (M',) int64 of BoxTable that belong to a key frame; only those with points unless told otherwise."""
        start, stop = self.boxes.offsets[position : position + 2]
        rows = np.arange(start, stop)
        return rows[self.boxes.valid[start:stop]] if valid_only else rows

    def class_presence(self, positions: np.ndarray) -> np.ndarray:
        """Which classes have a valid box in which key frame: (len(positions), 10) bool."""
        frames = np.repeat(np.arange(len(self)), np.diff(self.boxes.offsets))
        presence = np.zeros((len(self), len(CLASSES)), dtype=bool)
        presence[frames[self.boxes.valid], self.boxes.labels[self.boxes.valid]] = True
        return presence[positions]

    def save(self, path: str | Path) -> None:
        """Write the index file; a reader sees the old file or the new one, never half of it."""
        path = Path(path)
        remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.*.part"))
        info = np.frombuffer(json.dumps(asdict(self.info)).encode(), dtype=np.uint8)
        with atomic_write(path, "wb") as file:
            np.savez(file, info=info, **_flatten(self))

    @classmethod
    def load(
        cls, path: str | Path, root: str | Path | None = None, access: RemoteAccess | None = None
    ) -> NuscenesIndex:
        """Map an index file into memory.

        Args:
            path: the file.
            root: the data set's folder or URL, where it has moved since the index was built.
            access: how remote files are read.

        Raises:
            DataError: no such file, not an index, damaged, or of another format version.
        """
        path = Path(path)
        arrays = _map_arrays(path)
        info = _read_info(path, arrays)
        tables: dict[str, Any] = {}
        try:
            for name, kind in _TABLES.items():
                tables[name] = kind(*(arrays[f"{name}.{column}"] for column in kind._fields))
        except KeyError as error:
            raise DataError(f"index {path} lacks {error}; delete it and it is built again") from None
        info = info if root is None else replace(info, root=str(root))
        return cls(info=info, path=path.resolve(), access=access or RemoteAccess(), **tables)


_TABLES: dict[str, Any] = {
    "scenes": SceneTable,
    "frames": FrameTable,
    "cameras": CameraTable,
    "lidar": LidarTable,
    "boxes": BoxTable,
}


def _reopen(path: Path, root: str, access: RemoteAccess) -> NuscenesIndex:
    return NuscenesIndex.load(path, root, access)


def _restore(content: dict) -> NuscenesIndex:
    return NuscenesIndex(**content)


def _flatten(index: NuscenesIndex) -> dict[str, np.ndarray]:
    return {f"{name}.{column}": array for name in _TABLES for column, array in getattr(index, name)._asdict().items()}


def _map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an uncompressed .npz as a read-only memory map."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return {
                member.filename.removesuffix(".npy"): _map_member(path, file, member) for member in archive.infolist()
            }
    except FileNotFoundError:
        raise DataError(f"index {path} is missing; build it with bev_nuscenes.build_index") from None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise DataError(
            f"{path} is not an index file or is damaged ({error}); delete it and it is built again"
        ) from None


def _map_member(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    """Map one stored member: its array follows the local zip header (30 bytes, name, extra field) and the .npy one."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    file.seek(member.header_offset)
    header = file.read(30)
    name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    file.seek(name_length + extra_length, 1)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", file.tell(), shape)


def _read_info(path: Path, arrays: dict[str, np.ndarray]) -> IndexInfo:
    try:
        content = json.loads(bytes(arrays["info"]))
        found = content["format"]
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path} is not an index file; name another, or delete it and it is built again") from None
    if found != FORMAT:
        raise DataError(
            f"index {path} has format {found}, this release reads {FORMAT}; delete it and it is built again"
        )
    return IndexInfo(**{**content, "cameras": tuple(content.get("cameras", CAMERAS))})
