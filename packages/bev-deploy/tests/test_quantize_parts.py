"""What quantisation is put together from: histograms, errors, the choice of layers, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bev_deploy.quantization import accuracy
from bev_deploy.quantization.accuracy import Figure, _found_again
from bev_deploy.quantization.calibrate import _without_kept
from bev_deploy.quantization.layers import Layer
from bev_deploy.quantization.ranges import Histogram
from bev_deploy.quantization.search import chosen_layers, relative_errors
from bev_heads import Detections
from bev_nuscenes import OCCUPANCY_SHAPE, DataOptions


def histogram(*batches: np.ndarray) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(batch.astype(np.float32))
    return made


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.99, 100.0])
def test_percentiles_to_the_width_of_a_bin(percent: float) -> None:
    values = np.random.default_rng(0).laplace(size=(3, 100, 100))
    made = histogram(*values)
    wanted = np.percentile(np.abs(values.astype(np.float32)), percent)
    assert made.percentile(percent) == pytest.approx(wanted, abs=2 * made.limit / len(made.counts))
    assert made.percentile(100.0) == made.largest == np.abs(values.astype(np.float32)).max()


def test_bins_grow_with_what_comes() -> None:
    small, large = np.linspace(0, 1, 1000), np.full(10, 37.0)
    made = histogram(small, large)
    assert made.counts.sum() == 1010 and made.limit >= 37
    assert made.percentile(90.0) == pytest.approx(0.909, abs=2 * made.limit / len(made.counts))


def test_zeros_alone() -> None:
    made = histogram(np.zeros(10), np.zeros(5))
    assert (made.largest, made.percentile(99.9), made.least_entropy()) == (0.0, 0.0, 0.0)


def test_least_entropy_cuts_a_lonely_outlier_off() -> None:
    rng = np.random.default_rng(0)
    made = histogram(rng.normal(size=200_000), np.array([100.0]))
    assert 3.0 < made.least_entropy() < 12.0


def test_least_entropy_keeps_a_level_distribution() -> None:
    made = histogram(np.random.default_rng(0).uniform(0, 1, size=200_000))
    assert made.least_entropy() > 0.95


def test_errors_are_counted_in_standard_deviations() -> None:
    wanted = [
        {"a": np.array([0.0, 4.0]), "b": np.array([1.0, 1.0])},
        {"a": np.array([0.0, 4.0]), "b": np.array([1.0, 1.0])},
    ]
    got = [
        {"a": np.array([1.0, 4.0]), "b": np.array([1.0, 1.0])},
        {"a": np.array([0.0, 3.0]), "b": np.array([1.0, 1.0])},
    ]
    np.testing.assert_allclose(relative_errors(wanted, got), [np.sqrt(0.5) / 2, 0.0])
    assert relative_errors([{"a": np.array([0.0, 1.0])}], [{"a": np.array([np.nan, 1.0])}]) == np.inf


def test_samples_may_be_of_any_batch() -> None:
    wanted = [{"a": np.array([[0.0, 4.0]])}, {"a": np.array([[0.0, 4.0], [0.0, 4.0]])}]
    got = [{"a": np.array([[0.0, 4.0]])}, {"a": np.array([[0.0, 4.0], [0.0, 1.0]])}]
    np.testing.assert_allclose(relative_errors(wanted, got), [np.sqrt(9 / 6) / 2])


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("neck", ["neck", "neck#2", "neck.out"]),  # exporters call all operators of one module by its name
        ("neck#2", ["neck#2"]),
        ("neck.out", ["neck.out"]),
    ],
)
def test_all_operators_of_a_module_are_kept(keep: str, kept: list[str]) -> None:
    names = ("neck", "neck#2", "neck.out", "necks")
    left, out = _without_kept([Layer(name, "Conv", "x", f"{name}.w", f"{name}.y", 0) for name in names], [keep])
    assert [entry.name for entry in out] == kept
    assert [layer.name for layer in left] == [name for name in names if name not in kept]


@pytest.mark.parametrize(
    ("alone", "bound", "kept"),
    [
        ([[0.01], [0.02], [0.01]], 0.1, [0, 1, 2]),
        ([[0.01], [0.9], [0.02]], 0.1, [0, 2]),
        ([[0.3, 0.0], [0.0, 0.3], [0.01, 0.01]], 0.1, [2]),  # one for each result
        ([[0.06], [0.08], [0.06]], 0.1, [0, 2]),  # none too large by itself
        ([[0.3], [0.4]], 0.1, []),
    ],
)
def test_as_few_layers_as_need_be_are_left_out(alone: list[list[float]], bound: float, kept: list[int]) -> None:
    table = np.array(alone)

    def together(places: Sequence[int]) -> np.ndarray:
        """Errors add up in squares, as they should."""
        return np.sqrt((table[list(places)] ** 2).sum(axis=0))

    found, errors = chosen_layers(table, together, bound)
    assert found == kept
    assert errors.tolist() == together(kept).tolist()


def test_a_relative_change() -> None:
    assert Figure("mAP", 0.5, 0.49).relative == pytest.approx(-0.02)
    assert np.isnan(Figure("mAP", 0.0, 0.1).relative)


class Split:
    """One key frame of a data set."""

    split, positions = "mini_val", (0,)

    def __init__(self, version: str, labels: Path) -> None:
        info = SimpleNamespace(root="s3://bucket/nuscenes", version=version)
        self.index = SimpleNamespace(info=info, path=Path("mine.npz"), occupancy_path=lambda position: labels)

    def __len__(self) -> int:
        return 1


def test_voxels_are_judged_with_the_index_that_was_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    voxels = torch.zeros(OCCUPANCY_SHAPE, dtype=torch.uint8)
    frame = SimpleNamespace(tokens=["token"]), [voxels, voxels]
    monkeypatch.setattr(accuracy, "_predictions", lambda *_: [frame])
    monkeypatch.setattr(
        accuracy, "evaluate_occupancy", lambda _, data, split: asked.append((data, split)) or SimpleNamespace(miou=1.0)
    )
    change = accuracy._judge_voxels((None, None), Split("v1.0-mini", tmp_path), 0.1, tmp_path)
    data = DataOptions(root="s3://bucket/nuscenes", version="v1.0-mini", index=Path("mine.npz"))
    assert asked == [(data, "mini_val")] * 2
    assert (change.agreement, change.compared) == (1.0, voxels.numel())


@pytest.mark.parametrize(
    ("version", "task", "message"),
    [("v1.0-test", "detection", "v1.0-test has no annotations"), ("v1.0-mini", "occupancy", r"labels\.npz is missing")],
)
def test_a_split_without_answers_is_noticed(tmp_path: Path, version: str, task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy.check_answers(SimpleNamespace(task=task), Split(version, tmp_path / "labels.npz"))


def boxes(*places: tuple[float, float, int]) -> Detections:
    rows = torch.zeros(len(places), 9)
    rows[:, :2] = torch.tensor([place[:2] for place in places]).reshape(-1, 2)
    return Detections(rows, torch.ones(len(places)), torch.tensor([place[2] for place in places], dtype=torch.int64))


@pytest.mark.parametrize(
    ("got", "count"),
    [
        (boxes((0.0, 0.4, 1), (5.0, 5.0, 2)), 2),
        (boxes((0.0, 0.6, 1), (5.0, 5.0, 2)), 1),  # too far
        (boxes((0.0, 0.0, 2), (5.0, 5.0, 2)), 1),  # another class
        (boxes(), 0),
    ],
)
def test_boxes_found_again(got: Detections, count: int) -> None:
    assert _found_again(boxes((0.0, 0.0, 1), (5.0, 5.0, 2)), got) == count
