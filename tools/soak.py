"""Disturb a training run at random, again and again, and check that it ends as if nothing had happened.

    python tools/soak.py --minutes 30 --seed 0 --out runs/soak

Trains bevdet-tiny on a small synthetic world: once undisturbed, and then in rounds that are killed, terminated, robbed
of their last checkpoint, of their disk and of a loading worker at random moments, and resumed. After every round
weights, average, optimiser, schedule and position must equal those of the undisturbed run, bit for bit. Images damaged
in the middle of a run must be skipped, counted and named. Writes OUT/soak.md; the exit status is 1 if anything was
lost.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from bev_nuscenes.synthetic import make_world
from bev_train.checkpoint import CheckpointError, newest_intact

FAULTS = ("SIGKILL", "SIGTERM", "truncated checkpoint", "full disk", "killed worker")
FAULTS_PER_ROUND = 6
SAMPLES = 6  # key frames of the world's one training scene
# Runs bev-train on a disk that is full from the second checkpoint on.
FULL_DISK = f"""
import sys, torch
from bev_train.__main__ import main
save, calls = torch.save, []
def full(content, file):
    calls.append(file)
    if len(calls) > 1:
        file.write(b"x" * 1000)
        raise OSError({errno.ENOSPC}, "No space left on device")
    save(content, file)
