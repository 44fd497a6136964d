"""The data set: from an index to samples.

Legend: T frames (newest first), N cameras, H and W the network-input size, M boxes.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .batch import Sample
from .bev_augmentation import BevAugmentation, BevTransform, boxes_in_range, wrap_yaw
from .faults import Faults, OnError
from .files import read_lidar
from .image_augmentation import ImageAugmentation, ImageTransform
from .image_cache import CacheCounts
from .image_reader import ImageMode, ImageReader
from .index import NuscenesIndex
from .lidar_depth import lidar_depth_maps
from .occupancy import read_occupancy
from .randomness import Purpose, generator

__all__ = ["Draw", "NuscenesDataset"]


class Draw(NamedTuple):
    """What a sampler may hand to the data set instead of a plain index.

    ``repeat`` counts how often the index was drawn before. The augmentation is a function of the seed and of this
    triple: an index drawn twice in an epoch differs, and no worker needs to be told the epoch.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    epoch: int
    repeat: int = 0


class NuscenesDataset(Dataset[Sample]):
    """Key frames of one split in order of time.

    Frame 0 is the key frame, frame t the key frame t places before it. A frame that lies in another scene is replaced
    by the key frame itself; before the very first key frame of the split stands that first one again. Both rules are
    the published ones.

    Random numbers come from a generator seeded with (seed, epoch, index, repeat): the samples do not depend on the
    number of workers or processes, nor on the order of reading.
    """

    def __init__(
        self,
        index: NuscenesIndex,
        split: str,
        *,
        input_size: tuple[int, int],
        frames: int = 1,
        image_augmentation: ImageAugmentation | None = None,
        bev_augmentation: BevAugmentation | None = None,
        training: bool = False,
        with_depth: bool = False,
        with_occupancy: bool = False,
        images: ImageMode = "exact",
        image_cache_bytes: int | None = None,
        on_error: OnError = "raise",
        box_range: tuple[float, float, float, float] | None = None,
        depth_range: tuple[float, float] = (1.0, 60.0),
        seed: int = 0,
    ) -> None:
        """Open a split.

        Args:
            index: index of the data.
            split: such as ``train``, ``val``, ``mini_train``.
            input_size: (height, width) of the network input.
            frames: number of frames T of a sample, at least 1.
            image_augmentation: ranges for training; evaluation uses ``resize_test`` and the mean of ``crop_h`` of it.
                None: fit the width, keep the bottom.
            bev_augmentation: ranges for training; evaluation ignores it.
            training: draw augmentations; if False the samples are always the same.
            with_depth: read the LiDAR file of the key frame and make depth maps.
            with_occupancy: read the occupancy ground truth of the key frame (Occ3D-nuScenes, ``gts`` in the data root).
                It is mirrored together with everything else; in training, ``bev_augmentation`` may then do nothing but
                mirror, as in the published occupancy systems.
            images: "exact": as the published systems make them, with PIL. "fast": JPEGs decoded at a reduced scale, one
                warp, bytes until ``Batch.to``; about a fifth of the time, pixels differ a little. "raw": camera images
                as they are, for models that prepare them in the graph; evaluation only.
            image_cache_bytes: memory for images that are needed again, shared by the workers of a loader: decoded ones
                in training, transformed ones in evaluation. None: what a sequence needs that is evaluated in order,
                and nothing in training.
            on_error: what an unreadable file of a sample does: "raise" stops, "skip" (training only) puts the next
                readable sample of the split in its place; see ``faults``.
            box_range: (x_min, y_min, x_max, y_max) metres; in training, boxes whose centre is outside after BEV
                augmentation are dropped. None keeps all. Evaluation keeps all.
            depth_range: (lower, upper) metres of the depth maps.
            seed: seed of all draws.

        Raises:
            DataError: the index has no such split.
            ValueError: an input size or a number of frames that makes no sense, a BEV augmentation that occupancy
                cannot follow, raw images in training, or skipping in evaluation.
        """
        _check(input_size, frames, training, images, on_error, bev_augmentation if with_occupancy else None)
        self.index = index
        self.split = split
        self.positions = index.split_positions(split)
        self.input_size = input_size
        self.frames = frames
        self.image_augmentation = image_augmentation or ImageAugmentation()
        self.bev_augmentation = bev_augmentation or BevAugmentation()
        self.training = training
        self.with_depth = with_depth
        self.with_occupancy = with_occupancy
        self.images = images
        self.on_error = on_error
        self.faults = Faults(index)
        self.box_range = box_range
        self.depth_range = depth_range
        self.seed = seed
        self._reader = ImageReader(
            index, images, input_size, frames=frames, fixed=not training, cache_bytes=image_cache_bytes
        )
        # In shared memory, so that workers that live longer than an epoch see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, draw: int | Draw) -> Sample:
        """Read a sample; ``draw`` is its index in the split, or a Draw that also says the epoch and the repetition."""
        if not isinstance(draw, Draw):
            draw = Draw(int(draw), int(self._epoch))
        if not 0 <= draw.index < len(self):
            raise IndexError(f"split {self.split} has {len(self)} samples, there is none at {draw.index}")
        if self.on_error == "raise":
            return self._read(draw)
        return self.faults.skipping(self._read, draw, len(self))

    @property
    def image_cache_bytes(self) -> int:
        """Memory that images may take which are needed again."""
        cache = self._reader.cache
        return 0 if cache is None else cache.budget

    @property
    def image_counts(self) -> CacheCounts:
        """Images that the cache had, and images that were made, in all workers together; 0 without a cache."""
        cache = self._reader.cache
        return CacheCounts(0, 0) if cache is None else cache.counts

    def forget_images(self) -> None:
        """Empty the cache of images, for measurements that begin anew."""
        if self._reader.cache is not None:
            self._reader.cache.clear()

    def _read(self, draw: Draw) -> Sample:
        rng = generator(Purpose.AUGMENT, self.seed, draw.epoch, draw.index, draw.repeat)
        history = self.history(draw.index)
        image_transforms = self._image_transforms(history[0], rng)
        bev_transform = self.bev_augmentation.sample(rng) if self.training else BevTransform()
        image_aug = np.stack([transform.homography() for transform in image_transforms])
        boxes, labels = self._boxes(history[0], bev_transform)
        semantics, mask_camera = self._occupancy(history[0], bev_transform) if self.with_occupancy else (None, None)
        return Sample(
            token=self.index.token(history[0]),
            images=self._reader.read(history, image_transforms),
            cameras=self._cameras(history, image_aug, bev_transform),
            boxes=boxes,
            labels=labels,
            box_to_global=torch.from_numpy(self.index.box_to_global(history[0])),
            depth=self._depth(history[0], image_aug) if self.with_depth else None,
            semantics=semantics,
            mask_camera=mask_camera,
            timestamp=self.index.seconds(history[0]),
            scene=self.index.scene_name(history[0]),
            raw=self.images == "raw",
        )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that augmentation draws of plain indices refer to; running workers see it too."""
        self._epoch.fill_(epoch)

    def history(self, index: int) -> np.ndarray:
        """Positions (T,) in the nuScenes index of a sample's frames, newest first."""
        earlier = self.positions[np.maximum(index - np.arange(self.frames), 0)]
        scenes = self.index.frames.scenes[earlier]
        return np.where(scenes == scenes[0], earlier, earlier[0])

    def _image_transforms(self, position: int, rng: np.random.Generator) -> list[ImageTransform]:
        sizes = [(int(width), int(height)) for width, height in self.index.cameras.sizes[position]]
        if not self.training:
            return [self.image_augmentation.fixed(size, self.input_size) for size in sizes]
        return [self.image_augmentation.sample(size, self.input_size, rng) for size in sizes]

    def _cameras(self, history: np.ndarray, image_aug: np.ndarray, bev_transform: BevTransform) -> dict[str, Tensor]:
        table = self.index.cameras
        arrays = {
            "intrinsics": table.intrinsics[history],
            "cam_to_ego": table.cam_to_ego[history],
            "ego_to_global": table.ego_to_global[history],
            "image_aug": np.broadcast_to(image_aug, (len(history), *image_aug.shape)),
            "bev_aug": bev_transform.matrix(),
        }
        return {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in arrays.items()}

    def _boxes(self, position: int, bev_transform: BevTransform) -> tuple[Tensor, Tensor]:
        rows = self.index.box_rows(position)
        boxes = torch.from_numpy(np.array(self.index.boxes.boxes[rows]))
        labels = torch.from_numpy(self.index.boxes.labels[rows].astype(np.int64))
        if not self.training:
            return boxes, labels
        boxes = bev_transform.apply(boxes)
        if self.box_range is not None:
            inside = boxes_in_range(boxes, self.box_range)
            boxes, labels = wrap_yaw(boxes[inside]), labels[inside]
        return boxes, labels

    def _depth(self, position: int, image_aug: np.ndarray) -> Tensor:
        cameras, lidar = self.index.cameras, self.index.lidar
        return lidar_depth_maps(
            read_lidar(self.index.lidar_path(position)),
            lidar.ego_to_global[position] @ lidar.lidar_to_ego[position],
            cameras.ego_to_global[position] @ cameras.cam_to_ego[position],
            np.asarray(cameras.intrinsics[position]),
            image_aug,
            self.input_size,
            self.depth_range,
        )

    def _occupancy(self, position: int, bev_transform: BevTransform) -> tuple[Tensor, Tensor]:
        """Labels and camera mask in the augmented frame; flipping about the ego maps cell i to cell 199 - i."""
        truth = read_occupancy(self.index.occupancy_path(position)).flip(bev_transform.flip_x, bev_transform.flip_y)
        return torch.from_numpy(truth.semantics), torch.from_numpy(truth.mask_camera)


