"""int8 exports and data sets: what is calibrated on, and what both models are evaluated on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bev_deploy import QuantizeOptions, calibration_inputs, compare_accuracy, load, quantize_model
from bev_deploy.commands import convert
from bev_deploy.commands.options import QuantizeArguments
from bev_nuscenes import DataOptions, NuscenesDataset, open_index
from bev_nuscenes.synthetic import make_world

Exports = Callable[..., Any]  # the fixture of conftest.py

SMALL = (64, 192)
FEWEST = 8  # samples to calibrate on
FAST = QuantizeOptions(calibration="percentile", max_error=None, search_samples=1, threads=1)
MOSTLY_KEPT = dataclasses.replace(FAST, keep=("backbone", "neck", "view_transform", "bev_encoder", "bev_neck"))


@pytest.fixture(scope="module")
def tiny(exported: Exports) -> Any:
    return exported("bevdet-tiny", SMALL, raw=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> DataOptions:
    pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
    root = tmp_path_factory.mktemp("world")
    make_world(root, scenes=2, samples_per_scene=4, sweeps=0, density=0.05, workers=1, progress=False)
    return DataOptions(root=str(root))


def open_split(data: DataOptions, split: str, case: Any, **changes: Any) -> NuscenesDataset:
    recipe = case.model.recipe
    options = {"input_size": recipe.input_size, "frames": recipe.frames, "images": "fast", **changes}
    return NuscenesDataset(open_index(data), split, image_augmentation=recipe.image_augmentation, **options)


def test_inputs_of_a_data_set_have_a_full_history(exported: Exports, world: DataOptions) -> None:
    case = exported("bevdet-tiny-4d", SMALL, raw=True)
    samples = calibration_inputs(case.folder, open_split(world, "mini_train", case), count=3)
    assert len(samples) == 3  # the progress bar's
    made = list(samples)
    assert len(made) == 3
    specs = {spec.name: spec for spec in load(case.folder).manifest.inputs}
    for inputs in made:
        assert inputs.keys() == specs.keys()
        assert inputs["history_valid"].all() and inputs["history"].std() > 0
    assert not torch.equal(made[0]["images"], made[1]["images"])


def test_camera_images_are_calibrated_on_where_the_graph_prepares_them(
    exported: Exports, tiny: Any, world: DataOptions, tmp_path: Path
) -> None:
    case = exported("bevdet-tiny", SMALL, raw=True, preprocess=True)
    (sample,) = calibration_inputs(case.folder, open_split(world, "mini_val", case, images="raw"), count=1)
    (prepared,) = calibration_inputs(tiny.folder, open_split(world, "mini_val", tiny, images="exact"), count=1)
    assert (sample["images"].shape, sample["images"].dtype) == ((1, 6, 900, 1600, 3), torch.uint8)
    wanted = tiny.load().session(prepared)
    for name, output in case.load().session(sample).items():
        error = (output - wanted[name]).square().mean().sqrt() / wanted[name].std()
        assert error < 0.05, name  # single pixels differ by one level
    assert quantize_model(case.folder, tmp_path, [sample] * FEWEST, MOSTLY_KEPT).layers
    with pytest.raises(ValueError, match='takes camera images, the data set gives images="fast": open it with'):
        next(calibration_inputs(case.folder, open_split(world, "mini_val", case)))
    with pytest.raises(ValueError, match='takes prepared images, the data set gives images="raw"'):
        next(calibration_inputs(tiny.folder, open_split(world, "mini_val", tiny, images="raw")))


def test_both_models_are_evaluated(tiny: Any, world: DataOptions, tmp_path: Path) -> None:
    samples = list(calibration_inputs(tiny.folder, open_split(world, "mini_train", tiny), seed=1))
    with pytest.raises(ValueError, match="at least 8 samples, got 4"):  # the whole split
        quantize_model(tiny.folder, tmp_path, samples, FAST)
    options = dataclasses.replace(FAST, keep=("view_transform", "bev_encoder"))
    split = open_split(world, "mini_val", tiny)
    report = quantize_model(tiny.folder, tmp_path, 2 * samples, options, evaluation=split)
    assert report.accuracy.samples == len(split)
    assert [figure.name for figure in report.accuracy.figures] == ["mAP", "mAP of classes present", "NDS"]
    assert "## Accuracy on v1.0-mini mini_val" in (tmp_path / "quantization.md").read_text()


def test_a_model_agrees_with_itself(tiny: Any, world: DataOptions) -> None:
    detector = load(tiny.folder)
    change = compare_accuracy(detector, detector, open_split(world, "mini_val", tiny), score_threshold=0.0)
    assert change.agreement == 1.0 and change.compared > 0
    assert all(figure.before == figure.after for figure in change.figures)


@pytest.mark.parametrize(("version", "split"), [("v1.0-mini", "mini_train"), ("own", "train")])
def test_the_program_calibrates_on_the_training_split(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, split: str
) -> None:
    opened = []
    monkeypatch.setattr(convert, "_split", lambda _, __, split: opened.append(split))
    monkeypatch.setattr(convert, "calibration_inputs", lambda *_, **__: [])
    monkeypatch.setattr(convert, "quantize_model", lambda *_, **__: SimpleNamespace(to_markdown=str))
    data = DataOptions(root="somewhere", version=version)
    assert convert.quantize(QuantizeArguments(folder=tiny.folder, out=tmp_path, data=data)) == 0
    assert opened == [split]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"training": True}, "augmented"), ({"frames": 3}, "wants 1 frames"), ({"input_size": (128, 352)}, "128")],
)
def test_data_sets_that_do_not_fit_are_refused(
    tiny: Any, world: DataOptions, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(calibration_inputs(tiny.folder, open_split(world, "mini_val", tiny, **changes)))
