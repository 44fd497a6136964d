"""Other shapes, nuScenes' finer categories, and how much of things shows in crowded streets."""

from __future__ import annotations

import numpy as np
import pytest

from bev_nuscenes.synthetic.actors import CATEGORIES, EGO_SIZE
from bev_nuscenes.synthetic.catalog import KIND_OF_CATEGORY, OTHERS, SHAPES, Shape
from bev_nuscenes.synthetic.geometry import SceneGeometry
from bev_nuscenes.synthetic.layout import make_scene
from bev_nuscenes.synthetic.mesh import BOX_MARGIN
from bev_nuscenes.synthetic.occupancy import LABELS
from bev_nuscenes.synthetic.recorder import shoot_camera
from bev_nuscenes.synthetic.schedule import WorldOptions, make_record
from bev_nuscenes.taxonomy import CLASSES, category_to_label

ALL_SHAPES = [shape for shapes in SHAPES.values() for shape in shapes]


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=lambda shape: shape.make.__name__)
@pytest.mark.parametrize("ridden", [False, True])
def test_shapes_fill_their_boxes_exactly(shape: Shape, ridden: bool) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        width, length, height = np.array(shape.size) * rng.uniform(0.95, 1.05, 3)
        height = shape.ridden_height if ridden and shape.ridden_height else height
        mesh = shape.build((width, length, height), rng, ridden=ridden)
        half = np.array([length / 2 - BOX_MARGIN, width / 2 - BOX_MARGIN])
        np.testing.assert_allclose(mesh.corners.min(axis=(0, 1)), [*-half, 0.0], atol=1e-9)
        np.testing.assert_allclose(mesh.corners.max(axis=(0, 1)), [*half, height - BOX_MARGIN], atol=1e-9)
        off_plane = np.einsum("fvi,fi->fv", mesh.corners - mesh.corners[:, :1], mesh.normals)
        assert np.abs(off_plane).max() < 0.02, "a face is bent"
        assert ((mesh.colors >= 0) & (mesh.colors <= 1)).all()


def test_the_world_and_the_devkit_agree_what_class_a_category_is() -> None:
    for shape in ALL_SHAPES:
        label = category_to_label(shape.category)
        assert shape.kind == (OTHERS if label < 0 else CLASSES[label])
        assert shape.kind in LABELS
    assert {"vehicle.bus.bendy", "human.pedestrian.child", "human.pedestrian.police_officer"} <= set(KIND_OF_CATEGORY)


def test_without_variety_all_is_plain_and_with_it_everything_may_change() -> None:
    plain, varied = ({a.category for a in make_scene(np.random.default_rng(3), 4.5, variety=v).actors} for v in (0, 1))
    assert plain <= {*CATEGORIES.values(), "human.pedestrian.construction_worker"}
    assert varied > {"human.pedestrian.child", "vehicle.bus.bendy"}


def test_the_sections_of_a_bendy_bus_follow_each_other() -> None:
    pairs = 0
    for seed in range(6):
        scene = make_scene(np.random.default_rng(seed), 4.5, variety=1.0)
        buses = [actor for actor in scene.actors if actor.category == "vehicle.bus.bendy"]
        assert len(buses) % 2 == 0
        for front, rear in zip(buses[::2], buses[1::2], strict=True):
            for time in (0.0, 4.0):
                a, b = (np.array(part.path.pose(scene.road, time), dtype=float) for part in (front, rear))
                gap = np.hypot(*(a - b)[:2]) - (front.size[1] + rear.size[1]) / 2
                assert 0.0 < gap < 0.9
                assert (a - b)[:2] @ (np.cos(a[2]), np.sin(a[2])) > 0, "the rear section is behind"
            pairs += 1
    assert pairs > 0


@pytest.mark.parametrize(("density", "variety"), [(1.0, 1.0), (2.0, 0.5), (3.0, 1.0)])
def test_nothing_in_a_crowded_scene_runs_into_anything_else(density: float, variety: float) -> None:
    scene = make_scene(np.random.default_rng(3), 4.5, density, variety=variety)
    movers = [(scene.ego, EGO_SIZE)] + [(actor.path, actor.size) for actor in scene.actors]
    radius = np.array([min(size[0], size[1]) / 2 for _, size in movers])
    for time in np.arange(0.0, 4.51, 0.5):
        poses = np.array([path.pose(scene.road, time)[:2] for path, _ in movers], dtype=np.float64)
        apart = np.linalg.norm(poses[:, None] - poses[None], axis=-1) + 100 * np.eye(len(movers))
        assert (apart > radius[:, None] + radius[None]).all()


def test_density_adds_actors() -> None:
    counts = [len(make_scene(np.random.default_rng(3), 4.5, density).actors) for density in (0.0, 0.5, 1.0, 2.0, 3.0)]
    assert counts == sorted(counts) and counts[-1] > 1.5 * counts[2]


def test_a_dense_street_spreads_visibility_over_all_four_levels() -> None:
    options = WorldOptions(scenes=1, samples_per_scene=1, seed=5, density=3.0)
    record = make_record(options, "scene-0061")
    geometry = SceneGeometry(record.scene)
    pictures = [shoot_camera(record, geometry, shot) for shot in record.shots if shot.channel.startswith("CAM")]
    visible, footprints = (np.sum([getattr(p, name) for p in pictures], axis=0) for name in ("visible", "footprints"))
    seen = visible >= 60
    share = np.bincount(np.digitize(visible[seen] / footprints[seen], [0.4, 0.6, 0.8]), minlength=4) / seen.sum()
    print(
        "visibility "
        + ", ".join(f"{n}: {s:.0%}" for n, s in zip(("0-40", "40-60", "60-80", "80-100"), share, strict=True))
    )
    assert share.min() > 0.05, share
    assert share.max() < 0.75, share
