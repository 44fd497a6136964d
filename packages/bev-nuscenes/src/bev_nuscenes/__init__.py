"""nuScenes for camera-only perception: index, data set, augmentation, occupancy, evaluation, synthetic worlds."""

from .batch import Batch, Sample, collate
from .bev_augmentation import BevAugmentation, BevTransform, boxes_in_range, wrap_yaw
from .build import build_index, default_index_path, open_index
from .dataset import Draw, NuscenesDataset
from .errors import DataError, UnreadableFileError
from .evaluation import ClassMetrics, Metrics, TpErrors, evaluate
from .faults import Faults
from .file_cache import FileCache
from .image_augmentation import (
    PIXEL_MEAN,
    PIXEL_STD,
    ImageAugmentation,
    ImageTransform,
    normalize_image,
    normalize_images,
)
from .image_cache import CacheCounts
from .index import BoxTable, CameraTable, FrameTable, IndexInfo, LidarTable, NuscenesIndex, SceneTable
from .lidar_depth import lidar_depth_maps
from .occupancy import (
    FREE,
    OCCUPANCY_CELL,
    OCCUPANCY_CLASSES,
    OCCUPANCY_LOWER,
    OCCUPANCY_SHAPE,
    OccupancyTruth,
    read_occupancy,
)
from .occupancy_evaluation import OccupancyCounts, OccupancyMetrics, evaluate_occupancy
from .occupancy_predictions import read_prediction, write_prediction
from .options import DataOptions
from .ray_iou import RayIou, RayIouCounts, cast_rays, lidar_rays, ray_origins
from .remote import RemoteAccess, RemotePath
from .sampling import ClassBalancedSampler, EpochSampler, class_balanced_indices
from .submission import SubmissionWriter, attribute_names, write_submission
from .taxonomy import ATTRIBUTES, CAMERAS, CLASSES

__all__ = [
    "ATTRIBUTES",
    "CAMERAS",
    "CLASSES",
    "FREE",
    "OCCUPANCY_CELL",
    "OCCUPANCY_CLASSES",
    "OCCUPANCY_LOWER",
    "OCCUPANCY_SHAPE",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "Batch",
    "BevAugmentation",
    "BevTransform",
    "BoxTable",
    "CacheCounts",
    "CameraTable",
    "ClassBalancedSampler",
    "ClassMetrics",
    "DataError",
    "DataOptions",
    "Draw",
    "EpochSampler",
    "Faults",
    "FileCache",
    "FrameTable",
    "ImageAugmentation",
    "ImageTransform",
    "IndexInfo",
    "LidarTable",
    "Metrics",
    "NuscenesDataset",
    "NuscenesIndex",
    "OccupancyCounts",
    "OccupancyMetrics",
    "OccupancyTruth",
    "RayIou",
    "RayIouCounts",
    "RemoteAccess",
    "RemotePath",
    "Sample",
    "SceneTable",
    "SubmissionWriter",
    "TpErrors",
    "UnreadableFileError",
    "attribute_names",
    "boxes_in_range",
    "build_index",
    "cast_rays",
    "class_balanced_indices",
    "collate",
    "default_index_path",
    "evaluate",
    "evaluate_occupancy",
    "lidar_depth_maps",
    "lidar_rays",
    "normalize_image",
    "normalize_images",
    "open_index",
    "ray_origins",
    "read_occupancy",
    "read_prediction",
    "wrap_yaw",
    "write_prediction",
    "write_submission",
]
