"""What a run trains and what it trains on."""

from __future__ import annotations

from dataclasses import replace

from bev_nuscenes import ClassBalancedSampler, EpochSampler, ImageAugmentation, NuscenesDataset, open_index
from bev_train.data import TrainingData
from bev_train.options import TrainOptions
from bev_train.resolve import training_split
from bev_zoo import Detector, Recipe, create_model, load_checkpoint

__all__ = ["build_data", "build_model"]


def build_data(options: TrainOptions, recipe: Recipe) -> TrainingData:
    """The training split of the data set, with the recipe's augmentation and sampling."""
    dataset = NuscenesDataset(
        open_index(options.data),
        training_split(options.data),
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation if options.augment else _at_rest(recipe.image_augmentation),
        bev_augmentation=recipe.bev_augmentation if options.augment else None,
        training=True,
        fast_images=options.fast_images,
        with_depth=recipe.view.depth_loss_weight is not None,
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
    )


def build_model(options: TrainOptions, recipe: Recipe) -> Detector:
    """The detector with the weights that training starts from."""
    if options.resume:
        return create_model(recipe)  # the checkpoint of the run holds its weights
    if options.init_from is not None:
        model = create_model(recipe)
        load_checkpoint(model, options.init_from)
        return model
    if options.pretrained and recipe.backbone.pretrained is not None:
        return _create_pretrained(recipe)
    return create_model(recipe)


def _at_rest(augmentation: ImageAugmentation) -> ImageAugmentation:
    """Training images as evaluation sees them."""
    crop = sum(augmentation.crop_h) / 2
    resize = augmentation.resize_test
    return replace(augmentation, resize=(resize, resize), rotate_deg=(0.0, 0.0), flip=False, crop_h=(crop, crop))


_DOWNLOADERS = {"huggingface_hub", "httpx", "requests", "urllib3"}


def _create_pretrained(recipe: Recipe) -> Detector:
    try:
        return create_model(recipe, pretrained_backbone=True)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _DOWNLOADERS:
            raise
        weights = f"{recipe.backbone.name}.{recipe.backbone.pretrained}"
        raise ValueError(
            f"the ImageNet weights {weights} could not be downloaded: connect to huggingface.co, or train from scratch "
            "with --no-pretrained"
        ) from error
