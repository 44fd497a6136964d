"""The folder that tutorials run in."""

from __future__ import annotations

from pathlib import Path

import pytest

from bev_ops._build import cache_root

from .pages import run_line

ROOT = Path(__file__).resolve().parents[2]
# The first command of every tutorial. It is run once; for the pages its result is already there.
WORLD = (
    "python tools/make_synthetic_nuscenes.py data/synthetic --scenes 2 --samples-per-scene 2 --density 0.3 --sweeps 0"
)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the world of the tutorials and room for a cache."""
    pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
    folder = tmp_path_factory.mktemp("tutorials")
    (folder / "tools").symlink_to(ROOT / "tools")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_line(f"{WORLD} --workers 1") == 0  # one process renders the same bytes
    return folder


@pytest.fixture
def folder(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder as the current one, with the repository's tools and the shared world; no cache of the user's."""
    monkeypatch.setenv("BEV_OPS_CACHE", str(cache_root()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
    for name in ("tools", "data"):
        (tmp_path / name).symlink_to(shared / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
