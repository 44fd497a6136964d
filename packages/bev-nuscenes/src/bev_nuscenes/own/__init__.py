"""Data without nuScenes: images, one file for calibration and poses, optional boxes and LiDAR."""

from .check import check_data, check_description, check_files
from .description import OwnBox, OwnCamera, OwnData, OwnFrame, OwnLidar, OwnReading, OwnScene
from .index import OWN, build_own_index, index_of, own_fingerprint
from .problems import Problem, raise_errors
from .read import description_file, read_description
from .summary import field_of_view, summary
from .write import write_description

__all__ = [
    "OWN",
    "OwnBox",
    "OwnCamera",
    "OwnData",
    "OwnFrame",
    "OwnLidar",
    "OwnReading",
    "OwnScene",
    "Problem",
    "build_own_index",
    "check_data",
    "check_description",
    "check_files",
    "description_file",
    "field_of_view",
    "index_of",
    "own_fingerprint",
    "raise_errors",
    "read_description",
    "summary",
    "write_description",
]
