"""The tutorial docs/own-data.md, run as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "own-data.md"


def test_the_description_shown_is_one(tmp_path: Path) -> None:
    from bev_nuscenes.own import check_data

    (shown,) = re.findall(r"```yaml\n(cameras:\n  front:.*?)```", TUTORIAL.read_text(), re.DOTALL)
    (tmp_path / "dataset.yaml").write_text(shown)
    _, problems = check_data(tmp_path)
    assert [problem.message for problem in problems if "no .jpg or .png image" not in problem.message] == [
        "no frame has an image of every camera"
    ]


@pytest.mark.slow  # a minute and a half of one core: a world is rendered, a model trained
@pytest.mark.timeout(1800)
def test_the_commands_run_as_written(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
    (block,) = re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    said = {}
    for line in block.strip().splitlines():
        done = subprocess.run(_words(line), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said[line.split(" --")[0]] = done.stdout
    assert "0 errors, 0 warnings" in said["python -m bev_nuscenes.own check drive"]
    assert "2 steps done" in said["bev-train bevdet-tiny"]
    assert "own val, 2 key frames: mAP" in said["bev-eval bevdet-tiny"]
    assert "of 4 frames in found/predictions.json" in said["bev-eval predict"]
    assert len(json.loads((tmp_path / "found" / "predictions.json").read_text())["frames"]) == 4


def _words(line: str) -> list[str]:
    """The command with this Python in place of the programs, which need not be installed."""
    program, *arguments = shlex.split(line)
    if program == "python":
        return [sys.executable, *arguments]
    return [sys.executable, "-m", program.replace("-", "_"), *arguments]