def _check(
    input_size: tuple[int, int],
    frames: int,
    training: bool,
    images: ImageMode,
    on_error: OnError,
    occupancy_follows: BevAugmentation | None,
) -> None:
    if frames < 1 or len(input_size) != 2 or min(input_size) < 1:
        raise ValueError(f"frames >= 1 and input_size (height, width) are needed, got {frames} and {input_size}")
    if images not in get_args(ImageMode) or on_error not in get_args(OnError):
        raise ValueError(
            f"images is one of {', '.join(get_args(ImageMode))} and on_error one of {', '.join(get_args(OnError))}, "
            f"got {images!r} and {on_error!r}"
        )
    if training and occupancy_follows is not None and not occupancy_follows.flips_only:
        raise ValueError(
            f"occupancy can be mirrored only, got rotate_deg {occupancy_follows.rotate_deg} and scale "
            f"{occupancy_follows.scale}; use BevAugmentation(flip_x=..., flip_y=...) with occupancy"
        )
    if images == "raw" and training:
        raise ValueError('raw images are not augmented: train with images="exact" or "fast"')
    if on_error == "skip" and not training:
        raise ValueError(
            "evaluation needs every sample, or its submission is incomplete: fetch unreadable files again, and leave "
            'on_error at "raise"'
        )
