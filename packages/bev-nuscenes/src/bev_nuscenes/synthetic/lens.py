"""What happens to a picture between the scene and the file: wet reflections, glare, rain before the lens, the sensor.

All functions work on float32 images (H, W, 3) in [0, 255] and change them in place; they draw from the generator that
they are given and from nothing else.
"""

from __future__ import annotations

import numpy as np

GLARE_BLOCK = 10  # pixels; glare is computed on an image so many times smaller; divides both sides of the image
READ_NOISE = 1.1  # standard deviation at full sensor noise, of 255
SHOT_NOISE = 0.030  # variance per unit of brightness
NIGHT_GAIN = 2.2  # times the deviation when the sensor must amplify
VIGNETTING = 0.28  # part of the light that the corners lose
EXPOSURE = 0.008, 0.016  # seconds by day and in the dark
_FAR_STREAKS, _NEAR_STREAKS = 700, 60
_DROPS = 22


def add_reflections(image: np.ndarray, ground: np.ndarray, slant: np.ndarray, strength: np.ndarray) -> None:
    """Let wet ground mirror what stands behind it.

    Args:
        image: changed in place.
        ground: (H, W) bool, pixels that show level ground.
        slant: (H, W) sine of the angle between the line of sight and the ground.
        strength: (H, W) or a number, how much of a mirror the ground is.
    """
    height, width = ground.shape
    row = np.arange(height, dtype=np.int32)[:, None]
    foot = np.maximum.accumulate(np.where(ground, np.int32(-1), row), axis=0)  # where the mirrored thing stands
    wanted = ground & (foot >= 0)
    place = np.flatnonzero(wanted)
    column = (place % width).astype(np.int32)
    source = np.maximum(2 * foot.ravel()[place] - place // width, 0).astype(np.int32)
    mirrored = _blur_rows(image, 18).reshape(-1, 3)[source * width + column]
    grazing = (1.0 - np.clip(slant.ravel()[place], 0.0, 1.0)) ** 5
    part = (np.broadcast_to(strength, ground.shape).ravel()[place] * (0.04 + 0.8 * grazing)).astype(np.float32)
    flat = image.reshape(-1, 3)
    flat[place] += part[:, None] * (mirrored - flat[place])


def add_glare(image: np.ndarray, threshold: float = 170.0, strength: float = 0.9) -> None:
    """Spread the light of lamps over their surroundings."""
    height, width = image.shape[:2]
    rows, columns = height // GLARE_BLOCK, width // GLARE_BLOCK
    excess = np.maximum(image - np.float32(threshold), 0.0)
    small = excess.reshape(rows, GLARE_BLOCK, columns, GLARE_BLOCK, 3).mean(axis=(1, 3))
    spread = sum(part * _blur(small, reach) for reach, part in ((1, 0.6), (3, 0.5), (9, 0.5)))
    image += np.float32(strength) * _enlarge(spread, GLARE_BLOCK)


def add_rain(image: np.ndarray, rain: float, rng: np.random.Generator) -> None:
    """Streaks of falling drops, and drops on the lens that show the scene upside down."""
    for count, length, light in ((_FAR_STREAKS, (8, 30), 0.10), (_NEAR_STREAKS, (40, 130), 0.16)):
        _add_streaks(image, round(rain * count), length, light, rng)
    for _ in range(round(rain * rng.uniform(0.4, 1.0) * _DROPS)):
        _add_drop(image, rng)


def blur_by_motion(
    image: np.ndarray, depth: np.ndarray, velocity: np.ndarray, intrinsics: np.ndarray, exposure: float
) -> None:
    """Smear what stands still by the camera's own motion.

    Args:
        image: changed in place.
        depth: (H, W) metres along the optical axis, infinite in the sky.
        velocity: (3,) of the camera in its own frame, m/s.
        intrinsics: (3, 3) pixels.
        exposure: seconds the shutter is open.
    """
    height, width = depth.shape
    inverse = (np.float32(0.5 * exposure) / depth).astype(np.float32)
    focal, (cx, cy) = intrinsics[0, 0], intrinsics[:2, 2]
    vx, vy, vz = (float(part) for part in velocity)
    column, row = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    move_u = np.rint(((column - np.float32(cx)) * np.float32(vz) - np.float32(focal * vx)) * inverse)
    move_v = np.rint(((row - np.float32(cy)) * np.float32(vz) - np.float32(focal * vy)) * inverse)
    place = np.flatnonzero((move_u != 0) | (move_v != 0))
    move_u, move_v = (np.clip(move.ravel()[place], -24, 24).astype(np.int32) for move in (move_u, move_v))
    u, v = place % width, place // width
    flat = image.reshape(-1, 3)
    ahead, behind = (
        flat[np.clip(v + sign * move_v, 0, height - 1) * width + np.clip(u + sign * move_u, 0, width - 1)]
        for sign in (1, -1)
    )
    flat[place] = (ahead + 2 * flat[place] + behind) / 4


def add_sensor_noise(image: np.ndarray, strength: float, gain: float, rng: np.random.Generator) -> None:
    """Vignetting, shot noise that grows with the light and read noise that does not; `gain` 1 is daylight."""
    height, width = image.shape[:2]
    across = (np.arange(width, dtype=np.float32) / width - 0.5) ** 2
    down = (np.arange(height, dtype=np.float32)[:, None] / width - 0.5 * height / width) ** 2
    corner = float(across[0] + down[0, 0])
    image *= (1.0 - np.float32(strength * VIGNETTING / corner) * (across + down))[..., None]
    deviation = np.sqrt(np.maximum(image, 0.0) * np.float32(SHOT_NOISE) + np.float32(READ_NOISE**2))
    image += np.float32(strength * gain) * deviation * rng.standard_normal(image.shape, dtype=np.float32)


def _add_streaks(
    image: np.ndarray, count: int, length: tuple[int, int], light: float, rng: np.random.Generator
) -> None:
    height, width = image.shape[:2]
    lean = rng.uniform(-0.2, 0.2)
    size = rng.integers(*length, count)
    top, left = rng.integers(-length[0], height, count), rng.uniform(0, width, count)
    streak = np.repeat(np.arange(count), size)
    step = np.arange(len(streak)) - np.repeat(np.cumsum(size) - size, size)
    v, u = top[streak] + step, np.rint(left[streak] + lean * step).astype(np.int64)
    inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
    place = np.unique(v[inside] * width + u[inside])
    flat = image.reshape(-1, 3)
    some = image[::20, ::20]
    sky = np.float32(0.25 * some.max() + 0.75 * some.mean())
    flat[place] += np.float32(2 * light) * (sky - flat[place]) + np.float32(6 * light)


def _add_drop(image: np.ndarray, rng: np.random.Generator) -> None:
    """A drop on the lens: out of focus, it shows a wide and upside-down view of what is around it."""
    height, width = image.shape[:2]
    radius = int(rng.uniform(9, 34))
    y, x = int(rng.integers(radius, height - radius)), int(rng.integers(radius, width - radius))
    line = np.arange(-radius, radius + 1)
    squared = (line[:, None] / (radius * 1.15)) ** 2 + (line / radius) ** 2
    rows, columns = (np.clip(middle - 4 * line, 0, edge - 1) for middle, edge in ((y, height), (x, width)))
    seen = _blur(image[rows][:, columns], 3)
    part = np.clip(3.0 * (1.0 - squared), 0.0, 0.75)[..., None].astype(np.float32)
    window = image[y - radius : y + radius + 1, x - radius : x + radius + 1]
    window += part * (seen * np.float32(1.04) - window)


def _blur(image: np.ndarray, reach: int) -> np.ndarray:
    """Two running means along both axes of (H, W, C)."""
    for _ in range(2):
        image = _mean_along(_mean_along(image, reach, 0), reach, 1)
    return image


def _blur_rows(image: np.ndarray, reach: int) -> np.ndarray:
    """Much along the columns, a little along the rows, as waves in a film of water do."""
    return _mean_along(_mean_along(image, reach, 0), max(1, reach // 6), 1)


def _mean_along(image: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Running mean over 2 * reach + 1 pixels; the edge repeats."""
    padding = [(0, 0)] * image.ndim
    padding[axis] = (reach + 1, reach)
    total = np.moveaxis(np.cumsum(np.pad(image, padding, mode="edge"), axis=axis, dtype=np.float32), axis, 0)
    size = image.shape[axis]
    first, last = (np.moveaxis(total[start : start + size], 0, axis) for start in (0, 2 * reach + 1))
    return (last - first) / np.float32(2 * reach + 1)


def _enlarge(small: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, C) to (factor * H, factor * W, C), linear between the blocks' middles."""
    for axis in (0, 1):
        size = small.shape[axis]
        place = np.clip((np.arange(size * factor, dtype=np.float32) + 0.5) / factor - 0.5, 0, size - 1)
        low = np.minimum(place.astype(np.int64), max(size - 2, 0))
        part = (place - low).reshape([-1 if k == axis else 1 for k in range(small.ndim)]).astype(np.float32)
        small = small.take(low, axis=axis) * (1 - part) + small.take(np.minimum(low + 1, size - 1), axis=axis) * part
    return small
