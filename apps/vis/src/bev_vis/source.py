"""From the index of a data set to what a picture shows."""

from dataclasses import dataclass

import numpy as np

from bev_nuscenes import DataOptions, NuscenesIndex, OccupancyTruth, open_index, read_occupancy
from bev_nuscenes.files import read_lidar
from bev_nuscenes.geometry import invert_pose

from .frame import Boxes, Camera, Frame
from .geometry import Array, transform_points

_EVALUATION_SPLITS = ("val", "mini_val", "test")


@dataclass(frozen=True)
class Source:
    """One split of an indexed data set, as frames to draw."""

    index: NuscenesIndex
    split: str

    @property
    def tokens(self) -> list[str]:
        """Sample tokens of the split, in order of time."""
        return self.index.tokens(self.split)

    @property
    def scenes(self) -> list[str]:
        """Scene of every sample of the split, in order of time."""
        return [self.index.scene_name(int(position)) for position in self.index.split_positions(self.split)]

    @property
    def has_lidar(self) -> bool:
        """Whether the LiDAR file of the split's first sample is there."""
        position = int(self.index.split_positions(self.split)[0])
        return bool(self.index.lidar.files[position]) and self.index.lidar_path(position).is_file()

    def lidar_origin(self, number: int) -> Array:
        """Where the vehicle was when the LiDAR measured the frame (3,), global: distances are counted from there."""
        return self.index.lidar.ego_to_global[int(self.index.split_positions(self.split)[number]), :3, 3]

    def occupancy(self, number: int) -> OccupancyTruth | None:
        """The true voxels of the frame at a place of the split, if the data set has the file."""
        path = self.index.occupancy_path(int(self.index.split_positions(self.split)[number]))
        return read_occupancy(path) if path.is_file() else None

    def frame(self, number: int, *, lidar: bool = True) -> Frame:
        """The frame at a place of the split; ``lidar``: with its points, if the data set has the file."""
        position = int(self.index.split_positions(self.split)[number])
        ego_to_global = self.index.box_to_global(position)
        return Frame(
            token=self.index.token(position),
            scene=self.index.scene_name(position),
            ego_to_global=ego_to_global,
            cameras=tuple(_camera(self.index, position, camera) for camera in range(len(self.index.info.cameras))),
            truth=_truth(self.index, position).transform(ego_to_global),
            points=_points(self.index, position) if lidar else None,
        )


def open_source(options: DataOptions) -> Source:
    """Open the split that the options name; without one, the split of this version that results are reported on."""
    index = open_index(options)
    split = options.split or next((split for split in _EVALUATION_SPLITS if split in index.splits), index.splits[-1])
    index.split_positions(split)  # an unknown or empty split fails here, with a message of its own
    return Source(index, split)


def _camera(index: NuscenesIndex, position: int, camera: int) -> Camera:
    table = index.cameras
    width, height = table.sizes[position, camera]
    return Camera(
        name=index.info.cameras[camera],
        image=index.camera_path(position, camera),
        size=(int(width), int(height)),
        intrinsics=np.array(table.intrinsics[position, camera]),
        camera_to_global=table.ego_to_global[position, camera] @ table.cam_to_ego[position, camera],
    )


def _truth(index: NuscenesIndex, position: int) -> Boxes:
    """The boxes that evaluation counts, those with a LiDAR or radar point, in the frame of ``box_to_global``."""
    rows = index.box_rows(position)
    table = index.boxes
    return Boxes.from_ego(table.boxes[rows], table.labels[rows], attribute=table.attributes[rows])


def _points(index: NuscenesIndex, position: int) -> Array | None:
    if not index.lidar.files[position] or not index.lidar_path(position).is_file():
        return None
    points = read_lidar(index.lidar_path(position)).astype(np.float64)
    lidar_to_global = index.lidar.ego_to_global[position] @ index.lidar.lidar_to_ego[position]
    return transform_points(points, invert_pose(index.box_to_global(position)) @ lidar_to_global)
