"""Prove that packages stand alone: install each into an empty environment and run its tests there.

    python tools/check_standalone.py bev-ops bev-lss     # these two
    python tools/check_standalone.py                     # every package and app

The environment holds the package, what it declares, its siblings that it declares, and pytest. Needs `uv`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]


def members() -> dict[str, Path]:
    """Name of every workspace member -> its folder."""
    folders = (path.parent for pattern in ("packages/*", "apps/*") for path in ROOT.glob(f"{pattern}/pyproject.toml"))
    return {project(folder)["name"]: folder for folder in sorted(folders)}


def project(folder: Path) -> dict:
    """The [project] table of a member."""
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def siblings(name: str, known: dict[str, Path]) -> set[str]:
    """Our own packages that a member needs, directly or not, itself included."""
    found = {name}
    for requirement in project(known[name])["dependencies"]:
        base = requirement.split("[")[0].split(">")[0].split("=")[0].strip()
        if base in known:
            found |= siblings(base, known)
    return found


def requirement(name: str, folder: Path) -> str:
    """How to install a member from its folder, extras included, since its tests may use them."""
    extras = project(folder).get("optional-dependencies", {})
    return f"{folder}[{','.join(extras)}]" if extras else str(folder)


def check(name: str, known: dict[str, Path], uv: str) -> bool:
    """Install and test one member; True if its tests pass."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-alone-") as scratch:
        python = Path(scratch) / "env" / "bin" / "python"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
        wanted = [requirement(n, known[n]) for n in sorted(siblings(name, known))]
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", python, *wanted, "pytest", "pytest-timeout"], check=True
        )
        # The tests are copied, so that nothing is found through the repository; as deep as they were in it.
        tests = shutil.copytree(known[name] / "tests", Path(scratch) / "repository" / "members" / name / "tests")
        options = ["-q", "--import-mode=importlib", "-m", "not slow", "-o", "markers=slow:\ngpu:"]
        done = subprocess.run([python, "-m", "pytest", *options, tests], cwd=scratch)
    print(f"{name}: {'passes' if done.returncode == 0 else 'FAILS'} alone", flush=True)
    return done.returncode == 0


def main() -> None:
    """Check the named members; exit with 1 if one fails."""
    known = members()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"members to check (default: all of {', '.join(known)})"
    )
    names = parser.parse_args().names or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no member named {', '.join(unknown)}: known are {', '.join(known)}")
    uv = shutil.which("uv")
    if uv is None:
        parser.error("needs uv: pip install uv")
    failed = [name for name in names if not check(name, known, uv)]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
