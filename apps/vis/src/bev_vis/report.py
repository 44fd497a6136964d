"""`bev-vis report`: an evaluation as one HTML page."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bev_nuscenes import CLASSES, evaluate
from bev_nuscenes.command_line import progress

from . import charts
from .geometry import Array
from .matching import (
    ERROR_THRESHOLD_M,
    THRESHOLDS_M,
    Matches,
    confusion,
    errors_of_pairs,
    frame_scores,
    match,
    mean_ap,
    precision_curve,
)
from .objects import Objects, read_objects
from .options import RenderOptions, ReportOptions
from .palette import palette_named
from .paths import check_writable
from .predictions import Predictions, find_results, predicted_boxes, predicted_voxels
from .render import draw_frame
from .report_voxels import add_voxel_sections
from .source import Source, open_source
from .submission import Records, read_submission
from .web_page import WebPage, number

_DISTANCES_M = (0, 10, 20, 30, 40, 50)
_LENGTHS_M = (0.0, 1.5, 4.0, 6.0, 10.0, np.inf)
_VISIBILITIES = {1: "0-40 %", 2: "40-60 %", 3: "60-80 %", 4: "80-100 %"}


def report(options: ReportOptions) -> list[Path]:
    """Write the page and return its path. Raises ValueError for what the user can put right."""
    _check(options)
    results = find_results(options.results)
    known = _known_metrics(results)
    source = open_source(replace(options.data, split=options.data.split or known.get("split")))
    out = options.out or (results.parent / "report.html")
    check_writable(out.parent)
    metrics = known if known.get("split") == source.split else {}
    name = metrics.get("recipe") or results.resolve().parent.name
    page = WebPage(f"{name}: {source.index.info.version} {source.split}")
    if results.is_dir():
        scores = add_voxel_sections(page, source, results, palette_named(options.palette))
        predictions = predicted_voxels(results, source)
    else:
        records = read_submission(results)
        scores = _add_box_sections(page, options, source, results, records, metrics)
        predictions = predicted_boxes(records, source)
    _add_frames(page, options, source, results, predictions, scores)
    out.write_text(page.text())
    return [out]


def _check(options: ReportOptions) -> None:
    if not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold must lie from 0 to 1, it is {options.score_threshold:g}")
    if not 0 <= options.pictures <= 20:
        raise ValueError(f"--pictures must lie from 0 to 20, it is {options.pictures}")


def _known_metrics(results: Path) -> dict[str, Any]:
    """What bev-eval wrote beside the results, if it did."""
    path = results.parent / "metrics.json"
    try:
        known = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        raise ValueError(f"{path} is not JSON: remove it, or run bev-eval again") from None
    if not isinstance(known, dict):
        raise ValueError(f"{path} is not what bev-eval writes: remove it, or run bev-eval again")
    return known


def _add_box_sections(
    page: WebPage,
    options: ReportOptions,
    source: Source,
    results: Path,
    records: dict[str, Records],
    metrics: dict[str, Any],
) -> Array:
    """All sections about boxes; returns how well each frame is seen."""
    predicted, true = read_objects(source, records)
    if not len(true):
        raise ValueError(f"{source.split} has no annotated boxes to report against: choose another --data.split")
    if "classes" not in metrics:
        data = options.data
        metrics = json.loads(evaluate(results, root=data.root, version=data.version, split=source.split).to_json())
    matches = {distance: match(predicted, true, distance) for distance in THRESHOLDS_M}
    _add_tables(page, metrics)
    _add_curves(page, matches)
    _add_errors(page, matches[ERROR_THRESHOLD_M])
    _add_groups(page, matches)
    confident = predicted[predicted.score >= options.score_threshold]
    page.section(
        "Confusion",
        f"Rows: true class, columns: class of the prediction that took the object, whatever its class, within "
        f"{ERROR_THRESHOLD_M:g} m; percent of the row. Predictions that score {options.score_threshold:g} or more.",
    )
    names = [name.replace("_", " ") for name in CLASSES]
    page.chart(charts.heat_map(confusion(confident, true), [*names, "nothing there"], [*names, "missed"]))
    return frame_scores(match(confident, true, ERROR_THRESHOLD_M), len(source.tokens))


def _add_tables(page: WebPage, metrics: dict[str, Any]) -> None:
    page.section("Figures", "By the official devkit, detection_cvpr_2019. Errors: metres, 1 - IoU, radians, m/s.")
    errors = ("ATE", "ASE", "AOE", "AVE", "AAE")
    shown = ("mAP", "NDS", *(f"m{error}" for error in errors))
    page.figures({name: number(metrics[name]) for name in shown})
    distances = [f"AP_{distance}m" for distance in THRESHOLDS_M]
    head = ("class", "AP", *(f"AP at {distance:g} m" for distance in THRESHOLDS_M), *errors, "true", "predicted")
    page.table(
        head,
        [
            (
                name.replace("_", " "),
                *(number(entry[figure]) for figure in ("AP", *distances, *errors)),
                str(entry["ground_truth"]),
                str(entry["detections"]),
            )
            for name, entry in metrics["classes"].items()
        ],
    )


def _add_curves(page: WebPage, matches: dict[float, Matches]) -> None:
    page.section("Precision and recall", "One line per matching distance of the centres.")
    page.chart(
        charts.curves(
            {
                name.replace("_", " "): {
                    f"{distance:g} m": precision_curve(found, label) for distance, found in matches.items()
                }
                for label, name in enumerate(CLASSES)
            }
        )
    )


def _add_errors(page: WebPage, found: Matches) -> None:
    page.section(
        "Errors of true positives",
        f"All matches within {ERROR_THRESHOLD_M:g} m, at every score, classes together (the figures above average over "
        "recall and classes). Barriers are turned by up to half a circle; cones have no direction and are left out.",
    )
    predicted, true = found.pairs()
    errors = errors_of_pairs(predicted, true)
    errors["orientation, rad"] = errors["orientation, rad"][true.label != CLASSES.index("traffic_cone")]
    page.chart(charts.histograms(errors))


def _add_groups(page: WebPage, matches: dict[float, Matches]) -> None:
    page.section(
        "Where it sees",
        "mAP over the classes that a group holds (objects in brackets). Predictions that took an object of another "
        "group do not count. One that took none counts in the group of its own distance or length; visibility is known "
        "of true objects only, so there it counts in every group, and the figures are lower.",
    )
    first = next(iter(matches.values()))
    predicted, true = first.predicted, first.true
    page.chart(
        charts.bars(
            {
                "mAP by distance from the vehicle, m": _groups(
                    matches, lambda objects: objects.distance, _DISTANCES_M, predicted, true
                ),
                "mAP by length of the longer side, m": _groups(
                    matches, lambda objects: objects.size[:, :2].max(axis=1), _LENGTHS_M, predicted, true
                ),
                "mAP by visibility in the cameras": {
                    name: (mean_ap(matches, true.visibility == level), int((true.visibility == level).sum()))
                    for level, name in _VISIBILITIES.items()
                },
            }
        )
    )


def _groups(
    matches: dict[float, Matches],
    measure: Callable[[Objects], Array],
    borders: tuple[float, ...],
    predicted: Objects,
    true: Objects,
) -> dict[str, tuple[float, int]]:
    groups = {}
    for lower, upper in pairwise(borders):
        there, seen = ((measure(objects) >= lower) & (measure(objects) < upper) for objects in (true, predicted))
        name = f"{lower:g}-{upper:g}" if np.isfinite(upper) else f"{lower:g} and more"
        groups[name] = mean_ap(matches, there, seen), int(there.sum())
    return groups


def _add_frames(
    page: WebPage, options: ReportOptions, source: Source, results: Path, predictions: Predictions, scores: Array
) -> None:
    """Pictures of the frames that are seen best and worst."""
    ranked = [int(place) for place in np.argsort(-scores, kind="stable") if not np.isnan(scores[place])]
    count = min(options.pictures, len(ranked) // 2 or len(ranked))
    if not count:
        return
    drawing = RenderOptions(
        data=options.data,
        results=results,
        score_threshold=options.score_threshold,
        palette=options.palette,
        lidar=options.lidar,
    )
    bar = progress(2 * count, "pictures")
    unit = (
        "mean IoU of the classes"
        if results.is_dir()
        else (
            "sum of the scores that found something, divided by the number of objects and the scores that found nothing"
        )
    )
    for title, places in (("Best frames", ranked[:count]), ("Worst frames", ranked[::-1][:count])):
        page.section(title, f"By the {unit}.")
        for place in places:
            caption = f"{source.scenes[place]}, sample {place} ({source.tokens[place]}): {scores[place]:.3f}"
            page.picture(draw_frame(drawing, source, predictions, place), caption)
            bar.update()
