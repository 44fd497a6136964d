"""The sections of a report that are about voxels."""

from pathlib import Path

import numpy as np

from bev_nuscenes import FREE, OCCUPANCY_CLASSES, OccupancyCounts, read_prediction
from bev_nuscenes.command_line import progress

from . import charts
from .geometry import Array
from .palette import Palette
from .source import Source
from .web_page import WebPage, number


def add_voxel_sections(page: WebPage, source: Source, folder: Path, colours: Palette) -> Array:
    """IoU per class and confusion over the cells that a camera sees; returns the mean IoU of each frame, 0 to 1.

    Raises ValueError for predictions or ground truth that are missing.
    """
    counts, scores = OccupancyCounts(), np.full(len(source.tokens), np.nan)
    bar = progress(len(source.tokens), "reading voxels")
    for place, token in enumerate(source.tokens):
        truth = source.occupancy(place)
        if truth is None:
            raise ValueError(f"sample {token} has no occupancy ground truth: put the folder gts into the data root")
        alone = OccupancyCounts()
        alone.add(read_prediction(folder, token), truth.semantics, truth.mask_camera)
        counts.matrix += alone.matrix
        iou = alone.iou()[:FREE]
        scores[place] = np.nan if np.isnan(iou).all() else np.nanmean(iou)
        bar.update()
    _add_figures(page, counts, len(source.tokens), colours)
    return scores


def _add_figures(page: WebPage, counts: OccupancyCounts, samples: int, colours: Palette) -> None:
    percent, names = counts.percent(), [name.replace("_", " ") for name in OCCUPANCY_CLASSES]
    page.section("Figures", "IoU in percent over the cells that a camera sees, as the CVPR 2023 challenge has it.")
    page.figures({"mIoU": number(percent.pop("mIoU"), 2), "key frames": str(samples)})
    true, predicted = counts.matrix.sum(axis=1), counts.matrix.sum(axis=0)
    rows = zip(names, percent.values(), true.tolist(), predicted.tolist(), strict=False)
    page.table(
        ("class", "IoU", "true cells", "predicted cells"),
        [(name, number(iou, 2), f"{there:,}", f"{found:,}") for name, iou, there, found in rows],
    )
    page.chart(charts.shares(names[:FREE], np.array(list(percent.values())), colours.voxels))
    page.section("Confusion", "Rows: true class of the cell, columns: predicted class; percent of the row.")
    page.chart(charts.heat_map(counts.matrix, names, names))
