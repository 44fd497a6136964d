"""Training on real nuScenes: one key frame is learnt, and the other one evaluated and drawn, with the programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCHEDULE = ("--batch-size", "1", "--epochs", "300", "--warmup-steps", "30", "--milestones", "240", "280")


@pytest.mark.slow
def test_a_real_key_frame_is_learnt(keyframes: Path, tmp_path: Path) -> None:
    data = ("--data.root", keyframes, "--data.index", tmp_path / "index.npz")
    saving = ("--checkpoint-every-epochs", "100", "--no-augment")
    _run("bev_train", "bevdet-tiny", *data, "--out", tmp_path / "run", *SCHEDULE, *saving)
    weights = ("--checkpoint", tmp_path / "run" / "model.safetensors")

    figures = {}
    for split in ("mini_train", "mini_val"):
        out = tmp_path / split
        _run("bev_eval", "bevdet-tiny", *data, "--data.split", split, *weights, "--out", out)
        _run("bev_vis", "render", out / "results_nusc.json", *data, "--data.split", split, "--out", out / "frame.png")
        figures[split] = json.loads((out / "metrics.json").read_text())
        assert Image.open(out / "frame.png").width > 2000

    assert figures["mini_train"]["mAP_present"] >= 0.5
    assert figures["mini_val"]["samples"] == 1


def _run(module: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
