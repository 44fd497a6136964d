"""A z-buffer rasteriser for convex polygons, in numpy.

Every polygon is cut into horizontal spans by its edge planes through the camera, which needs no clipping at the near
plane; spans become fragments; the nearest fragment of a pixel wins by its inverse depth. Nothing is shaded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NEAR = 0.05  # metres; polygons wholly nearer are dropped
FRAGMENTS_PER_BATCH = 400_000  # keeps the arrays of a batch inside the cache
_QUAD_EDGES = [0, 1, 2, 7]  # the edges that are not of length zero where the last corner repeats
_ALL_EDGES = list(range(8))


@dataclass(frozen=True)
class Spans:
    """R runs of pixels, each `first` … `last` inclusive in one image row of one face."""

    face: np.ndarray  # (R,) int64
    row: np.ndarray  # (R,) int64
    first: np.ndarray  # (R,) int64
    last: np.ndarray  # (R,) int64

    def select(self, chosen: np.ndarray) -> Spans:
        """Only the runs that `chosen` (R,) marks."""
        return Spans(self.face[chosen], self.row[chosen], self.first[chosen], self.last[chosen])


@dataclass(frozen=True)
class Visibility:
    """What every pixel shows: `face` (H*W,) int32, -1 for none, and `inverse_depth` (H*W,) float32 in 1/metre."""

    face: np.ndarray
    inverse_depth: np.ndarray


def facing(corners: np.ndarray, normals: np.ndarray, two_sided: np.ndarray) -> np.ndarray:
    """(F,) whether faces in a camera frame can be seen at all: turned to the camera and not wholly behind it."""
    toward = np.einsum("fi,fi->f", corners[:, 0], normals)
    return ((toward < -1e-6) | (two_sided & (np.abs(toward) > 1e-6))) & (corners[..., 2].max(axis=1) > NEAR)


def pixel_plane(vectors: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Turn vectors (..., 3) of a camera frame into (a, b, c) with a*u + b*v + c = vector · ray of pixel (u, v)."""
    return np.einsum("...i,ij->...j", vectors, np.linalg.inv(intrinsics))


