"""Inputs of an exported model, made as docs/deployment-tensorrt.md says: plain loops that share no code with Feed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bev_deploy.tensorrt import step_inputs
from bev_zoo import CameraRig, nuscenes_rig

Exports = Callable[..., Any]  # the fixture of conftest.py
SMALL = (64, 192)


def single_points(manifest: Any, rig: CameraRig) -> dict[str, np.ndarray]:
    """Tables of single points alone."""
    height, width = manifest.input_size
    h, w, bins = height // manifest.stride, width // manifest.stride, len(manifest.depths)
    lower, upper, step = (np.array(manifest.grid[name]) for name in ("lower", "upper", "step"))
    x, y, z = (int(count) for count in np.rint((upper - lower) / step))
    cells: list[list[int]] = [[] for _ in range(x * y * z)]
    depth_at, pixel_at = [], []
    first_point = 1 + manifest.cameras * w * bins
    for n in range(manifest.cameras):
        k, e, a = (getattr(rig, name)[0, 0, n].double().numpy() for name in ("intrinsics", "cam_to_ego", "image_aug"))
        # One moment for all cameras: the ego of each is the ego of the first.
        back, lift = np.linalg.inv(a[:2, :2]), e[:3, :3] @ np.linalg.inv(k)
        for d, i, j in np.ndindex(bins, h, w):
            u, v, far = j * (width - 1) / (w - 1), i * (height - 1) / (h - 1), manifest.depths[d]
            raw = back @ (np.array([u, v]) - a[:2, 2])
            point = lift @ np.array([raw[0] * far, raw[1] * far, far]) + e[:3, 3]
            cx, cy, cz = (math.trunc(value) for value in (point - lower) / step)
            if 0 <= cx < x and 0 <= cy < y and 0 <= cz < z:
                cells[(cz * y + cy) * x + cx].append(first_point + len(depth_at))
                depth_at.append(((n * bins + d) * h + i) * w + j)
                pixel_at.append((n * w + j) * h + i)
    tables = sums(cells, first_point + len(depth_at))
    none = np.zeros((1, manifest.cameras, w, bins, 1))
    made = {"run_first": none, "run_end": none, "point_depth": depth_at, "point_pixel": pixel_at, **tables}
    return {f"pool_{name}": np.asarray(table, np.int32) for name, table in made.items()}


def sums(cells: list[list[int]], first_level: int) -> dict[str, Any]:
    """Tables of rows that are added, and the row of every cell."""
    tables: list[list[list[int]]] = [[[0] * 4], [[0] * 8], [[]]]
    levels: list[list[list[int]]] = [[], [], []]  # for each cell, its rows in the tables
    for rows in cells:
        for level, fan in enumerate((4, 8, None)):
            chunks = [rows[i : i + (fan or len(rows))] for i in range(0, len(rows), fan or max(len(rows), 1))]
            alone = len(rows) < 2
            levels[level].append([] if alone else [len(tables[level]) + i for i in range(len(chunks))])
            tables[level] += [] if alone else [chunk + [0] * ((fan or 0) - len(chunk)) for chunk in chunks]
            rows = [] if alone else levels[level][-1]
    most = max(map(len, tables[2]))
    tables[2] = [row + [0] * (max(most, 2) - len(row)) for row in tables[2]]
    for table in tables:
        table += [[0] * len(table[0])] * (2 - len(table))
    starts = [first_level, first_level + len(tables[0]), first_level + len(tables[0]) + len(tables[1])]
    cell_row = []
    for cell, rows in enumerate(cells):
        held = [(start, level[cell]) for start, level in zip(starts, levels, strict=True) if len(level[cell]) == 1]
        cell_row.append(held[0][0] + held[0][1][0] if held else rows[0] if rows else 0)
    return {"sums_1": tables[0], "sums_2": tables[1], "sums_3": tables[2], "cell_row": cell_row}


@pytest.mark.parametrize("name", ["bevdet-tiny", pytest.param("bevdet-tiny-occ", marks=pytest.mark.slow)])
def test_tables_of_single_points(exported: Exports, name: str) -> None:
    detector = exported(name, SMALL, raw=True).load()
    rig = nuscenes_rig(SMALL)
    inputs = step_inputs(detector)
    inputs |= {k: torch.from_numpy(v) for k, v in single_points(detector.manifest, rig).items()}
    ours = {**inputs, **detector.feed.cameras(rig.frame_cameras(0))}
    got, want = detector.session(inputs), detector.session(ours)
    for output in set(want) - set(detector.manifest.state):
        # In float64 a few points on borders fall on another side.
        close = ((got[output] - want[output]).abs() < 1e-3 * want[output].std()).float().mean()
        assert close > 0.98, output


def test_camera_parameters(exported: Exports) -> None:
    detector = exported("bevdet-tiny-depth", SMALL, raw=True).load()
    rig = nuscenes_rig(SMALL)
    got = detector.feed.cameras(rig.frame_cameras(0))["camera_params"][0, 2]
    k, a, e = rig.intrinsics[0, 0, 2], rig.image_aug[0, 0, 2], rig.frame_cameras(0).cam_to_key_ego[0, 2]
    want = [k[0, 0], k[1, 1], k[0, 2], k[1, 2], *a[:2].flatten(), 1, 0, 0, 1, 1, *e[:3].flatten()]
    assert torch.allclose(got, torch.tensor([float(value) for value in want]))


def test_cells_of_the_past(exported: Exports) -> None:
    detector = exported("bevdet-tiny-4d", SMALL, raw=True).load()
    rig = nuscenes_rig(SMALL, frames=2, now=3, rolling=True)
    stream = detector.stream()
    seen: list[torch.Tensor] = []
    session = detector.session

    def watched(inputs: Any) -> Any:
        seen.append(inputs["history_cells"])
        return session(inputs)

    watched.device = session.device
    stream.model.session = watched
    images = torch.zeros(1, 1, 6, 3, *SMALL)
    frames = [
        CameraRig(**{f: getattr(rig, f)[:, t : t + 1] for f in fields_of(rig)}, bev_aug=rig.bev_aug) for t in (1, 0)
    ]
    for now, frame in enumerate(frames):
        stream.outputs(images, frame, timestamp=now * 0.5)
    lower, _, step = (np.array(detector.manifest.grid[name]) for name in ("lower", "upper", "step"))
    camera0 = [(rig.ego_to_global[0, t, 0].double() @ rig.cam_to_ego[0, t, 0].double()).numpy() for t in (0, 1)]
    key = np.linalg.inv(rig.ego_to_global[0, 0, 0].double().numpy())
    motion = (key @ camera0[0]) @ np.linalg.inv(key @ camera0[1])
    for i in range(2):
        shift = motion[i, 0] * lower[0] + motion[i, 1] * lower[1] + motion[i, 3] - lower[i]
        want = np.array([motion[i, 0] * step[0], motion[i, 1] * step[1], shift]) / step[i]
        assert np.allclose(seen[-1][0, 0, i], want, atol=1e-3)
    assert np.allclose(seen[0][0, 0], [[1, 0, 0], [0, 1, 0]], atol=1e-3)


def fields_of(rig: CameraRig) -> list[str]:
    return [name for name in rig.__dataclass_fields__ if name != "bev_aug"]


def test_views_of_the_frame_before(exported: Exports) -> None:
    detector = exported("bevdet-tiny-stereo", SMALL, raw=True).load()
    rig = nuscenes_rig(SMALL)
    cameras = rig.frame_cameras(0)
    to_previous = torch.eye(4).repeat(1, 6, 1, 1)
    to_previous[..., 0, 3], to_previous[..., 2, 3] = 0.5, 1.25
    features = torch.zeros(1, 6, 1, 16, 48)
    got = detector.feed.stereo(features, torch.ones(1, dtype=torch.bool), to_previous, cameras)
    k, a = (getattr(rig, name)[0, 0, 4].double().numpy() for name in ("intrinsics", "image_aug"))
    assert np.allclose(got["sweep_intrinsics"][4], k) and np.allclose(got["sweep_image_aug"][4], a)
    assert np.allclose(got["sweep_translation"][4], [0.5, 0, 1.25])
    assert np.allclose(got["sweep_pixel_to_previous"][4], np.linalg.inv(k), atol=1e-6)
    i, j = 5, 17
    pixel = np.array([j * (192 - 1) / (48 - 1), i * (64 - 1) / (16 - 1)])
    assert np.allclose(got["sweep_pixels"][4, :, i, j], np.linalg.inv(a[:2, :2]) @ (pixel - a[:2, 2]), atol=1e-2)
