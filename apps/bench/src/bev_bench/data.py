"""``bev-bench data``: how fast samples are read, decoded, augmented and collated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from bev_bench.device import begin
from bev_bench.machine import this_machine
from bev_bench.options import DataBenchOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.stopwatch import Contender, Times, measure
from bev_nuscenes import Batch, DataOptions, NuscenesDataset, NuscenesIndex, Sample, collate, open_index
from bev_zoo import Recipe, get_recipe

__all__ = ["measure_data"]

_NOTES = (
    "a round reads all samples through a DataLoader whose workers stay alive; after the warm-up the files are in the "
    "page cache, so disks are not measured",
    "images: that samples consist of; a frame that stands in for a missing one does not count again",
    "decoded: JPEG files per sample; with a cache, which begins every round empty, workers decode for each other",
    "CPU time: of all threads of the process that reads a sample, without collating and handing over, and for fast "
    "images without normalising, which the device does",
    "ratio, CPU ratio: how many times as fast as the first setting, round by round, and how many times less CPU time, "
    "sample by sample; exact: PIL as published; fast: JPEGs decoded at a reduced scale, one warp",
)


def measure_data(options: DataBenchOptions) -> Report:
    """Measure the data set of a recipe.

    Raises:
        ValueError: a mistake in the options or the data.
    """
    device, repetition = begin(options.run)
    recipe = _checked_recipe(options)
    readers = _readers(options, recipe)
    contenders = [Contender.of(reader.name, reader.read_all) for reader in readers]
    times = measure(contenders, device, repetition, what=recipe.name)
    rows = tuple(
        _row(recipe, reader, time, (readers[0], times[0])) for reader, time in zip(readers, times, strict=True)
    )
    facts = _facts(options, recipe, readers)
    return Report(command="data", facts=facts, rows=rows, notes=_NOTES, machine=this_machine(device))


class _TimedSample(NamedTuple):
    sample: Sample
    cpu_ms: float


class _TimedDataset(Dataset[_TimedSample]):
    """Samples with the processor time that reading them took."""

    def __init__(self, dataset: NuscenesDataset, count: int) -> None:
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> _TimedSample:
        begin = time.process_time()
        sample = self.dataset[i % len(self.dataset)]
        return _TimedSample(sample, (time.process_time() - begin) * 1e3)


class _TimedBatch(NamedTuple):
    batch: Batch
    cpu_ms: list[float]  # per sample


def _collated(rows: Sequence[_TimedSample]) -> _TimedBatch:
    return _TimedBatch(collate([row.sample for row in rows]), [row.cpu_ms for row in rows])


class _Reader:
    """Reads all samples in one way, again and again, and keeps what each cost."""

    def __init__(self, dataset: NuscenesDataset, options: DataBenchOptions, workers: int) -> None:
        self.dataset, self.samples = dataset, options.samples
        self.cached = dataset.image_cache_bytes > 0
        self.name = f"{dataset.images} images{', cached' if self.cached else ''}, {workers} workers"
        frames = [len(np.unique(dataset.history(i % len(dataset)))) for i in range(options.samples)]
        self.images = dataset.index.cameras.files.shape[1] * sum(frames)  # per round
        self.decoded: list[int] = []  # images, per round
        self.cpu_ms: list[float] = []  # per sample
        self.loader = DataLoader(
            _TimedDataset(dataset, options.samples),
            batch_size=options.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collated,
        )

    def read_all(self) -> None:
        self.dataset.forget_images()
        before = self.dataset.image_counts.misses
        for timed in self.loader:
            self.cpu_ms += timed.cpu_ms
        self.decoded.append(self.dataset.image_counts.misses - before if self.cached else self.images)

    def cpu_ms_of_the_last(self, rounds: int) -> list[float]:
        """Per sample, without the warm-up."""
        return self.cpu_ms[-rounds * self.samples :]


def _checked_recipe(options: DataBenchOptions) -> Recipe:
    if options.samples < 1 or options.batch_size < 1 or not options.workers or min(options.workers) < 0:
        raise ValueError(
            "--samples and --batch-size must be at least 1 and --workers not negative, got "
            f"{options.samples}, {options.batch_size} and {' '.join(map(str, options.workers)) or 'none'}"
        )
    recipe = get_recipe(options.recipe)
    return recipe if options.shape is None else replace(recipe, input_size=options.shape)


def _readers(options: DataBenchOptions, recipe: Recipe) -> list[_Reader]:
    index = open_index(options.data)
    plain, cached = (
        [_dataset(index, options, recipe, images=images, image_cache_bytes=size) for images in ("exact", "fast")]
        for size in (0, options.data.image_cache_bytes)
    )
    # A cache is measured, too: where there is one by default, or one was asked for.
    datasets = plain + [dataset for dataset in cached if dataset.image_cache_bytes]
    return [_Reader(dataset, options, workers) for workers in options.workers for dataset in datasets]


def _dataset(index: NuscenesIndex, options: DataBenchOptions, recipe: Recipe, **reading: Any) -> NuscenesDataset:
    training = options.training
    return NuscenesDataset(
        index,
        _split(options.data),
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation,
        bev_augmentation=recipe.bev_augmentation,
        training=training,
        with_depth=training and recipe.view.depth_loss_weight is not None,
        with_occupancy=training and recipe.task == "occupancy",
        box_range=recipe.view.grid.bev_bounds,
        depth_range=(recipe.view.depth.lower, recipe.view.depth.upper),
        seed=options.run.seed,
        **reading,
    )


def _split(data: DataOptions) -> str:
    """What most images are in."""
    return data.evaluation_split if data.version == "v1.0-test" else data.training_split


def _row(recipe: Recipe, reader: _Reader, time: Times, first: tuple[_Reader, Times]) -> Row:
    rounds = len(time.total)
    cpu_ms, first_ms = (r.cpu_ms_of_the_last(rounds) for r in (reader, first[0]))
    figures = (
        Figure.of("samples", "1/s", [1e3 * reader.samples / ms for ms in time.total]),
        Figure.of("images", "1/s", [1e3 * reader.images / ms for ms in time.total]),
        Figure.of("decoded", "per sample", [images / reader.samples for images in reader.decoded[-rounds:]]),
        Figure.of("CPU time per sample", "ms", cpu_ms),
    )
    if time is not first[1]:
        ratios = [theirs / ours for theirs, ours in zip(first_ms, cpu_ms, strict=True)]
        figures += (Figure.of("ratio", "", time.ratios(first[1])), Figure.of("CPU ratio", "", ratios))
    return Row(case=recipe.name, setting=reader.name, figures=figures)


def _facts(options: DataBenchOptions, recipe: Recipe, readers: Sequence[_Reader]) -> tuple[Fact, ...]:
    height, width = recipe.input_size
    dataset = readers[0].dataset
    purpose = "training (augmented)" if options.training else "evaluation"
    return (
        Fact(name="recipe", value=recipe.name),
        Fact(name="data", value=f"{options.data.version} {dataset.split}, {len(dataset)} samples, read for {purpose}"),
        Fact(
            name="sample",
            value=f"{recipe.frames} frames x {dataset.index.cameras.files.shape[1]} cameras x {height}x{width}",
        ),
        Fact(name="round", value=f"{options.samples} samples in batches of {options.batch_size}"),
    )
