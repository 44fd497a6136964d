"""An index of the size of v1.0-trainval, from tiled tables: links that hold, workers that copy nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bev_nuscenes import NuscenesDataset, NuscenesIndex, build_index

pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import index_scale

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes-keyframes"


@pytest.fixture(scope="module")
def small() -> NuscenesIndex:
    if not ROOT.is_dir():
        pytest.skip(f"needs the two real key frames in {ROOT}")
    return build_index(ROOT, "v1.0-mini", progress=False)


def test_a_tiled_index_equals_one_built_from_tiled_tables(small, tmp_path) -> None:
    index_scale.write_tiled_tables(ROOT, "v1.0-mini", tmp_path, frames=6, boxes=1)
    built = build_index(tmp_path, "v1.0-mini", progress=False)
    tiled = index_scale.tiled(small, frames=6, boxes=1)
    assert len(built) == len(tiled) == 6
    by_token = np.argsort(built.frames.tokens), np.argsort(tiled.frames.tokens)
    for index, order in zip((built, tiled), by_token, strict=True):
        assert (
            np.diff(index.boxes.offsets)[order]
            == np.diff(small.boxes.offsets)[np.argsort(small.frames.tokens)].tolist() * 3
        ).all()
    np.testing.assert_array_equal(built.frames.tokens[by_token[0]], tiled.frames.tokens[by_token[1]])
    np.testing.assert_array_equal(built.cameras.intrinsics[by_token[0]], tiled.cameras.intrinsics[by_token[1]])


def test_links_and_boxes_stay_within_their_copy(small) -> None:
    tiled = index_scale.tiled(small, frames=7, boxes=3 * 4 * len(small.boxes.labels))
    assert len(tiled) == 8 and len(tiled.boxes.labels) == 12 * len(small.boxes.labels)
    for position in range(8):
        rows, original = tiled.box_rows(position), small.box_rows(position % 2)
        assert len(rows) == 3 * len(original)
        np.testing.assert_array_equal(tiled.boxes.boxes[rows[: len(original)]], small.boxes.boxes[original])
        assert tiled.scene_name(position).endswith(small.scene_name(position % 2))


def test_an_index_of_full_size_opens_at_once_and_is_not_copied_into_workers(small, tmp_path) -> None:
    path = tmp_path / "index.npz"
    index_scale.tiled(small, index_scale.TRAINVAL_FRAMES, index_scale.TRAINVAL_BOXES).save(path)
    assert min(index_scale._seconds_to_open(path) for _ in range(3)) < 1
    dataset = NuscenesDataset(NuscenesIndex.load(path), "train", input_size=(256, 704), training=True)
    assert len(dataset) >= index_scale.TRAINVAL_FRAMES
    without, with_it = (index_scale._worker_memory(what, "fork", 2) for what in (None, dataset))
    copied = max(memory.own for memory in with_it) - min(memory.own for memory in without)
    assert copied < 25 < path.stat().st_size / 1e6  # MB
