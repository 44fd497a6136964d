"""The data that a run trains on."""

from __future__ import annotations

from dataclasses import replace

from bev_nuscenes import ClassBalancedSampler, EpochSampler, ImageAugmentation, NuscenesDataset, open_index
from bev_train.data import TrainingData
from bev_train.options import TrainOptions
from bev_zoo import Recipe

__all__ = ["build_data"]

_PATIENCE_S = 1800.0  # the slowest first batch of a remote data set takes minutes


def build_data(options: TrainOptions, recipe: Recipe) -> TrainingData:
    """The training split with the recipe's augmentation and sampling, and the validation split if the run validates."""
    dataset = NuscenesDataset(
        open_index(options.data),
        options.data.training_split,
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation if options.augment else _at_rest(recipe.image_augmentation),
        bev_augmentation=recipe.bev_augmentation if options.augment else None,
        training=True,
        images="fast" if options.fast_images else "exact",
        image_cache_bytes=options.data.image_cache_bytes,
        on_error=options.data.on_error,
        with_depth=recipe.view.depth_loss_weight is not None,
        with_occupancy=recipe.task == "occupancy",
        depth_range=(recipe.view.depth.lower, recipe.view.depth.upper),
        box_range=recipe.view.grid.bev_bounds,
        seed=options.seed,
    )
    sampling = ClassBalancedSampler if recipe.training.class_balanced else EpochSampler
    return TrainingData(
        dataset,
        sampling(dataset, seed=options.seed, num_replicas=1, rank=0),
        batch_size=recipe.training.batch_size,
        accumulate=options.accumulate,
        workers=options.workers,
        worker_timeout=options.worker_timeout or _PATIENCE_S,
        validation=_validation(options, recipe),
    )


def _validation(options: TrainOptions, recipe: Recipe) -> NuscenesDataset | None:
    """The validation split as evaluation sees it, with its occupancy; None if the run does not validate."""
    if options.validate_every_epochs is None:
        return None
    return NuscenesDataset(
        open_index(options.data),
        replace(options.data, split=None).evaluation_split,
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation,
        images="fast" if options.fast_images else "exact",
        with_occupancy=True,
    )


def _at_rest(augmentation: ImageAugmentation) -> ImageAugmentation:
    """Training images as evaluation sees them."""
    crop = sum(augmentation.crop_h) / 2
    resize = augmentation.resize_test
    return replace(augmentation, resize=(resize, resize), rotate_deg=(0.0, 0.0), flip=False, crop_h=(crop, crop))
