"""From visible faces to colours: textured faces, the ground with its markings and shadows, the sky, haze."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from . import road as cross_section
from .geometry import FaceSet
from .lamps import WINDOW_LIGHT, LampLight, is_window, window_is_lit
from .mesh import Mesh
from .raster import Visibility, pixel_plane
from .road import BAY_LENGTH, Part, Road
from .textures import LEVELS, LIGHT_UNIT, TILE, Atlas, Texture, make_atlas

ROWS_PER_CHUNK = 48  # 48 x 1600 pixels of float32 stay in the second-level cache
HAZE_LENGTH = 420.0  # metres after which 1/e of an object's own colour is left
SHADOW = 0.5  # brightness of the ground in an object's shadow
WET_DARKENING = 0.5  # part of the light that wholly wet ground swallows
LAMPLIGHT_ON_WALLS = 0.8  # part of the light before a wall that it gets at its foot
GROUND_PERIOD = 4.0  # metres per repetition of the ground's texture
_SHIFT = 512.0  # whole repeats added to texture coordinates, which so stay positive
_Channels = Iterator[np.ndarray]  # red, green, blue in [0, 255], float32, one value per pixel
_MIP_LOG = int(np.log2(TILE))

_CELL = 0.05  # metres per entry of the ground's cross-section table
_REACH = 40.0  # |d| the table ends at
_PLAIN, _DASH, _ZEBRA, _BAY, _DASH_BAY, _FAR, _BARE, _STOP_RIGHT, _STOP_LEFT = range(9)  # cross-sections along s
_VARIANTS = 9
_BLURS = 6


@dataclass(frozen=True)
class Lighting:
    """Sun and sky of a scene; colours are red, green, blue in [0, 1]."""

    to_sun: np.ndarray  # (3,) unit, global frame
    sun: np.ndarray  # (3,)
    ambient: np.ndarray  # (3,)
    zenith: np.ndarray  # (3,)
    horizon: np.ndarray  # (3,)
    hills: np.ndarray  # (360,) sine of the elevation of the skyline by degree of azimuth
    cloudiness: float
    cloud_color: tuple[float, float, float] = (247.0, 247.0, 247.0)  # red, green, blue in [0, 255]
    hill_shade: float = 0.72  # part of the horizon's colour that the hills before it have
    hill_tint: tuple[float, float, float] = (-0.06, -0.03, -0.09)  # added to it
    haze_length: float = HAZE_LENGTH
    shadow: float = SHADOW
    wetness: float = 0.0  # 0 dry … 1 as much of the ground a mirror as can be
    lamps: float = 0.0  # how bright lamps are beside daylight; 0: none is lit


@dataclass(frozen=True)
class GroundTable:
    """Colour of the ground by blur, variant along s and lateral position; `texture` is the tile by position."""

    color: np.ndarray  # (3, _BLURS * variants * cells) float32 in [0, 255]
    texture: np.ndarray  # (cells,) int32
    cells: int


def make_lighting(rng: np.random.Generator) -> Lighting:
    """A daytime sky: the sun 30 to 65 degrees high, more or less cloud."""
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(30.0, 65.0))
    to_sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    clouds = rng.uniform(0.1, 0.9)
    warmth = rng.uniform(0.0, 0.08)
    exposure = rng.uniform(0.92, 1.06)
    sun = exposure * (0.68 - 0.25 * clouds) * np.array([1.0, 1.0 - 0.5 * warmth, 1.0 - 1.5 * warmth])
    ambient = exposure * (0.50 + 0.12 * clouds) * np.array([0.97, 1.0, 1.04])
    zenith = (1 - clouds) * np.array([0.28, 0.48, 0.80]) + clouds * np.array([0.62, 0.68, 0.76])
    horizon = np.array([0.80, 0.85, 0.90])
    angle = np.radians(np.arange(360))
    waves = sum(rng.uniform(0.3, 1.0) * np.sin(k * angle + rng.uniform(0, 6.28)) / k for k in (2, 3, 5, 9, 23, 41))
    return Lighting(to_sun, sun, ambient, zenith, horizon, 0.035 + 0.02 * waves, clouds)


def make_ground_table(rng: np.random.Generator) -> GroundTable:
    """Cross-section of the road with its markings, sidewalk, verge and the land behind."""
    d = (np.arange(int(2 * _REACH / _CELL)) + 0.5) * _CELL - _REACH
    distance = np.abs(d)
    asphalt = np.array([0.36, 0.36, 0.37]) * rng.uniform(0.85, 1.15)
    lane = np.array([0.45, 0.24, 0.20]) if rng.random() < 0.4 else asphalt * 1.05
    sidewalk = np.array([0.64, 0.62, 0.58]) * rng.uniform(0.9, 1.08)
    grass = np.array([0.27, 0.38, 0.16]) * rng.uniform(0.85, 1.2)
    land = grass if rng.random() < 0.6 else np.array([0.55, 0.53, 0.49])
    edges = [cross_section.LANE_EDGE, cross_section.BIKE_LANE_EDGE, cross_section.PARKING_EDGE]
    edges += [cross_section.PARKING_EDGE + 0.25, cross_section.SIDEWALK_EDGE, cross_section.VERGE_EDGE]
    paints = np.stack([asphalt, lane, asphalt * 0.92, np.array([0.72, 0.71, 0.69]), sidewalk, grass, land])
    zone = np.searchsorted(edges, distance)
    variants = _paint_variants(paints[zone], d)
    blurred = [variants]
    for level in range(1, _BLURS):
        blurred.append(_box_blur(variants, 2**level))
    texture = np.array(
        [Texture.ASPHALT] * 3 + [Texture.PLAIN, Texture.PAVING, Texture.GRASS, Texture.GRASS], dtype=np.int32
    )
    if land is not grass:
        texture[-1] = Texture.PAVING
    color = 255.0 * np.stack(blurred).astype(np.float32)  # blur, variant, cell, channel
    return GroundTable(np.ascontiguousarray(color.reshape(-1, 3).T), texture[zone], len(d))


def _paint_variants(ground: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(variants, cells, 3) ground with lane lines, dashes, zebra stripes and bay marks."""
    white, yellow = np.array([0.88, 0.88, 0.86]), np.array([0.85, 0.68, 0.18])
    distance = np.abs(d)
    plain = ground.copy()
    plain[np.abs(distance - 0.16) < 0.07] = yellow
    plain[np.abs(distance - cross_section.LANE_EDGE) < 0.08] = white
    dash = plain.copy()
    dash[(np.abs(distance - 3.5) < 0.08) | (np.abs(distance - cross_section.BIKE_LANE_EDGE) < 0.06)] = white
    zebra = ground.copy()
    zebra[(distance < cross_section.BIKE_LANE_EDGE) & ((d + 50.0) % 1.1 < 0.55)] = white
    in_bay = (distance > cross_section.BIKE_LANE_EDGE) & (distance < cross_section.PARKING_EDGE)
    bay, dash_bay = plain.copy(), dash.copy()
    bay[in_bay] = white
    dash_bay[in_bay] = white
    bare, stop_right, stop_left = ground.copy(), plain.copy(), plain.copy()
    bare[distance < cross_section.PARKING_EDGE] = ground[len(ground) // 2]
    stop_right[(d < -0.3) & (distance < cross_section.LANE_EDGE)] = white
    stop_left[(d > 0.3) & (distance < cross_section.LANE_EDGE)] = white
    far = (2 * plain + dash) / 3
    return np.stack([plain, dash, zebra, bay, dash_bay, far, bare, stop_right, stop_left])


def _box_blur(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over the second axis."""
    padded = np.pad(values, ((0, 0), (window // 2 + 1, window - window // 2), (0, 0)), mode="edge")
    total = np.cumsum(padded, axis=1)
    cells = values.shape[1]
    return (total[:, window : window + cells] - total[:, :cells]) / window


class FacePaint:
    """Per-face shading constants of one image, in columns so that a pixel looks each up with one gather."""

    def __init__(
        self,
        faces: FaceSet,
        mesh: Mesh,
        frame_to_global: np.ndarray,
        intrinsics: np.ndarray,
        lighting: Lighting,
        planes: np.ndarray,
        lamps: LampLight | None = None,
    ) -> None:
        rotation, rows = faces.rotations[faces.owners], faces.faces
        u_axes = np.einsum("fij,fj->fi", rotation, mesh.u_axes[rows])
        v_axes = np.einsum("fij,fj->fi", rotation, mesh.v_axes[rows])
        origins = np.einsum("fij,fj->fi", rotation, mesh.origins[rows]) + faces.translations[faces.owners]
        # u * inverse_depth is linear in the pixel; whole repeats are added so that u stays positive.
        self.u, self.v = (
            (
                pixel_plane(axes, intrinsics) + (_SHIFT - np.einsum("fi,fi->f", origins, axes))[:, None] * planes
            ).T.astype(np.float32)
            for axes in (u_axes, v_axes)
        )
        middle = faces.corners.mean(axis=1)
        slant = np.abs(np.einsum("fi,fi->f", middle, faces.normals)) / np.linalg.norm(middle, axis=1)
        repeats = np.maximum(np.linalg.norm(u_axes, axis=1), np.linalg.norm(v_axes, axis=1))
        self.texels = (TILE * repeats / intrinsics[0, 0] / np.sqrt(np.clip(slant, 0.05, 1.0))).astype(np.float32)
        self.tile = mesh.textures[rows]
        light = _light(np.einsum("ij,fj->fi", frame_to_global[:3, :3], faces.normals), mesh.two_sided[rows], lighting)
        if lamps is not None:
            light = light + _lamplight(lamps, faces, middle, frame_to_global)
        glow = mesh.glow[rows][:, None]
        lit = 255.0 / LIGHT_UNIT * mesh.colors[rows] * (light * (1.0 - glow) + glow)[:, None]
        self.first = np.ascontiguousarray(lit[:, 0].T.astype(np.float32))
        self.step = np.ascontiguousarray(((lit[:, 1] - lit[:, 0]) / 255.0).T.astype(np.float32))


def _light(normals: np.ndarray, two_sided: np.ndarray, lighting: Lighting) -> np.ndarray:
    """(F, 3) light on faces with these global normals."""
    toward = np.einsum("fi,i->f", normals, lighting.to_sun)
    direct = np.where(two_sided, np.abs(toward), np.maximum(toward, 0.0))
    sky_part = 0.78 + 0.22 * np.where(two_sided, np.abs(normals[:, 2]), normals[:, 2])
    return sky_part[:, None] * lighting.ambient + direct[:, None] * lighting.sun


def _lamplight(lamps: LampLight, faces: FaceSet, middle: np.ndarray, frame_to_global: np.ndarray) -> np.ndarray:
    """(F, 3) light of lamps on faces: that on the ground a step before them, less higher up."""
    before = np.einsum("ij,fj->fi", frame_to_global[:3, :3], middle + 0.8 * faces.normals) + frame_to_global[:3, 3]
    reach = LAMPLIGHT_ON_WALLS * np.exp(-np.maximum(before[:, 2], 0.0) / 7.0)
    return lamps.at(before[:, 0], before[:, 1]).T * reach[:, None]


@dataclass(frozen=True)
class View:
    """What the shading of one image needs besides the faces."""

    intrinsics: np.ndarray  # (3, 3) pixels
    camera_to_global: np.ndarray  # (4, 4)
    size: tuple[int, int]  # width, height
    road: Road
    lighting: Lighting
    ground: GroundTable
    lamps: LampLight | None = None  # None: no lamp is lit


def shade(view: View, visible: Visibility, paint: FacePaint, shadow: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 image; `shadow` (H*W,) bool marks ground pixels in shadow."""
    width, height = view.size
    painter = _Painter(view, paint)
    image = np.empty((height * width, 3), dtype=np.uint8)
    for top in range(0, height, ROWS_PER_CHUNK):
        rows = np.arange(top, min(top + ROWS_PER_CHUNK, height))
        part = slice(top * width, (rows[-1] + 1) * width)
        image[part] = painter.paint(rows, visible.face[part], visible.inverse_depth[part], shadow[part])
    image = image.reshape(height, width, 3)
    _soften_edges(image, visible.face.reshape(height, width))
    return image


def ground_inverse_depth(camera_to_global: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(3,) inverse depth of the plane z = 0 as a linear function of the pixel; negative above the horizon."""
    up = camera_to_global[2, :3]
    return pixel_plane(up / -camera_to_global[2, 3], intrinsics)


class _Painter:
    """Shades runs of image rows of one view."""

    def __init__(self, view: View, paint: FacePaint) -> None:
        self.view, self.face_paint, self.atlas = view, paint, make_atlas()
        self.ground_plane = ground_inverse_depth(view.camera_to_global, view.intrinsics)
        self.ray = np.stack([pixel_plane(axis, view.intrinsics) for axis in view.camera_to_global[:3, :3]])
        self.haze = (255.0 * view.lighting.horizon).astype(np.float32)
        focal, eye = view.intrinsics[0, 0], view.camera_to_global[:3, 3]
        forward = view.camera_to_global[:3, 2]
        s, _ = view.road.to_road(eye[0], eye[1])
        angle = np.arctan2(forward[1], forward[0]) - (view.road.heading + view.road.curvature * s)
        cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
        # Size of a pixel on the ground: depth / focal across the view, depth**2 / (focal * height) along it.
        self.lateral = (float(cos / focal), float(sin / (focal * eye[2])))  # a branch swaps it with the next
        self.longitudinal = (float(sin / focal), float(cos / (focal * eye[2])))
        self.texels = float(TILE / GROUND_PERIOD / np.sqrt(eye[2]) / focal)  # times depth**1.5: texels per pixel

    def paint(self, rows: np.ndarray, face: np.ndarray, inverse_depth: np.ndarray, shadow: np.ndarray) -> np.ndarray:
        """(len(rows) * width, 3) uint8."""
        width = self.view.size[0]
        v, u = (
            a.ravel() for a in np.meshgrid(rows.astype(np.float32), np.arange(width, dtype=np.float32), indexing="ij")
        )
        ground = _plane(self.ground_plane, u, v)
        on_face = inverse_depth > np.maximum(ground, 0.0)
        on_ground = ~on_face & (ground > 4e-4)
        in_sky = ~(on_face | on_ground)
        image = np.empty((len(u), 3), dtype=np.uint8)
        for pixels, colors in (
            (on_face, lambda at: self._faces(u[at], v[at], inverse_depth[at], face[at])),
            (on_ground, lambda at: self._ground(u[at], v[at], ground[at], shadow[at])),
            (in_sky, lambda at: self._sky(u[at], v[at])),
        ):
            place = np.flatnonzero(pixels)
            for channel, values in enumerate(colors(place)):
                image[place, channel] = np.minimum(values, 255.0).astype(np.uint8)
        return image

    def _faces(self, u: np.ndarray, v: np.ndarray, inverse: np.ndarray, face: np.ndarray) -> _Channels:
        paint = self.face_paint
        depth = 1.0 / inverse
        repeat_u, repeat_v = (_plane([column[face] for column in axis], u, v) * depth for axis in (paint.u, paint.v))
        mix, light = _look_up(self.atlas, paint.tile[face], repeat_u, repeat_v, paint.texels[face] * depth)
        colors = ((first[face] + step[face] * mix) * light for first, step in zip(paint.first, paint.step, strict=True))
        if self.view.lighting.lamps:
            colors = self._light_windows(colors, face, repeat_u, repeat_v, mix)
        return self._add_haze(colors, depth)

    def _light_windows(
        self, colors: _Channels, face: np.ndarray, repeat_u: np.ndarray, repeat_v: np.ndarray, mix: np.ndarray
    ) -> _Channels:
        tile = self.face_paint.tile[face]
        place = np.flatnonzero(is_window(tile) & (mix > 0.0))
        place = place[window_is_lit(face[place], tile[place], repeat_u[place], repeat_v[place])]
        for channel, lamp in zip(colors, WINDOW_LIGHT, strict=True):
            channel[place] += mix[place] * np.float32(0.55 * lamp)
            yield channel

    def _ground(self, u: np.ndarray, v: np.ndarray, inverse: np.ndarray, shadow: np.ndarray) -> _Channels:
        view, table = self.view, self.view.ground
        depth = 1.0 / inverse
        x, y = (_plane(self.ray[axis], u, v) * depth + np.float32(view.camera_to_global[axis, 3]) for axis in (0, 1))
        s, d, part = view.road.locate(x, y)
        cell = np.clip(((d + _REACH) * (1.0 / _CELL)).astype(np.int32), 0, table.cells - 1)
        across, along = (depth * (near + far * depth) for near, far in (self.lateral, self.longitudinal))
        if part is not None:
            across, along = np.where(part == Part.BRANCH, (along, across), (across, along))
        blur = np.clip(_floor_log2(across * (1.4 / _CELL)), 0, _BLURS - 1)
        variant = self._variant(s, along)
        if part is not None:
            variant = self._at_junction(variant, s, d, part)
        entry = (blur * _VARIANTS + variant) * table.cells + cell
        footprint = depth * np.sqrt(depth) * self.texels
        turns_s, turns_d = (place * (1.0 / GROUND_PERIOD) + _SHIFT for place in (s, d))
        _, light = _look_up(self.atlas, table.texture[cell], turns_s, turns_d, footprint)
        light *= np.where(shadow, np.float32(view.lighting.shadow), np.float32(1.0))
        lit = (view.lighting.ambient + view.lighting.sun * view.lighting.to_sun[2]) / LIGHT_UNIT
        lit = lit * (1.0 - WET_DARKENING * view.lighting.wetness)
        lamps = [0.0] * 3 if view.lamps is None else view.lamps.at(x, y) / np.float32(LIGHT_UNIT)
        colors = (
            channel[entry] * (light * (float(day) + lamp))
            for channel, day, lamp in zip(table.color, lit, lamps, strict=True)
        )
        return self._add_haze(colors, depth)

    def _variant(self, s: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Which cross-section holds at s; far away, where dashes are finer than a pixel, their mean does."""
        dash, bay = (_phase(s, period) < part for period, part in ((9.0, 1 / 3), (BAY_LENGTH, 0.12 / BAY_LENGTH)))
        variant = dash + np.int32(_BAY) * bay  # _DASH_BAY is _DASH + _BAY
        for crossing in self.view.road.crossings:
            variant = np.where(np.abs(s - crossing) < 2.0, _ZEBRA, variant)
        return np.where((footprint > 2.0) & (variant != _ZEBRA), _FAR, variant).astype(np.int32)

    def _at_junction(self, variant: np.ndarray, s: np.ndarray, d: np.ndarray, part: np.ndarray) -> np.ndarray:
        """The variants where another road meets this one: no marks on the junction, stop lines before it."""
        branch = self.view.road.branch
        variant = np.where((part == Part.BRANCH) & (variant == _ZEBRA), _PLAIN, variant)
        from_junction = np.where(part == Part.MAIN, s - branch.junction, s)
        for crossing in branch.road.crossings:
            variant = np.where((part == Part.BRANCH) & (np.abs(s - crossing) < 2.0), _ZEBRA, variant)
        line = np.abs(np.abs(from_junction) - cross_section.STOP_LINE) < 0.25
        variant = np.where(line, np.where(from_junction < 0, _STOP_RIGHT, _STOP_LEFT), variant)
        return np.where(part == Part.JUNCTION, _BARE, variant).astype(np.int32)

    def _sky(self, u: np.ndarray, v: np.ndarray) -> _Channels:
        lighting = self.view.lighting
        x, y, z = (_plane(axis, u, v) for axis in self.ray)
        rise = z / np.sqrt(x * x + y * y + z * z)
        blend = np.clip(rise * 1.8, 0.0, 1.0)
        scale = 0.16 / (np.maximum(z, 0.0) + 0.12)
        tile, texels = np.full(len(u), Texture.CLOUDS, dtype=np.int32), np.ones(len(u), dtype=np.float32)
        cloud, _ = _look_up(self.atlas, tile, x * scale + _SHIFT, y * scale + _SHIFT, texels)
        cloud = np.clip(cloud * (1 / 255) + (0.6 * lighting.cloudiness - 0.75), 0.0, 1.0) * blend
        azimuth = (np.arctan2(y, x) * (180 / np.pi)).astype(np.int32) % 360
        hill = rise < lighting.hills.astype(np.float32)[azimuth]
        parts = zip(lighting.horizon, lighting.zenith, lighting.hill_tint, lighting.cloud_color, strict=True)
        for horizon, zenith, tint, white in parts:
            clear = 255 * float(horizon) + 255 * float(zenith - horizon) * blend
            hills = np.float32(255 * (lighting.hill_shade * horizon + tint))
            yield np.where(hill, hills, clear + (white - clear) * cloud)

    def _add_haze(self, colors: _Channels, depth: np.ndarray) -> _Channels:
        kept = np.exp(depth * (-1.0 / self.view.lighting.haze_length))
        lost = 1.0 - kept
        for channel, haze in zip(colors, self.haze, strict=True):
            yield channel * kept + haze * lost


def _phase(values: np.ndarray, period: float) -> np.ndarray:
    """Place within a period, in [0, 1)."""
    turns = values * (1.0 / period)
    return turns - np.floor(turns)


def _plane(coefficients: Iterable[np.ndarray], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """a*u + b*v + c in float32, where a, b, c are single values or arrays as long as u."""
    a, b, c = (k.astype(np.float32, copy=False) for k in coefficients)
    return a * u + b * v + c


def _look_up(
    atlas: Atlas, tile: np.ndarray, u: np.ndarray, v: np.ndarray, texels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mix in [0, 255] and light (neutral LIGHT_UNIT) of tiles at (u, v) repeats where a pixel spans `texels` texels."""
    level = np.clip(_floor_log2(texels * np.float32(1.4)), 0, LEVELS - 1)
    bits = _MIP_LOG - level
    edge = np.left_shift(np.int32(1), bits)
    column = (u * edge).astype(np.int32) & (edge - 1)
    row = (v * edge).astype(np.int32) & (edge - 1)
    place = atlas.start[level] + np.left_shift(np.left_shift(tile, bits) + row, bits) + column
    return atlas.mix[place].astype(np.float32), atlas.light[place].astype(np.float32)


def _floor_log2(values: np.ndarray) -> np.ndarray:
    """Floor of the base-2 logarithm of positive float32 values, int32, read from their exponents."""
    return (values.astype(np.float32, copy=False).view(np.int32) >> 23) - 127


def _soften_edges(image: np.ndarray, face: np.ndarray) -> None:
    """Antialias in place: where neighbouring pixels show different faces, blend each with its four neighbours."""
    height, width = face.shape
    differs = np.zeros((height, width), dtype=bool)
    across, down = face[:, 1:] != face[:, :-1], face[1:] != face[:-1]
    differs[:, 1:] |= across
    differs[:, :-1] |= across
    differs[1:] |= down
    differs[:-1] |= down
    differs[[0, -1]] = False
    differs[:, [0, -1]] = False
    place = np.flatnonzero(differs)
    flat = image.reshape(-1, 3)
    around = sum(flat[place + step].astype(np.uint16) for step in (-1, 1, -width, width))
    flat[place] = ((4 * flat[place].astype(np.uint16) + around + 4) // 8).astype(np.uint8)
