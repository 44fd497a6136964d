"""The arrows between packages, and what every package must have."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each of our packages may import of ours; an app may import every package, and nothing imports an app.
ARROWS: dict[str, set[str]] = {
    "bev_ops": set(),
    "bev_backbones": set(),
    "bev_lss": {"bev_ops"},
    "bev_temporal": {"bev_ops", "bev_lss"},
    "bev_heads": {"bev_ops"},
    "bev_nuscenes": set(),
    "bev_zoo": {"bev_ops", "bev_backbones", "bev_lss", "bev_temporal", "bev_heads", "bev_nuscenes"},
    "bev_deploy": {"bev_ops", "bev_lss", "bev_temporal", "bev_heads", "bev_nuscenes", "bev_zoo"},
    "bev_doctor": {"bev_ops", "bev_nuscenes", "bev_zoo"},  # lives beside bev_zoo, and imports when it looks
}
APPS = ("bev_train", "bev_eval", "bev_vis", "bev_bench")
MEMBERS = {path.parent.name: path.parent for path in ROOT.glob("*/*/src/*/__init__.py")}


def imported_modules(source: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_every_member_is_known() -> None:
    assert set(MEMBERS) == set(ARROWS) | set(APPS)


@pytest.mark.parametrize("member", sorted(MEMBERS))
def test_imports_follow_the_arrows(member: str) -> None:
    allowed = ARROWS.get(member, set(ARROWS)) | {member}
    for source in sorted(MEMBERS[member].rglob("*.py")):
        forbidden = (imported_modules(source) & set(MEMBERS)) - allowed
        assert not forbidden, f"{source.relative_to(ROOT)} imports {', '.join(sorted(forbidden))}"


def test_the_devkit_is_imported_by_bev_nuscenes_only() -> None:
    users = {
        name for name, folder in MEMBERS.items() for f in folder.rglob("*.py") if "nuscenes" in imported_modules(f)
    }
    assert users == {"bev_nuscenes"}


def test_no_model_knows_nuscenes() -> None:
    for source in MEMBERS["bev_zoo"].rglob("*.py"):
        if source.name not in {
            "recipe.py",
            "recipes.py",
            "tiny.py",
            "example_rig.py",
        }:  # a recipe names the augmentation it was trained with; the example has nuScenes' cameras
            assert "bev_nuscenes" not in imported_modules(source), source


@pytest.mark.parametrize("member", sorted(MEMBERS))
def test_members_are_complete(member: str) -> None:
    folder = MEMBERS[member].parents[1]
    for needed in ("pyproject.toml", "README.md", "CHANGELOG.md", f"src/{member}/py.typed", "tests"):
        assert (folder / needed).exists(), f"{folder.relative_to(ROOT)} has no {needed}"


@pytest.mark.parametrize("member", sorted(ARROWS))
def test_public_names_exist_and_are_documented(member: str) -> None:
    package = importlib.import_module(member)
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        thing = getattr(package, name)
        can_have_one = inspect.isclass(thing) or inspect.isroutine(thing)  # an alias of types has none
        assert not can_have_one or thing.__doc__, f"{member}.{name} has no docstring"
