"""Weather, light and sensor noise of the synthetic world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bev_nuscenes.synthetic import WEATHERS, make_world
from bev_nuscenes.synthetic.calibration import LIDAR
from bev_nuscenes.synthetic.camera import Picture
from bev_nuscenes.synthetic.geometry import SceneGeometry
from bev_nuscenes.synthetic.lens import add_glare, add_reflections, add_sensor_noise, blur_by_motion
from bev_nuscenes.synthetic.recorder import shoot_camera, shoot_lidar
from bev_nuscenes.synthetic.schedule import MINI_TRAIN, SceneRecord, Shot, WorldOptions, make_record
from bev_nuscenes.synthetic.weather import draw_weather

NAME = "scene-0061"


def _options(weather: str, noise: float = 0.0) -> WorldOptions:
    return WorldOptions(scenes=1, samples_per_scene=1, seed=5, weather=weather, sensor_noise=noise)


def _shot(record: SceneRecord, channel: str) -> Shot:
    return next(shot for shot in record.shots if shot.channel == channel and shot.is_key_frame)


@pytest.fixture(scope="module")
def pictures() -> dict[str, Picture]:
    """CAM_FRONT of the same scene in every weather."""
    seen = {}
    for weather in WEATHERS:
        record = make_record(_options(weather), NAME)
        seen[weather] = shoot_camera(record, SceneGeometry(record.scene), _shot(record, "CAM_FRONT"), _options(weather))
    return seen


def test_weather_changes_the_light_and_nothing_that_is_annotated() -> None:
    clear = make_record(_options("clear"), NAME)
    for weather in set(WEATHERS) - {"clear"}:
        other = make_record(_options(weather), NAME)
        assert [(a.kind, a.path, a.size) for a in other.scene.actors] == [
            (a.kind, a.path, a.size) for a in clear.scene.actors
        ]
        assert other.scene.ego == clear.scene.ego
        assert (other.lighting.ambient != clear.lighting.ambient).any()


@pytest.mark.parametrize(
    ("darker", "brighter"),
    [("rain", "overcast"), ("rain", "clear"), ("night", "dusk"), ("dusk", "clear"), ("night-rain", "rain")],
)
def test_images_are_as_bright_as_their_weather(pictures: dict[str, Picture], darker: str, brighter: str) -> None:
    assert pictures[darker].image.mean() < 0.9 * pictures[brighter].image.mean()


def test_fog_takes_the_contrast_from_what_is_far(pictures: dict[str, Picture]) -> None:
    contrast = {}
    for weather in ("clear", "fog"):
        depth = pictures[weather].depth
        near, far = (depth < 15) & (depth > 8), (depth > 60) & (depth < 120)
        contrast[weather] = pictures[weather].image[far].std() / pictures[weather].image[near].std()
    assert contrast["fog"] < 0.75 * contrast["clear"]


def test_lamps_shine_at_night(pictures: dict[str, Picture]) -> None:
    night = pictures["night"].image
    assert np.median(night) < 40
    assert (night.max(axis=2) > 200).mean() > 1e-4, "lit windows and lamps"


def test_descriptions_begin_with_the_weather_so_that_scenes_can_be_chosen_by_it(tmp_path: Path) -> None:
    root = make_world(
        tmp_path / "w", scenes=1, samples_per_scene=1, density=0.0, weather="night-rain", workers=1, progress=False
    ).root
    (scene,) = json.loads((root / "v1.0-mini" / "scene.json").read_text())
    assert scene["description"].startswith("Night, rain, synthetic street")
    assert json.loads((root / "synthetic.json").read_text())["options"]["weather"] == "night-rain"


@pytest.mark.parametrize("seed", range(3))
def test_mixed_worlds_have_every_weather(seed: int) -> None:
    drawn = [draw_weather("mixed", seed, index).name for index in range(len(MINI_TRAIN))]
    assert set(drawn) == set(WEATHERS)


@pytest.mark.parametrize(("weather", "least_far"), [("rain", 0.3), ("fog", 0.05)])
def test_rain_and_fog_cost_the_lidar_far_returns_and_add_near_ones(weather: str, least_far: float) -> None:
    ranges = {}
    for name in ("clear", weather):
        record = make_record(_options(name), NAME)
        sweep = shoot_lidar(record, SceneGeometry(record.scene), _shot(record, LIDAR), seed=5)
        reach = np.linalg.norm(sweep.points[:, :3], axis=1)
        ranges[name] = reach
        in_the_air = (sweep.points[:, 2] > -1.2) & (reach < 4.0) & (sweep.owners == -1)
        assert (in_the_air.sum() > 50) == (name != "clear")
    kept = (ranges[weather] > 40).sum() / (ranges["clear"] > 40).sum()
    assert least_far < kept < 0.75


def test_noise_grows_with_light_and_gain_and_darkens_the_corners() -> None:
    deviation = {}
    for level, gain in ((20.0, 1.0), (200.0, 1.0), (20.0, 2.0)):
        image = np.full((90, 160, 3), level, dtype=np.float32)
        add_sensor_noise(image, 1.0, gain, np.random.default_rng(0))
        deviation[level, gain] = image[35:55, 70:90].std()
        assert image[:5, :5].mean() < 0.8 * image[40:50, 75:85].mean()
    assert deviation[200.0, 1.0] > 1.3 * deviation[20.0, 1.0]
    assert deviation[20.0, 2.0] == pytest.approx(2 * deviation[20.0, 1.0], rel=0.1)


def test_noise_is_the_same_whenever_it_is_drawn_and_differs_between_cameras() -> None:
    record = make_record(_options("clear", 1.0), NAME)
    geometry = SceneGeometry(record.scene)

    def noise_of(channel: str) -> np.ndarray:
        noisy, still = (
            shoot_camera(record, geometry, _shot(record, channel), options).image[400:500, 700:900].astype(float)
            for options in (_options("clear", 1.0), None)
        )
        return noisy - still

    one, two, other = (noise_of(channel) for channel in ("CAM_BACK", "CAM_BACK", "CAM_FRONT"))
    assert (one == two).all()
    assert 1.0 < one.std() < 20.0
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


def test_motion_smears_what_is_near_and_not_what_is_far() -> None:
    image = np.zeros((90, 160, 3), dtype=np.float32)
    image[:, ::8] = 255.0
    depth = np.full((90, 160), np.inf, dtype=np.float32)
    depth[45:] = 2.0
    intrinsics = np.array([[120.0, 0.0, 80.0], [0.0, 120.0, 45.0], [0.0, 0.0, 1.0]])
    smeared = image.copy()
    blur_by_motion(smeared, depth, np.array([8.0, 0.0, 0.0]), intrinsics, 0.01)
    assert (smeared[:45] == image[:45]).all()
    assert smeared[50, 80].max() < 255.0


def test_wet_ground_mirrors_what_stands_on_it() -> None:
    image = np.full((100, 40, 3), 50.0, dtype=np.float32)
    image[20:60] = 200.0  # a wall whose foot is at row 60
    ground = np.zeros((100, 40), dtype=bool)
    ground[60:] = True
    add_reflections(image, ground, np.full((100, 40), 0.1, dtype=np.float32), np.float32(1.0))
    assert image[70].mean() > 90, "the wall stands on its head in the ground before it"
    assert (image[20:60] == 200.0).all()


def test_glare_spreads_lamps_only() -> None:
    image = np.full((100, 100, 3), 60.0, dtype=np.float32)
    add_glare(image)
    assert (image == 60.0).all()
    image[50, 50] = 255.0
    add_glare(image)
    assert image[50, 70].max() > 60.0 and image[50, 52].max() > image[50, 70].max()