torch.save = full
sys.exit(main())
"""
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "skipped_steps")


@dataclass
class Event:
    """One disturbance and what came of it."""

    round: int
    fault: str
    second: float  # since the process was started
    step: int | None  # of the last checkpoint afterwards
    status: int
    verdict: str


@dataclass
class Soak:
    """A soak run.

    Attributes:
        out: its folder.
        workers: loading processes of every training.
        epochs: length of every training.
        rng: draws faults and moments.
        events: what happened.
        failures: what should not have.
    """

    out: Path
    workers: int
    epochs: int
    rng: random.Random
    events: list[Event] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rounds: int = 0

    def command(self, folder: Path, *program: str, data: Path | None = None, flags: tuple[str, ...] = ()) -> list[str]:
        """bev-train into a folder, resuming what is there."""
        data = data or self.out / "world"
        told = {
            "data.root": data,
            "data.index": self.out / f"{data.name}.npz",
            "out": folder,
            "epochs": self.epochs,
            "batch-size": 1,
            "workers": self.workers,
            "checkpoint-every-steps": 3,
            "accelerator": "cpu",
        }
        named = [str(text) for name, value in told.items() for text in (f"--{name}", value)]
        resume = ("--resume",) if (folder / "options.json").exists() else ()
        return [
            *(sys.executable, *(program or ("-m", "bev_train")), "bevdet-tiny", "--input-size", "64", "160"),
            *(*named, *resume, *flags),
        ]

    def start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a training; what it says is added to a log."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("ab") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def undisturbed(soak: Soak) -> float:
    """Train once without any fault; returns the seconds it took."""
    began = time.monotonic()
    process = soak.start(soak.command(soak.out / "undisturbed"), soak.out / "undisturbed.log")
    if process.wait() != 0:
        sys.exit(f"the undisturbed run failed: see {soak.out / 'undisturbed.log'}")
    return time.monotonic() - began


def one_round(soak: Soak, seconds: float, deadline: float) -> None:
    """Disturb a training several times, let it end, and compare."""
    soak.rounds += 1
    folder, log = soak.out / f"round-{soak.rounds}", soak.out / f"round-{soak.rounds}.log"
    for _ in range(FAULTS_PER_ROUND):
        if time.monotonic() > deadline or not disturb(soak, folder, log, soak.rng.choice(FAULTS), seconds):
            break
    status = soak.start(soak.command(folder), log).wait()
    different = ["exit status " + str(status)] if status else differences(soak.out / "undisturbed", folder)
    soak.failures += [f"round {soak.rounds}: {text}" for text in different]
    print(f"round {soak.rounds}: {'; '.join(different) or 'bit for bit as undisturbed'}", flush=True)
    if not different:
        shutil.rmtree(folder)


def disturb(soak: Soak, folder: Path, log: Path, fault: str, seconds: float) -> bool:
    """Start or resume a training and disturb it; False if it came to its end before."""
    said = log.stat().st_size if log.exists() else 0
    program = ("-c", FULL_DISK) if fault == "full disk" else ()
    process = soak.start(soak.command(folder, *program), log)
    began = time.monotonic()
    moment = soak.rng.uniform(0.2, 1.0) * seconds
    try:
        process.wait(timeout=None if fault == "full disk" else moment)
    except subprocess.TimeoutExpired:
        strike(process, fault)
    status = process.wait()
    if status == 0:
        return False
    if fault == "truncated checkpoint":
        truncate(soak.rng, folder / "checkpoints" / "last.ckpt")
    told = log.read_bytes()[said:].decode(errors="replace")
    expected, words = EXPECTED[fault]
    fine = status in expected and words in told and "Traceback" not in told
    verdict = "as expected" if fine else f"unexpected: {told.strip().splitlines()[-1:]}"
    if not fine:
        soak.failures.append(f"round {soak.rounds}, {fault}: exit status {status}, {verdict}")
    event = Event(soak.rounds, fault, time.monotonic() - began, saved_step(folder), status, verdict)
    soak.events.append(event)
    print(f"  {fault} after {event.second:.1f} s, exit status {status}, saved step {event.step}: {verdict}", flush=True)
    return True


# Exit statuses and words that a fault must lead to. A fault that comes before training does may just end the process.
EXPECTED = {
    "SIGKILL": ((-signal.SIGKILL,), ""),
    "truncated checkpoint": ((-signal.SIGKILL,), ""),
    "SIGTERM": ((128 + signal.SIGTERM, -signal.SIGTERM), ""),
    "full disk": ((2,), "could not be written (No space left on device)"),
    "killed worker": ((2, -signal.SIGKILL), ""),
}


def strike(process: subprocess.Popen[bytes], fault: str) -> None:
    """Do to a running training what the fault says."""
    if fault == "SIGTERM":
        os.killpg(process.pid, signal.SIGTERM)
    elif fault == "killed worker" and (workers := children(process.pid)):
        os.kill(workers[0], signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Loading workers of a process."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(text) for text in tasks.read_text().split()] if tasks.exists() else []
    return [child for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def truncate(rng: random.Random, checkpoint: Path) -> None:
    """Cut a checkpoint short, if there is one before it to fall back to."""
    if checkpoint.exists() and checkpoint.with_name("previous.ckpt").exists():
        os.truncate(checkpoint, rng.randrange(checkpoint.stat().st_size))


def saved_step(folder: Path) -> int | None:
    """Step of the checkpoint that a resumed run goes on from."""
    try:
        saved = newest_intact(folder / "checkpoints" / "last.ckpt", tell=lambda text: None)
    except CheckpointError:
        return None
    return None if saved is None else saved.step


def differences(one: Path, two: Path) -> list[str]:
    """What differs between the ends of two runs."""
    first, second = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (one, two))
    found = []
    for key in STATE:
        try:
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        except AssertionError as error:
            found.append(f"{key} differs ({str(error).splitlines()[0]})")
    positions = [state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"] for state in (first, second)]
    if positions[0] != positions[1]:
        found.append(f"the position differs: {positions}")
    weights, others = (load_file(path / "model.safetensors") for path in (one, two))
    if weights.keys() != others.keys() or not all(torch.equal(weights[name], others[name]) for name in weights):
        found.append("model.safetensors differs")
    return found


def damaged_image(soak: Soak) -> None:
    """Cut half of the training images of a camera short in the middle of a run that skips what it cannot read."""
    data, folder, log = soak.out / "damaged", soak.out / "damaged-run", soak.out / "damaged.log"
    shutil.copytree(soak.out / "world", data, dirs_exist_ok=True)
    process = soak.start(soak.command(folder, data=data, flags=("--data.on-error", "skip")), log)
    while process.poll() is None and not (folder / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    victims = sorted((data / "samples" / "CAM_FRONT").iterdir())[: SAMPLES // 2]  # by name: the training scene is first
    for image in victims:
        os.truncate(image, 2000)
    status, told = process.wait(), log.read_text(errors="replace")
    named = any(f"  {image}" in told for image in victims)
    fine = status == 0 and named and "times a sample was replaced" in told
    verdict = "skipped, counted and named" if fine else f"unexpected: {told.strip().splitlines()[-1:]}"
    soak.events.append(Event(soak.rounds, "damaged images", 0.0, saved_step(folder), status, verdict))
    if not fine:
        soak.failures.append(f"damaged images: exit status {status}, {verdict}")


def report(soak: Soak, minutes: float, seed: int) -> str:
    """The log as Markdown."""
    steps = torch.load(soak.out / "undisturbed" / "checkpoints" / "last.ckpt", map_location="meta")["global_step"]
    counts = {fault: sum(event.fault == fault for event in soak.events) for fault in (*FAULTS, "damaged images")}
    lines = [
        f"{soak.rounds} rounds of {steps} steps in {minutes:.1f} minutes, seed {seed}, torch {torch.__version__}, CPU:",
        f"{sum(counts.values())} faults: " + ", ".join(f"{count} {fault}" for fault, count in counts.items()) + ".",
        "",
        "Every round ended bit for bit as the undisturbed run." if not soak.failures else "**Failures:**",
        *(f"- {text}" for text in soak.failures),
        "",
        "| round | fault | after | exit status | saved step | |",
        "|---|---|---|---|---|---|",
        *(f"| {e.round} | {e.fault} | {e.second:.1f} s | {e.status} | {e.step} | {e.verdict} |" for e in soak.events),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=30, help="start no round after this long (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of faults and moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="new folder (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="loading processes, 1 or more (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="length of every training (default: %(default)s)")
    parser.add_argument("--world", type=Path, help="a synthetic world to use instead of a new one")
    options = parser.parse_args()
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    options.out.mkdir(parents=True)
    if options.world is None:
        make_world(options.out / "world", scenes=2, samples_per_scene=SAMPLES, density=0.3)
    else:
        shutil.copytree(options.world, options.out / "world")
    soak = Soak(options.out, options.workers, options.epochs, random.Random(options.seed))
    seconds = undisturbed(soak)
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    damaged_image(soak)
    while time.monotonic() < deadline:
        one_round(soak, seconds, deadline)
    text = report(soak, (time.monotonic() - began) / 60, options.seed)
    (options.out / "soak.md").write_text(text)
    (options.out / "events.json").write_text(json.dumps([vars(event) for event in soak.events], indent=2))
    print(text)
    return bool(soak.failures)


if __name__ == "__main__":
    sys.exit(main())
