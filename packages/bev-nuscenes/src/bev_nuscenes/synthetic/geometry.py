"""All polygons of a scene in one set of arrays, and where they are at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .layout import Scene
from .mesh import Mesh, join_meshes


@dataclass(frozen=True)
class FaceSet:
    """F faces moved into one frame. Spare corners repeat the last corner."""

    corners: np.ndarray  # (F, MAX_CORNERS, 3) metres
    normals: np.ndarray  # (F, 3) unit, outward
    owners: np.ndarray  # (F,) object of each face: actors first, then props
    faces: np.ndarray  # (F,) row of each face in `SceneGeometry.mesh`
    rotations: np.ndarray  # (N, 3, 3) object frame to this frame, for every object
    translations: np.ndarray  # (N, 3) metres

    def __len__(self) -> int:
        return len(self.corners)

    def select(self, chosen: np.ndarray) -> FaceSet:
        """Only the faces that `chosen` (F,) marks or lists."""
        return replace(
            self,
            corners=self.corners[chosen],
            normals=self.normals[chosen],
            owners=self.owners[chosen],
            faces=self.faces[chosen],
        )


class SceneGeometry:
    """The meshes of all objects of a scene: `num_actors` actors, then its props."""

    def __init__(self, scene: Scene) -> None:
        meshes = [actor.mesh for actor in scene.actors] + [prop.mesh for prop in scene.props]
        self.scene = scene
        self.num_actors = len(scene.actors)
        self.num_objects = len(meshes)
        self.mesh: Mesh = join_meshes(meshes)
        self.owners = np.repeat(np.arange(len(meshes)), [len(mesh) for mesh in meshes])
        last = np.cumsum([len(mesh) for mesh in meshes])[self.num_actors :]
        self.signals = [  # first of the three lamps, and when which of them is lit
            (int(end) - 3, prop.signal) for end, prop in zip(last, scene.props, strict=True) if prop.signal
        ]
        self.radii = np.array([np.linalg.norm(mesh.corners, axis=-1).max() for mesh in meshes])

    def poses(self, time: float) -> np.ndarray:
        """(N, 3) global x, y and yaw of every object, `time` seconds after the first key frame."""
        actors = [actor.path.pose(self.scene.road, time) for actor in self.scene.actors]
        props = [(prop.x, prop.y, prop.yaw) for prop in self.scene.props]
        return np.array([*actors, *props], dtype=np.float64).reshape(-1, 3)

    def faces_in(self, global_to_frame: np.ndarray, time: float, keep: np.ndarray | None = None) -> FaceSet:
        """Faces of the objects marked in `keep` (N,) (all by default) in the frame of a (4, 4) transform."""
        poses = self.poses(time)
        cos, sin, zero, one = np.cos(poses[:, 2]), np.sin(poses[:, 2]), np.zeros(len(poses)), np.ones(len(poses))
        turn = np.stack(
            [np.stack([cos, -sin, zero], 1), np.stack([sin, cos, zero], 1), np.stack([zero, zero, one], 1)], 1
        )
        rotations = np.einsum("ij,njk->nik", global_to_frame[:3, :3], turn)
        places = np.insert(poses[:, :2], 2, 0.0, axis=1)
        translations = np.einsum("ij,nj->ni", global_to_frame[:3, :3], places) + global_to_frame[:3, 3]
        chosen = np.arange(len(self.owners)) if keep is None else np.flatnonzero(keep[self.owners])
        owners = self.owners[chosen]
        corners = np.einsum("fij,fvj->fvi", rotations[owners], self.mesh.corners[chosen])
        corners += translations[owners][:, None]
        normals = np.einsum("fij,fj->fi", rotations[owners], self.mesh.normals[chosen])
        return FaceSet(corners, normals, owners, chosen, rotations, translations)
