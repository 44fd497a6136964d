"""One camera image of a scene: which faces it sees, its depth, its colours, and how much of every actor shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .calibration import IMAGE_SIZE, SensorCalibration, invert_transform
from .geometry import FaceSet, SceneGeometry
from .lamps import lamp_glow, make_lamp_light
from .mesh import Mesh
from .raster import count_footprints, coverage, facing, inverse_depth_planes, make_spans, resolve
from .shading import FacePaint, GroundTable, Lighting, View, ground_inverse_depth, shade

SIGHT = 130.0  # metres; objects farther away are not drawn


@dataclass(frozen=True)
class Picture:
    """A rendered camera image. Objects are actors first, then props; -1 is ground or sky."""

    image: np.ndarray  # (H, W, 3) uint8
    objects: np.ndarray  # (H, W) int32
    depth: np.ndarray  # (H, W) float32 metres along the optical axis; infinite in the sky
    footprints: np.ndarray  # (A,) pixels each actor would cover if nothing hid it, counted in every second row
    visible: np.ndarray  # (A,) pixels of each actor that show, counted in every second row


def take_picture(
    geometry: SceneGeometry,
    camera: SensorCalibration,
    ego_to_global: np.ndarray,
    time: float,
    lighting: Lighting,
    ground: GroundTable,
) -> Picture:
    """Render a camera at `time` (seconds after the first key frame) from an ego pose (4, 4)."""
    assert camera.intrinsics is not None, f"{camera.channel} is no camera"
    camera_to_global = ego_to_global @ camera.sensor_to_ego
    faces = _visible_faces(geometry, camera_to_global, time)
    spans = make_spans(faces.corners, faces.normals, camera.intrinsics, IMAGE_SIZE)
    planes = inverse_depth_planes(faces.corners, faces.normals, camera.intrinsics)
    seen = resolve(spans, planes, IMAGE_SIZE)
    lamps = make_lamp_light(geometry, ego_to_global, time, lighting.lamps) if lighting.lamps else None
    mesh = _painted_mesh(geometry, lighting, time)
    paint = FacePaint(faces, mesh, camera_to_global, camera.intrinsics, lighting, planes, lamps)
    view = View(camera.intrinsics, camera_to_global, IMAGE_SIZE, geometry.scene.road, lighting, ground, lamps)
    image = shade(view, seen, paint, _shadow(geometry, camera_to_global, camera.intrinsics, time, lighting))
    shape = IMAGE_SIZE[::-1]
    objects = np.append(faces.owners, -1).astype(np.int32)[seen.face].reshape(shape)
    actors = spans.select((spans.row % 2 == 0) & (faces.owners[spans.face] < geometry.num_actors))
    return Picture(
        image,
        objects,
        _depth(seen.inverse_depth.reshape(shape), camera_to_global, camera.intrinsics),
        count_footprints(actors, faces.owners, geometry.num_actors),
        np.bincount(objects[::2].ravel() + 1, minlength=geometry.num_actors + 1)[1 : geometry.num_actors + 1],
    )


def _visible_faces(geometry: SceneGeometry, camera_to_global: np.ndarray, time: float) -> FaceSet:
    """Faces of near objects that are turned to the camera, in its frame."""
    offset = geometry.poses(time)[:, :2] - camera_to_global[:2, 3]
    ahead = offset @ camera_to_global[:2, 2] > -geometry.radii
    faces = geometry.faces_in(invert_transform(camera_to_global), time, ahead & (np.hypot(*offset.T) < SIGHT))
    return faces.select(facing(faces.corners, faces.normals, geometry.mesh.two_sided[faces.faces]))


def _painted_mesh(geometry: SceneGeometry, lighting: Lighting, time: float) -> Mesh:
    """The scene's faces with the lamps that are lit at this time."""
    mesh = geometry.mesh
    if lighting.lamps:
        mesh = replace(mesh, glow=lamp_glow(geometry, mesh.glow))
    if len(geometry.signals):
        colors, glow = mesh.colors.copy(), mesh.glow.copy()
        for first, signal in geometry.signals:
            lit = first + signal.lamp(time)
            dark = np.setdiff1d(np.arange(first, first + 3), lit)
            colors[dark] *= 0.15
            glow[lit] = 1.0
        mesh = replace(mesh, colors=colors, glow=glow)
    return mesh


def _shadow(
    geometry: SceneGeometry, camera_to_global: np.ndarray, intrinsics: np.ndarray, time: float, lighting: Lighting
) -> np.ndarray:
    """(H*W,) bool: ground pixels that an object hides from the sun; buildings do not, or streets would be dark."""
    offset = geometry.poses(time)[:, :2] - camera_to_global[:2, 3]
    near = (
        (np.hypot(*offset.T) < 70.0)
        & (geometry.radii < 14.0)
        & (offset @ camera_to_global[:2, 2] > -geometry.radii - 10.0)
    )
    faces = geometry.faces_in(np.eye(4), time, near)
    lit = geometry.mesh.two_sided[faces.faces] | (faces.normals @ lighting.to_sun > 0.0)
    corners = faces.corners[lit]
    fallen = corners - corners[..., 2:] / lighting.to_sun[2] * lighting.to_sun
    in_camera = np.einsum("fvi,ji->fvj", fallen - camera_to_global[:3, 3], camera_to_global[:3, :3].T)
    up = np.broadcast_to(camera_to_global[2, :3], (len(in_camera), 3))
    flat = np.cross(fallen, np.roll(fallen, -1, axis=1)).sum(axis=1)[:, 2]
    outward = np.where(flat[:, None] < 0, -up, up)  # a shadow may be wound either way
    kept = (np.abs(flat) > 1e-6) & facing(in_camera, outward, np.ones(len(outward), dtype=bool))
    return coverage(make_spans(in_camera[kept], outward[kept], intrinsics, IMAGE_SIZE), IMAGE_SIZE)


def _depth(inverse_depth: np.ndarray, camera_to_global: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    a, b, c = ground_inverse_depth(camera_to_global, intrinsics)
    height, width = inverse_depth.shape
    ground = (a * np.arange(width)).astype(np.float32) + (b * np.arange(height) + c).astype(np.float32)[:, None]
    nearest = np.maximum(np.maximum(inverse_depth, ground, out=ground), 0.0, out=ground)
    with np.errstate(divide="ignore"):
        return np.divide(np.float32(1.0), nearest, out=nearest)
