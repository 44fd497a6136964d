"""Which prediction is which object, by the rule of the nuScenes detection benchmark, and what follows from it.

Predictions, best first, take the nearest object of their class in their frame that is still free, if its centre lies
nearer than a threshold in the plane (nuScenes, arXiv:1903.11027, section 3.1). Legend: P predictions, T true objects.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bev_nuscenes import CLASSES

from .geometry import Array
from .objects import Objects

THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
ERROR_THRESHOLD_M = 2.0
"""Errors of true positives are those of matches within this distance."""
_RECALLS = np.linspace(0, 1, 101)
_MIN_RECALL, _MIN_PRECISION = 0.1, 0.1
_NONE = -1


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Predictions of all classes, each with the object it took."""

    predicted: Objects
    true: Objects
    partner: NDArray[np.intp]  # (P,) position in true, -1 without one
    order: NDArray[np.intp]  # (P,) best first

    def pairs(self, label: int | None = None) -> tuple[Objects, Objects]:
        """Predictions with a partner, and their partners; of one class or of all."""
        kept = self.partner >= 0
        if label is not None:
            kept &= self.predicted.label == label
        return self.predicted[kept], self.true[self.partner[kept]]


def match(predicted: Objects, true: Objects, threshold_m: float, *, same_class: bool = True) -> Matches:
    """Match by the distance of centres; without ``same_class`` an object may be taken by a prediction of any class."""
    order = np.lexsort((np.arange(len(predicted)), predicted.score))[::-1]
    groups = _groups(true, same_class)
    taken = np.zeros(len(true), bool)
    partner = np.full(len(predicted), _NONE, np.intp)
    keys = zip(predicted.frame.tolist(), (predicted.label if same_class else 0 * predicted.label).tolist(), strict=True)
    key_of = list(keys)
    for number in order.tolist():
        rows = groups.get(key_of[number])
        if rows is None:
            continue
        distance = np.hypot(*(true.center[rows] - predicted.center[number]).T)
        distance[taken[rows]] = np.inf
        nearest = int(distance.argmin())
        if distance[nearest] < threshold_m:
            partner[number] = rows[nearest]
            taken[rows[nearest]] = True
    return Matches(predicted=predicted, true=true, partner=partner, order=order)


def precision_curve(
    matches: Matches,
    label: int,
    true_in: NDArray[np.bool_] | None = None,  # (T,)
    predicted_in: NDArray[np.bool_] | None = None,  # (P,)
) -> Array:
    """Precision (101,) of a class at the recalls 0, 0.01, …, 1; 0 where it is never reached.

    With ``true_in`` only these objects are wanted, and predictions that took another one do not count; of predictions
    that took none those of ``predicted_in`` count as wrong (by default all).
    """
    true_in = np.ones(len(matches.true), bool) if true_in is None else true_in
    positives = int((true_in & (matches.true.label == label)).sum())
    matched = matches.partner >= 0
    counts = matched.copy()
    counts[matched] = true_in[matches.partner[matched]]
    counts |= ~matched if predicted_in is None else ~matched & predicted_in
    order = matches.order[(counts & (matches.predicted.label == label))[matches.order]]
    hits = np.cumsum(matched[order])
    if positives == 0 or len(hits) == 0 or hits[-1] == 0:
        return np.zeros(len(_RECALLS))
    precision = hits / np.arange(1, len(hits) + 1)
    return np.interp(_RECALLS, hits / positives, precision, right=0)


def average_precision(curve: Array) -> float:
    """The official figure: mean precision above 0.1 at recalls above 0.1, stretched to 0 to 1."""
    kept = curve[round(100 * _MIN_RECALL) + 1 :] - _MIN_PRECISION
    return float(np.clip(kept, 0, None).mean() / (1 - _MIN_PRECISION))


def mean_ap(
    matches: dict[float, Matches],
    true_in: NDArray[np.bool_] | None = None,  # (T,)
    predicted_in: NDArray[np.bool_] | None = None,  # (P,)
) -> float:
    """Mean over thresholds and over the classes that have an object among ``true_in``; NaN if none has."""
    true = next(iter(matches.values())).true
    labels = np.unique(true.label if true_in is None else true.label[true_in])
    return float(
        np.mean(
            [
                average_precision(precision_curve(found, int(label), true_in, predicted_in))
                for found in matches.values()
                for label in labels
            ]
        )
        if len(labels)
        else np.nan
    )


def errors_of_pairs(predicted: Objects, true: Objects) -> dict[str, Array]:
    """The five errors of every pair as the benchmark defines them; NaN where one has nothing to measure against."""
    common = np.minimum(predicted.size, true.size).prod(axis=1)
    union = predicted.size.prod(axis=1) + true.size.prod(axis=1) - common
    period = np.where(true.label == CLASSES.index("barrier"), np.pi, 2 * np.pi)
    turn = (predicted.yaw - true.yaw + period / 2) % period - period / 2
    attribute = np.where(true.attribute < 0, np.nan, (predicted.attribute != true.attribute).astype(np.float64))
    return {
        "translation, m": np.hypot(*(predicted.center - true.center).T),
        "scale, 1 - IoU": 1 - common / union,
        "orientation, rad": np.abs(turn),
        "velocity, m/s": np.hypot(*(predicted.velocity - true.velocity).T),
        "attribute, wrong": attribute,
    }


def confusion(predicted: Objects, true: Objects, threshold_m: float = ERROR_THRESHOLD_M) -> NDArray[np.int64]:
    """Counts (11,11): true class by class of the prediction that took it.

    The last row counts predictions of what is not there, the last column objects that were missed.
    """
    matches = match(predicted, true, threshold_m, same_class=False)
    nothing = len(CLASSES)
    partner_label = np.append(true.label, nothing)[matches.partner]
    table = np.zeros((nothing + 1, nothing + 1), np.int64)
    np.add.at(table, (partner_label, predicted.label), 1)
    missed = np.setdiff1d(np.arange(len(true)), matches.partner)
    np.add.at(table, (true.label[missed], nothing), 1)
    return table


def frame_scores(matches: Matches, frames: int) -> Array:
    """How well each frame is seen (frames,), 0 to 1: the sum of the scores that found something, by what it could be.

    That is the number of true objects and the scores of predictions that found nothing. NaN for a frame with neither.
    """
    found = matches.partner >= 0
    hit, wrong = (
        np.bincount(matches.predicted.frame[which], weights=matches.predicted.score[which], minlength=frames)
        for which in (found, ~found)
    )
    there = np.bincount(matches.true.frame, minlength=frames)
    with np.errstate(invalid="ignore"):
        return hit / (there + wrong)


def _groups(true: Objects, same_class: bool) -> dict[tuple[int, int], NDArray[np.intp]]:
    """Rows of the true objects by frame and, if it matters, class."""
    rows: dict[tuple[int, int], list[int]] = {}
    labels = true.label if same_class else 0 * true.label
    for row, key in enumerate(zip(true.frame.tolist(), labels.tolist(), strict=True)):
        rows.setdefault(key, []).append(row)
    return {key: np.array(found, np.intp) for key, found in rows.items()}
