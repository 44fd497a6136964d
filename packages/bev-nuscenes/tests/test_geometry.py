"""Quaternions and poses against pyquaternion and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from bev_nuscenes.geometry import (
    invert_pose,
    matrix_to_quaternion,
    pose_matrix,
    quaternion_multiply,
    quaternion_to_matrix,
    quaternion_yaw,
    yaw_to_quaternion,
)

QUATERNIONS = np.random.default_rng(0).standard_normal((50, 4))


def test_products_and_matrices_equal_pyquaternion():
    pyquaternion = pytest.importorskip("pyquaternion", reason="comes with bev-nuscenes[devkit]")
    for a, b in zip(QUATERNIONS[:25], QUATERNIONS[25:], strict=True):
        one, other = pyquaternion.Quaternion(a), pyquaternion.Quaternion(b)
        np.testing.assert_allclose(quaternion_multiply(a, b), (one * other).elements, atol=1e-12)
        np.testing.assert_allclose(quaternion_to_matrix(a), one.rotation_matrix, atol=1e-12)


def test_matrix_and_quaternion_are_inverse():
    half_turns = np.eye(4)[1:]
    for quaternion in (*QUATERNIONS, *half_turns):
        found = matrix_to_quaternion(quaternion_to_matrix(quaternion))
        unit = quaternion / np.linalg.norm(quaternion)
        assert abs(found @ unit) == pytest.approx(1.0, abs=1e-12)
        assert found[0] >= 0


def test_yaw_is_the_heading_of_the_x_axis():
    unit = QUATERNIONS / np.linalg.norm(QUATERNIONS, axis=1, keepdims=True)
    heading = quaternion_to_matrix(unit)[:, :2, 0]
    np.testing.assert_allclose(quaternion_yaw(unit), np.arctan2(heading[:, 1], heading[:, 0]), atol=1e-12)
    angles = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(quaternion_yaw(yaw_to_quaternion(angles)), angles, atol=1e-12)


def test_a_pose_and_its_inverse_cancel():
    poses = pose_matrix(QUATERNIONS, QUATERNIONS[:, :3] * 100)
    np.testing.assert_allclose(poses @ invert_pose(poses), np.broadcast_to(np.eye(4), poses.shape), atol=1e-10)
