"""Evaluation by the official devkit, and its figures as a dataclass, JSON and a table."""

from __future__ import annotations

import io
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .devkit import import_devkit, open_tables, version_splits
from .errors import DataError
from .files import atomic_write
from .own import OWN
from .taxonomy import CLASSES

if TYPE_CHECKING:
    from nuscenes import NuScenes
    from nuscenes.eval.detection.data_classes import DetectionMetrics
    from nuscenes.eval.detection.evaluate import DetectionEval

__all__ = ["ClassMetrics", "Metrics", "TpErrors", "evaluate", "metrics_of", "quiet", "read_submission"]


class TpErrors(NamedTuple):
    """Mean errors of true positives (matched within 2 m); nan where the class has no such error."""

    translation: float  # metres in the plane
    scale: float  # 1 - IoU of the sizes
    orientation: float  # radians
    velocity: float  # metres per second
    attribute: float  # 1 - accuracy


class ClassMetrics(NamedTuple):
    name: str
    ap: float  # mean over the matching distances
    ap_by_distance: dict[float, float]  # matching distance in metres -> AP
    errors: TpErrors
    ground_truth: int  # boxes that count: in range and with points
    detections: int  # boxes that count: in range


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures of one evaluation under the configuration ``detection_cvpr_2019``.

    Attributes:
        version, split: what was evaluated.
        samples: number of key frames.
        mean_ap: mAP over all ten classes, 0 for a class without ground truth: the official figure.
        nds: nuScenes detection score.
        mean_ap_present: mean AP over the classes that have ground truth in the split; nan if none has.
        errors: mean over classes of the five true-positive errors (mATE, mASE, mAOE, mAVE, mAAE).
        classes: figures per class, in the order of CLASSES.
    """

    version: str
    split: str
    samples: int
    mean_ap: float
    nds: float
    mean_ap_present: float
    errors: TpErrors
    classes: tuple[ClassMetrics, ...]

    def to_json(self, path: str | Path | None = None) -> str:
        """The figures as JSON, nan as null; also written to ``path`` if given."""
        content = {
            "version": self.version,
            "split": self.split,
            "samples": self.samples,
            "mAP": self.mean_ap,
            "NDS": self.nds,
            "mAP_present": self.mean_ap_present,
            **{f"m{short}": error for short, error in zip(_SHORT, self.errors, strict=True)},
            "classes": {entry.name: _class_content(entry) for entry in self.classes},
        }
        text = json.dumps(_without_nan(content), indent=2) + "\n"
        if path is not None:
            with atomic_write(Path(path)) as file:
                file.write(text)
        return text

    def table(self) -> str:
        """The figures as a table for a terminal; ``-`` stands where there is nothing to measure."""
        lines = [f"{'class':<22}{'AP':>7}" + "".join(f"{short:>7}" for short in _SHORT) + f"{'boxes':>8}"]
        for entry in self.classes:
            ap = entry.ap if entry.ground_truth else math.nan
            figures = "".join(f"{_figure(value):>7}" for value in (ap, *entry.errors))
            lines.append(f"{entry.name:<22}{figures}{entry.ground_truth:>8}")
        means = "".join(f"{_figure(value):>7}" for value in (self.mean_ap, *self.errors))
        lines.append(f"{'mean of ten classes':<22}{means}{sum(entry.ground_truth for entry in self.classes):>8}")
        lines.append(
            f"{self.version} {self.split}, {self.samples} key frames: mAP {_figure(self.mean_ap)}, "
            f"NDS {_figure(self.nds)}, mAP over classes present {_figure(self.mean_ap_present)}"
        )
        return "\n".join(lines)


def evaluate(
    submission_path: str | Path, *, root: str | Path, version: str, split: str, out_dir: str | Path | None = None
) -> Metrics:
    """Evaluate a submission with the official devkit, quietly.

    Ground-truth velocities are the devkit's alone (``velocities.json`` plays no part); boxes whose velocity it cannot
    derive do not count towards the velocity error.

    Args:
        submission_path: JSON file in the official format.
        root: folder of the data set.
        version: v1.0-mini, v1.0-trainval or v1.0-test; own for data of your own.
        split: split whose samples the submission holds, all of them and no others.
        out_dir: folder for ``metrics_summary.json`` as the devkit writes it; None writes nothing.

    Raises:
        DataError: wrong root, version or split; submission missing, not JSON, or not of this split's samples.
        ImportError: the devkit is not installed.
    """
    if version == OWN:
        from .own.evaluation import evaluate_own  # here: it builds on this module

        metrics = evaluate_own(submission_path, root=root, split=split)
        if out_dir is not None:
            metrics.to_json(Path(out_dir) / "metrics_summary.json")
        return metrics
    path = Path(submission_path)
    if not path.is_file():
        raise DataError(f"submission {path} is missing; predict the split first")
    nusc = open_tables(root, version)
    splits = version_splits(version)
    if split not in splits:
        raise DataError(f"{version} has no split {split!r}; it has {', '.join(splits)}")
    if not nusc.sample_annotation:
        raise DataError(f"{version} under {root} has no annotations; evaluate on the server instead")
    evaluation, figures = _run_devkit(nusc, path, split, splits[split])
    if out_dir is not None:
        with atomic_write(Path(out_dir) / "metrics_summary.json") as file:
            json.dump({**figures.serialize(), "meta": evaluation.meta}, file, indent=2)
    return metrics_of(evaluation, figures, version, split)


_TP_METRICS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
_SHORT = ("ATE", "ASE", "AOE", "AVE", "AAE")


def _run_devkit(nusc: NuScenes, path: Path, split: str, scenes: list[str]) -> tuple[DetectionEval, DetectionMetrics]:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            evaluation = _load_submission(nusc, path, split, scratch)
        except json.JSONDecodeError:
            raise DataError(f"submission {path} is not valid JSON; was writing it cut short? predict again") from None
        except (AssertionError, AttributeError, KeyError, TypeError) as error:
            raise DataError(_diagnosis(nusc, path, split, scenes, error)) from None
        with quiet():
            return evaluation, evaluation.evaluate()[0]


def _load_submission(nusc: NuScenes, path: Path, split: str, scratch: str) -> DetectionEval:
    """The devkit's evaluation with submission and ground truth loaded and filtered."""
    module = import_devkit("nuscenes.eval.detection.evaluate")
    config = import_devkit("nuscenes.eval.common.config").config_factory("detection_cvpr_2019")
    with quiet():
        try:
            return module.DetectionEval(nusc, config, str(path), split, scratch, verbose=False)
        except Exception as error:
            if "Invalid box type: None" not in str(error):
                raise
    # The devkit stumbles where there is not a single box, predicted or annotated.
    content = json.loads(path.read_bytes())
    if any(content["results"].values()):
        raise DataError(f"split {split} has no annotated boxes to evaluate against; choose another split")
    substitute = Path(scratch) / "results.json"
    token = min(content["results"])
    content["results"][token] = [_out_of_range_box(token)]
    substitute.write_text(json.dumps(content))
    return _load_submission(nusc, substitute, split, scratch)


