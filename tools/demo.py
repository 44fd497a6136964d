"""The whole path on the embedded default: render a world, train, evaluate on scenes never seen, draw.

    hatch run demo                      # about ten minutes on two CPU cores
    python tools/demo.py --minutes 2    # less training, a worse detector

Writes runs/demo/metrics.json and runs/demo/prediction.png. The world is kept in data/synthetic and used again; the
folder of an earlier demo is moved aside, never overwritten.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
WORLD = ROOT / "data" / "synthetic"
RUN = ROOT / "runs" / "demo"
RECIPE = "bevdet-tiny"


def run(*command: str | Path) -> None:
    """Show a command and run it; leave with its exit code if it fails."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", *words] if words[0].startswith("bev_") else [sys.executable, *words])
    if done.returncode:
        sys.exit(done.returncode)


def fast_precision() -> str:
    """bfloat16 where the processor multiplies it by itself, else float32."""
    capabilities = torch.cpu.get_capabilities()
    return "bf16-mixed" if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "32"


def move_aside(folder: Path) -> None:
    """Rename an earlier run's folder to the first free number."""
    if not folder.exists():
        return
    number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}-{n}").exists())
    folder.rename(folder.with_name(f"{folder.name}-{number}"))
    print(f"the earlier demo is now {folder.with_name(f'{folder.name}-{number}')}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="longest training time (default: %(default)s)")
    minutes = parser.parse_args().minutes

    start = time.monotonic()
    data = ("--data.root", WORLD, "--data.version", "v1.0-mini")
    run("tools/make_synthetic_nuscenes.py", WORLD, "--scenes", "10", "--seed", "0", "--density", "0.3")
    move_aside(RUN)
    # No loading worker: it would take turns with the two compute threads, which wait for each other.
    speed = ("--precision", fast_precision(), "--fast-images", "--checkpoint-every-epochs", "8")
    limit = ("--max-minutes", str(minutes))
    run("bev_train", RECIPE, *data, "--data.split", "mini_train", "--out", RUN, "--workers", "0", *speed, *limit)
    weights = ("--checkpoint", RUN / "model.safetensors")
    run("bev_eval", RECIPE, *data, "--data.split", "mini_val", *weights, "--out", RUN / "eval")
    results = RUN / "eval" / "results_nusc.json"
    picture = RUN / "prediction.png"
    run("bev_vis", "render", results, *data, "--data.split", "mini_val", "--sample", "4", "--out", picture)

    metrics = (RUN / "eval" / "metrics.json").read_text()
    (RUN / "metrics.json").write_text(metrics)
    took = (time.monotonic() - start) / 60
    print(f"\nmAP {json.loads(metrics)['mAP']:.3f} on scenes never seen, in {took:.1f} min")
    print(f"{RUN / 'metrics.json'}\n{picture}")


if __name__ == "__main__":
    main()