def inverse_depth_planes(corners: np.ndarray, normals: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(F, 3) inverse depth of every face's plane as a linear function of the pixel."""
    distance = np.einsum("fi,fi->f", corners[:, 0], normals)
    return pixel_plane(normals / distance[:, None], intrinsics)


def make_spans(corners: np.ndarray, normals: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> Spans:
    """Spans of faces (F, 8, 3) with `normals` (F, 3) in a camera frame, in an image of `size` (width, height)."""
    quads = (corners[:, 3:] == corners[:, 3:4]).all(axis=(1, 2))
    parts = [
        _spans_of(np.flatnonzero(group), edges, corners, normals, intrinsics, size)
        for group, edges in ((quads, _QUAD_EDGES), (~quads, _ALL_EDGES))
    ]
    return Spans(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def resolve(spans: Spans, planes: np.ndarray, size: tuple[int, int]) -> Visibility:
    """Nearest face of every pixel; `planes` (F, 3) are the faces' inverse depths."""
    width, height = size
    keys = np.zeros(width * height, dtype=np.uint64)
    slope = planes[:, 0].astype(np.float32)[spans.face]
    base = (planes[:, 1][spans.face] * spans.row + planes[:, 2][spans.face]).astype(np.float32)
    for batch, run, column in _fragments(spans):
        key = np.empty((len(run), 2), dtype=np.uint32)  # little end first: face below, inverse depth above
        key[:, 0] = (spans.face[batch] + 1).astype(np.uint32)[run]
        inverse_depth = slope[batch][run] * column.astype(np.float32) + base[batch][run]
        key[:, 1] = np.maximum(inverse_depth, 0.0).view(np.uint32)
        pixel = (spans.row[batch] * width)[run] + column
        np.maximum.at(keys, pixel, key.view("<u8").ravel())
    halves = keys.view("<u4").reshape(-1, 2)
    return Visibility(halves[:, 0].astype(np.int32) - 1, halves[:, 1].copy().view(np.float32))


def coverage(spans: Spans, size: tuple[int, int]) -> np.ndarray:
    """(H*W,) bool, the pixels any span covers."""
    width, height = size
    change = np.zeros(width * height + 1, dtype=np.int16)
    start = spans.row * width
    np.add.at(change, start + spans.first, np.int16(1))
    np.add.at(change, start + spans.last + 1, np.int16(-1))
    return np.cumsum(change[:-1], dtype=np.int16) > 0


def count_footprints(spans: Spans, owners: np.ndarray, num_objects: int) -> np.ndarray:
    """(num_objects,) pixels each object would cover with nothing before it; `owners` (F,) is the object of a face."""
    owner = owners[spans.face]
    left, top = (np.full(num_objects, np.iinfo(np.int64).max) for _ in range(2))
    right, bottom = np.full(num_objects, -1), np.full(num_objects, -1)
    np.minimum.at(left, owner, spans.first)
    np.maximum.at(right, owner, spans.last)
    np.minimum.at(top, owner, spans.row)
    np.maximum.at(bottom, owner, spans.row)
    seen = right >= 0
    box_width = np.where(seen, right - left + 2, 0)  # one spare column ends a run inside its row
    area = np.where(seen, box_width * (bottom - top + 1), 0)
    start = np.cumsum(area) - area
    change = np.zeros(area.sum() + 1, dtype=np.int16)
    row_start = start[owner] + (spans.row - top[owner]) * box_width[owner] - left[owner]
    np.add.at(change, row_start + spans.first, np.int16(1))
    np.add.at(change, row_start + spans.last + 1, np.int16(-1))
    counts = np.zeros(num_objects, dtype=np.int64)
    covered = np.cumsum(change[:-1], dtype=np.int16) > 0
    counts[seen] = np.add.reduceat(covered, start[seen], dtype=np.int64) if seen.any() else 0
    return counts


def _spans_of(
    group: np.ndarray,
    edges: list[int],
    corners: np.ndarray,
    normals: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Face, row, first and last column of the spans of some faces."""
    width, height = size
    points = corners[group]
    top, bottom = _row_range(points, intrinsics, height)
    count = np.maximum(bottom - top + 1, 0)
    local = np.repeat(np.arange(len(group)), count)
    row = np.arange(len(local)) - np.repeat(np.cumsum(count) - count, count) + top[local]
    toward = np.einsum("fi,fi->f", points[:, 0], normals[group])
    following = points[:, [(edge + 1) % 8 for edge in edges]]
    planes = pixel_plane(np.cross(points[:, edges], following), intrinsics) * np.sign(toward)[:, None, None]
    lower, upper = np.zeros(len(local)), np.full(len(local), width - 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        for edge in range(len(edges)):
            a, b, c = planes[:, edge].T
            offset = b[local] * row + c[local]
            slope = a[local]
            bound = -offset / slope
            lower = np.where(slope > 0, np.maximum(lower, bound), lower)
            upper = np.where(slope < 0, np.minimum(upper, bound), upper)
            upper = np.where((slope == 0) & (offset < 0), -1.0, upper)
    first, last = np.ceil(lower).astype(np.int64), np.floor(upper).astype(np.int64)
    filled = last >= first
    return group[local[filled]], row[filled], first[filled], last[filled]


def _row_range(points: np.ndarray, intrinsics: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last image row that faces (F, 8, 3) may touch; all rows for a face that reaches behind the camera."""
    depth = points[..., 2]
    ahead = depth.min(axis=1) > NEAR
    v = points[..., 1] / np.where(depth > NEAR, depth, 1.0) * intrinsics[1, 1] + intrinsics[1, 2]
    top = np.where(ahead, np.ceil(v.min(axis=1)), 0).clip(0, height)
    bottom = np.where(ahead, np.floor(v.max(axis=1)), height - 1).clip(-1, height - 1)
    return top.astype(np.int64), bottom.astype(np.int64)


def _fragments(spans: Spans) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Batches of fragments: a slice of the spans, each fragment's place in the slice, and its image column."""
    count = spans.last - spans.first + 1
    total = np.cumsum(count)
    begin = 0
    while begin < len(count):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + FRAGMENTS_PER_BATCH)))
        batch = slice(begin, end)
        run = np.repeat(np.arange(end - begin, dtype=np.int32), count[batch])
        before = total[batch] - count[batch] - done
        column = np.arange(len(run), dtype=np.int64) + (spans.first[batch] - before)[run]
        yield batch, run, column
        begin = end
