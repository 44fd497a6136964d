"""Where the reference values and the real key frames lie, for tests that need them."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the published systems' values; the test is skipped where it is absent."""
    return _folder(SHARED / "reference")


@pytest.fixture(scope="session")
def keyframes() -> Path:
    """The two real nuScenes key frames, in devkit layout; the test is skipped where they are absent."""
    return _folder(SHARED / "data" / "nuscenes-keyframes")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs {path.name} in the shared folder beside the repository, which is not there")
    return path
