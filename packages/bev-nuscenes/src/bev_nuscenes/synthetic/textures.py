"""Procedural textures: one atlas of small tileable tiles with mip levels, the same for every world.

A tile has two channels: `mix` blends a face between its two colours, `light` multiplies the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np

TILE = 128  # texels along one edge of a tile
LEVELS = 8  # mip levels: 128, 64, … 1 texels
LIGHT_UNIT = 128.0  # stored light value that leaves a colour unchanged


class Texture(IntEnum):
    """What a face looks like; the value is the tile's place in the atlas."""

    PLAIN = 0
    ASPHALT = 1
    GRASS = 2
    PAVING = 3
    FACADE = 4
    BANDS = 5
    BRICK = 6
    LEAVES = 7
    STRIPES = 8
    RIBS = 9
    GLASS = 10
    CLOTH = 11
    CLOUDS = 12
    TREADS = 13
    BARK = 14
    WINDOW_ROW = 15


@dataclass(frozen=True)
class Atlas:
    """All tiles of all levels in two flat arrays; texel (tile, v, u) of a level is at
    `start[level] + (tile * edge + v) * edge + u` with `edge = TILE >> level`."""

    mix: np.ndarray  # (texels,) uint8, 255 is the second colour
    light: np.ndarray  # (texels,) uint8, LIGHT_UNIT is neutral
    start: np.ndarray  # (LEVELS,) int32


@cache
def make_atlas() -> Atlas:
    """The atlas, always the same."""
    rng = np.random.default_rng(20_260)
    tiles = [_PAINTERS[texture](rng) for texture in Texture]
    mix = np.stack([np.broadcast_to(tile[0], (TILE, TILE)) for tile in tiles])
    light = np.stack([np.broadcast_to(tile[1], (TILE, TILE)) for tile in tiles])
    levels = [(mix, light)]
    while levels[-1][0].shape[-1] > 1:
        levels.append((_halve(levels[-1][0]), _halve(levels[-1][1])))
    sizes = [level[0].size for level in levels]
    return Atlas(
        np.concatenate([_to_bytes(level[0] * 255.0).ravel() for level in levels]),
        np.concatenate([_to_bytes(level[1] * LIGHT_UNIT).ravel() for level in levels]),
        np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32),
    )