def _out_of_range_box(token: str) -> dict[str, Any]:
    """A detection so far away that the devkit drops it: with it, a submission without boxes can be evaluated."""
    return {
        "sample_token": token,
        "translation": [1e7, 1e7, 0.0],
        "size": [1.0, 1.0, 1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "detection_name": CLASSES[0],
        "detection_score": 0.0,
        "attribute_name": "vehicle.parked",
    }


def _diagnosis(nusc: NuScenes, path: Path, split: str, scenes: list[str], error: Exception) -> str:
    """One line on why the devkit refused a submission."""
    results = read_submission(path)
    names = set(scenes)
    wanted = {sample["token"] for sample in nusc.sample if nusc.get("scene", sample["scene_token"])["name"] in names}
    lacking, foreign = wanted - set(results), set(results) - wanted
    if lacking:
        return (
            f"submission {path} lacks {len(lacking)} of {len(wanted)} samples of {split}, for instance "
            f"{min(lacking)}; predict every sample, an empty list stands for no boxes"
        )
    if foreign:
        return f"submission {path} has {len(foreign)} samples that are not in {split}; was it made for another split?"
    return f"submission {path} was refused by nuscenes-devkit: {type(error).__name__} {error}"


def read_submission(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Boxes per sample token of a submission.

    Raises:
        DataError: the file is missing, not JSON, or no submission.
    """
    if not path.is_file():
        raise DataError(f"submission {path} is missing; predict the split first")
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise DataError(f"submission {path} is not valid JSON; was writing it cut short? predict again") from None
    if not isinstance(content, dict) or not {"meta", "results"} <= content.keys():
        raise DataError(f"submission {path} needs the fields meta and results; write it with SubmissionWriter")
    results = content["results"]
    if not isinstance(results, dict) or not all(isinstance(boxes, list) for boxes in results.values()):
        raise DataError(
            f"the results of submission {path} are no lists of boxes by sample; write it with SubmissionWriter"
        )
    return results


def metrics_of(evaluation: DetectionEval, figures: DetectionMetrics, version: str, split: str) -> Metrics:
    """The devkit's figures as ours."""
    truth = [box.detection_name for box in evaluation.gt_boxes.all]
    detected = [box.detection_name for box in evaluation.pred_boxes.all]
    classes = tuple(
        ClassMetrics(
            name,
            float(figures.mean_dist_aps[name]),
            {distance: float(figures.get_label_ap(name, distance)) for distance in evaluation.cfg.dist_ths},
            TpErrors(*(float(figures.get_label_tp(name, metric)) for metric in _TP_METRICS)),
            truth.count(name),
            detected.count(name),
        )
        for name in CLASSES
    )
    present = [entry.ap for entry in classes if entry.ground_truth]
    return Metrics(
        version=version,
        split=split,
        samples=len(evaluation.sample_tokens),
        mean_ap=float(figures.mean_ap),
        nds=float(figures.nd_score),
        mean_ap_present=sum(present) / len(present) if present else math.nan,
        errors=TpErrors(*(float(figures.tp_errors[metric]) for metric in _TP_METRICS)),
        classes=classes,
    )


def _class_content(entry: ClassMetrics) -> dict[str, Any]:
    return {
        "AP": entry.ap,
        **{f"AP_{distance}m": ap for distance, ap in entry.ap_by_distance.items()},
        **dict(zip(_SHORT, entry.errors, strict=True)),
        "ground_truth": entry.ground_truth,
        "detections": entry.detections,
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the devkit's progress bars and numpy's warnings about classes without matches."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
