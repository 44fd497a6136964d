"""Weather and light: how a clear day's sky, sun and haze change, and what rain and fog do to the LiDAR.

Every weather starts from the clear sky that the scene's seed draws, so that scenes of one seed differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .shading import Lighting

MIXED = "mixed"


@dataclass(frozen=True)
class Weather:
    """One kind of weather. `described` begins the description of its scenes, as nuScenes words it."""

    name: str
    described: str = ""
    change: Callable[[Lighting, np.random.Generator], Lighting] | None = None  # of a clear sky's light
    rain: float = 0.0  # 0 dry … 1 pouring: streaks and drops before the lens, wet ground
    dark: bool = False  # lamps and windows are lit
    lidar_loss: float = 0.0  # 1/metre: returns from r metres survive with exp(-lidar_loss * r)
    backscatter: float = 0.0  # part of the rays that return from drops in the air before anything else
    backscatter_reach: float = 1.0  # metres, mean distance of those returns beyond the nearest measured


def draw_weather(option: str, seed: int, scene_index: int) -> Weather:
    """The weather of a scene. Mixed worlds deal the kinds like cards: the names' first seven scenes have them all.

    A world of seven or eight scenes takes some of the last names instead, and one kind is missing from it.
    """
    if option != MIXED:
        return WEATHERS[option]
    deal, place = divmod(scene_index, len(WEATHERS))
    order = np.random.default_rng([seed, 5]).permutation(len(WEATHERS))
    return list(WEATHERS.values())[order[(place + deal) % len(WEATHERS)]]


def light_up(weather: Weather, clear: Lighting, rng: np.random.Generator) -> Lighting:
    """The light of this weather instead of that of a clear sky."""
    if weather.change is None:
        return clear
    return weather.change(replace(clear, wetness=0.8 * weather.rain, lamps=float(weather.dark)), rng)


def _overcast(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    gray = rng.uniform(0.60, 0.74)
    return replace(
        _without_sun(lighting, gray * np.array([0.96, 1.0, 1.04])),
        zenith=gray * np.array([0.92, 0.97, 1.03]),
        horizon=gray * np.array([1.08, 1.12, 1.15]),
        cloudiness=1.0,
        cloud_color=_bytes(1.14 * gray, 1.16 * gray, 1.18 * gray),
        haze_length=260.0,
        shadow=0.72,
    )


def _rain(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    gray = rng.uniform(0.42, 0.54)
    return replace(
        _without_sun(lighting, gray * np.array([0.95, 1.0, 1.06])),
        zenith=gray * np.array([0.95, 1.0, 1.06]),
        horizon=gray * np.array([1.18, 1.22, 1.27]),
        cloudiness=1.0,
        cloud_color=_bytes(1.1 * gray, 1.14 * gray, 1.2 * gray),
        hill_tint=(-0.03, -0.02, -0.03),
        haze_length=130.0,
        shadow=0.75,
    )


def _fog(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    gray = rng.uniform(0.66, 0.76)
    air = gray * np.array([0.98, 1.0, 1.02])
    return replace(
        _without_sun(lighting, 0.62 * np.array([0.98, 1.0, 1.02])),
        zenith=air,
        horizon=air,
        cloud_color=_bytes(*air),
        hill_shade=1.0,
        hill_tint=(0.0, 0.0, 0.0),
        haze_length=float(rng.uniform(28.0, 50.0)),
        shadow=0.85,
    )


def _dusk(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(7.0, 12.0))
    to_sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    return replace(
        lighting,
        to_sun=to_sun,
        sun=rng.uniform(0.35, 0.5) * np.array([1.0, 0.62, 0.34]),
        ambient=rng.uniform(0.28, 0.36) * np.array([0.95, 0.96, 1.12]),
        zenith=np.array([0.20, 0.25, 0.42]),
        horizon=np.array([0.80, 0.55, 0.42]),
        cloud_color=_bytes(0.72, 0.46, 0.44),
        hill_shade=0.4,
        hill_tint=(-0.04, -0.03, 0.02),
        haze_length=500.0,
        lamps=0.4,
        shadow=0.68,
    )


def _night(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    level = rng.uniform(0.045, 0.07)
    return replace(
        _without_sun(lighting, level * np.array([0.85, 0.95, 1.25])),
        zenith=np.array([0.012, 0.016, 0.035]),
        horizon=np.array([0.075, 0.065, 0.070]),
        cloud_color=_bytes(0.06, 0.055, 0.065),
        hill_shade=0.35,
        hill_tint=(0.0, 0.0, 0.0),
        haze_length=360.0,
        shadow=0.7,
    )


def _night_rain(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    return replace(_night(lighting, rng), haze_length=150.0, cloudiness=1.0)


def _without_sun(lighting: Lighting, ambient: np.ndarray) -> Lighting:
    """Light from the whole sky: what stands on the ground darkens only what is right under it."""
    return replace(lighting, to_sun=np.array([0.0, 0.0, 1.0]), sun=np.zeros(3), ambient=ambient)


def _bytes(red: float, green: float, blue: float) -> tuple[float, float, float]:
    return 255.0 * float(red), 255.0 * float(green), 255.0 * float(blue)


_RAIN = Weather("rain", "Rain", _rain, rain=1.0, lidar_loss=0.012, backscatter=0.012, backscatter_reach=3.0)
WEATHERS: dict[str, Weather] = {
    weather.name: weather
    for weather in (
        Weather("clear"),
        Weather("overcast", "Overcast", _overcast),
        _RAIN,
        Weather("fog", "Fog", _fog, lidar_loss=0.03, backscatter=0.05, backscatter_reach=5.0),
        Weather("dusk", "Dusk", _dusk, dark=True),
        Weather("night", "Night", _night, dark=True),
        replace(_RAIN, name="night-rain", described="Night, rain", change=_night_rain, rain=0.8, dark=True),
    )
}
"""What `WorldOptions.weather` may name, besides `MIXED`: one of these for every scene."""