def _halve(tiles: np.ndarray) -> np.ndarray:
    return (tiles[:, ::2, ::2] + tiles[:, 1::2, ::2] + tiles[:, ::2, 1::2] + tiles[:, 1::2, 1::2]) / 4.0


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, falloff: float) -> np.ndarray:
    """Tileable noise (TILE, TILE), zero mean, unit deviation; a larger falloff is smoother."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None]) * TILE
    spectrum = np.fft.fft2(rng.normal(size=(TILE, TILE))) / np.maximum(frequency, 1.0) ** falloff
    spectrum[0, 0] = 0.0
    values = np.fft.ifft2(spectrum).real
    return values / values.std()


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """v (up) and u (right) of the texel centres, both (TILE, TILE) in [0, 1)."""
    line = (np.arange(TILE) + 0.5) / TILE
    v, u = np.meshgrid(line, line, indexing="ij")
    return v, u


def _plain(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((TILE, TILE)), 1.0 + 0.025 * _noise(rng, 0.7)


def _asphalt(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((TILE, TILE)), 1.0 + 0.07 * _noise(rng, 0.0) + 0.06 * _noise(rng, 1.5)


def _grass(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((TILE, TILE)), 1.0 + 0.16 * _noise(rng, 0.3) + 0.14 * _noise(rng, 1.4)


def _paving(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    joint = ((v * 8) % 1 < 0.07) | ((u * 8) % 1 < 0.07)
    stones = rng.uniform(0.92, 1.08, (8, 8))[(v * 8).astype(int), (u * 8).astype(int)]
    return np.zeros((TILE, TILE)), np.where(joint, 0.72, stones) + 0.03 * _noise(rng, 0.2)


def _facade(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    column, row = (u * 2) % 1, (v * 2) % 1
    window = (column > 0.22) & (column < 0.78) & (row > 0.3) & (row < 0.82)
    frame = (column > 0.17) & (column < 0.83) & (row > 0.25) & (row < 0.87) & ~window
    panes = rng.uniform(0.75, 1.25, (2, 2))[(v * 2).astype(int), (u * 2).astype(int)]
    light = np.where(window, panes * (0.75 + 0.5 * row), np.where(frame, 1.18, 1.0))
    return window.astype(float), light + 0.025 * _noise(rng, 0.8)


def _bands(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    row = (v * 2) % 1
    glass = (row > 0.35) & (row < 0.8)
    mullion = glass & ((u * 4) % 1 < 0.07)
    light = np.where(mullion, 0.6, np.where(glass, 0.8 + 0.5 * row, 1.0))
    return glass.astype(float), light + 0.02 * _noise(rng, 0.8)


def _brick(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    row = (v * 16).astype(int)
    column = u * 6 + 0.5 * (row % 2)
    joint = ((v * 16) % 1 < 0.16) | (column % 1 < 0.06)
    tint = rng.uniform(0.82, 1.15, (16, 7))[row, column.astype(int)]
    return joint.astype(float), np.where(joint, 1.0, tint)


def _leaves(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    clumps = _noise(rng, 0.9)
    return np.clip(0.5 + 0.35 * clumps, 0, 1), np.clip(1.0 + 0.3 * _noise(rng, 0.5) + 0.2 * clumps, 0.2, 1.9)


def _stripes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    return ((u + v) % 1 < 0.5).astype(float), 1.0 + 0.02 * _noise(rng, 0.7)


def _ribs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    _, u = _grid()
    return np.zeros((TILE, TILE)), 1.0 + 0.12 * np.sign(np.sin(u * 2 * np.pi * 4)) + 0.03 * _noise(rng, 1.0)


def _glass(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    streak = ((u * 0.7 + v * 0.5) % 1 > 0.62) & ((u * 0.7 + v * 0.5) % 1 < 0.78)
    return np.clip(v**2 * 0.6 + 0.35 * streak, 0, 1), 1.0 + 0.03 * _noise(rng, 1.2)


def _cloth(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.clip(0.15 * _noise(rng, 1.0), 0, 1), 1.0 + 0.1 * _noise(rng, 1.2)


def _clouds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.clip(0.45 + 0.45 * _noise(rng, 1.7), 0, 1), np.ones((TILE, TILE))


def _treads(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    _, u = _grid()
    return np.zeros((TILE, TILE)), np.where((u * 6) % 1 < 0.4, 0.6, 1.25) + 0.05 * _noise(rng, 0.5)


def _bark(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    _, u = _grid()
    return np.zeros((TILE, TILE)), 1.0 + 0.18 * np.sin(u * 2 * np.pi * 9) + 0.15 * _noise(rng, 0.6)


def _window_row(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = _grid()
    pane = ((u * 4) % 1 > 0.08) & (v > 0.06) & (v < 0.94)
    return pane.astype(float), np.where(pane, 0.8 + 0.45 * v, 1.0) + 0.02 * _noise(rng, 0.8)


_PAINTERS = {
    Texture.PLAIN: _plain,
    Texture.ASPHALT: _asphalt,
    Texture.GRASS: _grass,
    Texture.PAVING: _paving,
    Texture.FACADE: _facade,
    Texture.BANDS: _bands,
    Texture.BRICK: _brick,
    Texture.LEAVES: _leaves,
    Texture.STRIPES: _stripes,
    Texture.RIBS: _ribs,
    Texture.GLASS: _glass,
    Texture.CLOTH: _cloth,
    Texture.CLOUDS: _clouds,
    Texture.TREADS: _treads,
    Texture.BARK: _bark,
    Texture.WINDOW_ROW: _window_row,
}
