"""Train the tiny system of every family with the same budget on one synthetic world, and compare what they learned.

    python tools/compare_families.py                              # everything, one system after the other
    python tools/compare_families.py --systems bevdet-tiny-4d     # some; several calls may run side by side
    python tools/compare_families.py --systems                    # none: the table of what is there

Every system sees the same samples in the same order, for the same number of steps, with the same schedule and seed,
and is judged on scenes that none has seen. What a system reached is kept in runs/families/NAME/figures.json and not
computed again; an interrupted training is continued. runs/families/table.md is written anew after every system.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from family_measures import (
    NEAR_M,
    constant_occupancy,
    depth_errors,
    depth_figures,
    depth_of_now,
    joined,
    velocity_errors,
    velocity_figures,
)
from torch import Tensor
from tqdm import tqdm

from bev_eval.app import evaluate_recipe
from bev_eval.options import EvalOptions
from bev_nuscenes import (
    Batch,
    DataOptions,
    NuscenesDataset,
    SubmissionWriter,
    collate,
    evaluate,
    open_index,
)
from bev_nuscenes.synthetic import make_world
from bev_train.build import build_data
from bev_train.fit import fit
from bev_train.options import TrainOptions
from bev_train.resolve import resolve_recipe
from bev_train.run_folder import open_run_folder
from bev_train.weights import create_starting_model
from bev_zoo import CameraRig, Detector, Recipe, create_model, get_recipe, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
TRAIN, VAL = "mini_train", "mini_val"
MOVED_M = 1.0  # an ego that is farther from where it was one frame ago moved
_CANDIDATES = 2000  # cells per sample that become boxes before suppression


@dataclass(frozen=True)
class System:
    """One row of the comparison."""

    name: str
    recipe: str
    lidar_depth: bool = True  # whether LiDAR teaches its depth


SYSTEMS = (
    System("bevdet-tiny-without-lidar", "bevdet-tiny", lidar_depth=False),
    System("bevdet-tiny", "bevdet-tiny"),
    System("bevdet-tiny-4d", "bevdet-tiny-4d"),
    System("bevdet-tiny-depth", "bevdet-tiny-depth"),
    System("bevdet-tiny-stereo", "bevdet-tiny-stereo"),
    System("bevdet-tiny-4dlongterm", "bevdet-tiny-4dlongterm"),
    System("bevdet-tiny-occ", "bevdet-tiny-occ"),
)


def main() -> None:
    """Train, judge and compare the systems that are asked for."""
    options = _parser().parse_args()
    make_world(options.world, samples_per_scene=options.samples_per_scene, sweeps=0, density=options.density)
    data = DataOptions(root=options.world)
    for system in SYSTEMS:
        folder = options.out / system.name
        if system.name not in options.systems or (folder / "figures.json").exists():
            continue
        trained = folder / "training.json"
        if not trained.exists():
            _write(trained, train(system, data, options))
        _write(folder / "figures.json", {**json.loads(trained.read_text()), **judge(system, data, folder)})
        _write_table(options.out)
    _write_table(options.out)
    print((options.out / "table.md").read_text())


def train(system: System, data: DataOptions, options: argparse.Namespace) -> dict[str, object]:
    """Train one system; the file of its weights is ``model.safetensors`` in its folder."""
    folder = options.out / system.name
    told = TrainOptions(
        recipe=system.recipe,
        data=replace(data, split=TRAIN),
        out=folder,
        resume=(folder / "options.json").exists(),
        epochs=options.epochs,
        seed=options.seed,
        precision=options.precision,
        workers=0,
        fast_images=True,
    )
    recipe = with_or_without_lidar(resolve_recipe(told), system)
    start = time.monotonic()
    run_folder = open_run_folder(told, recipe)
    training_data = build_data(told, recipe)
    pl.seed_everything(told.seed, verbose=False)
    result = fit(create_starting_model(told, recipe), training_data, told, recipe, run_folder)
    if result.stopped_by:
        raise SystemExit(f"{system.name} was stopped ({result.stopped_by}): call again to continue")
    return {
        "system": system.name,
        "frames": recipe.frames,
        "steps": result.step,
        "batch": recipe.training.batch_size,
        "seed": told.seed,
        "date": time.strftime("%Y-%m-%d"),
        "machine": _machine(told.precision),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }


def with_or_without_lidar(recipe: Recipe, system: System) -> Recipe:
    """The recipe as the system trains it."""
    return recipe if system.lidar_depth else replace(recipe, view=replace(recipe.view, depth_loss_weight=None))


def judge(system: System, data: DataOptions, folder: Path) -> dict[str, object]:
    """The figures of a trained system on the scenes it has not seen.

    Boxes of any score count, up to the official 500 per sample: the official errors of a class are those of what is
    found of it, and 1 where that is less than a tenth.
    """
    recipe = get_recipe(system.recipe)
    if recipe.task == "occupancy":
        return {**_judge_voxels(system, data, folder), "constant": constant_occupancy(data, TRAIN, VAL)}
    (nms,) = recipe.head.decode.nms
    nms = replace(nms, pre_max=_CANDIDATES, post_max=500)
    decode = replace(recipe.head.decode, score_threshold=0.0, max_candidates=_CANDIDATES, nms=(nms,))
    model = create_model(replace(recipe, head=replace(recipe.head, decode=decode)))
    load_checkpoint(model, folder / "model.safetensors")
    return _judge_boxes(model.eval(), data, folder)


def _judge_voxels(system: System, data: DataOptions, folder: Path) -> dict[str, object]:
    told = EvalOptions(
        recipe=system.recipe,
        data=replace(data, split=VAL),
        checkpoint=folder / "model.safetensors",
        out=folder / "eval",
        overwrite=True,
        workers=0,
    )
    return {"official": json.loads(evaluate_recipe(told).metrics.to_json())}


@torch.no_grad()
def _judge_boxes(model: Detector, data: DataOptions, folder: Path) -> dict[str, object]:
    """Official figures, depth and velocity over the split."""
    recipe, dataset = model.recipe, _unseen(model.recipe, data)
    depths, velocities, moved = [], [], []
    with SubmissionWriter(folder / "results_nusc.json", dataset.index.tokens(VAL)) as submission:
        batches = (collate([dataset[i]]).to("cpu") for i in range(len(dataset)))
        for batch in tqdm(batches, total=len(dataset), mininterval=30):
            images, rig = _first_frames(batch, recipe.frames)
            outputs = model(images, rig)
            found = model.head.decode(outputs)[0]
            submission.add(batch.tokens[0], found.boxes, found.scores, found.labels, batch.box_to_global[0])
            velocities.append(velocity_errors(outputs[0], found, batch.boxes[0], batch.labels[0], recipe.view.grid))
            depth = depth_of_now(model, images, rig)
            depths.append(depth_errors(depth, batch.depth, recipe.view.depth, model.view_transform.stride))
            moved.append(_ego_motion(batch) > MOVED_M)
    official = evaluate(folder / "results_nusc.json", root=data.root, version=data.version, split=VAL)
    return {
        "official": json.loads(official.to_json()),
        "depth": depth_figures(joined(depths)),
        "depth_moved": depth_figures(joined([errors for errors, yes in zip(depths, moved, strict=True) if yes])),
        "frames_judged": len(moved),
        "frames_moved": sum(moved),
        "velocity": velocity_figures(joined(velocities)),
    }


def _unseen(recipe: Recipe, data: DataOptions) -> NuscenesDataset:
    """The split to judge on, with at least one frame back, which says whether the ego moved."""
    return NuscenesDataset(
        open_index(data),
        VAL,
        input_size=recipe.input_size,
        frames=max(recipe.frames, 2),
        image_augmentation=recipe.image_augmentation,
        images="fast",
        with_depth=True,
        depth_range=(recipe.view.depth.lower, recipe.view.depth.upper),
    )


def _first_frames(batch: Batch, frames: int) -> tuple[Tensor, CameraRig]:
    cameras = {name: t if name == "bev_aug" else t[:, :frames] for name, t in batch.cameras.items()}
    return batch.images[:, :frames], CameraRig(**cameras)


def _ego_motion(batch: Batch) -> float:
    """Metres that camera 0's ego moved since the frame before."""
    now, before = batch.cameras["ego_to_global"][0, :2, 0, :2, 3]
    return float((now - before).norm())


# -- the table ---------------------------------------------------------------------------------------------------------


def table(systems: list[dict]) -> str:
    """Markdown: what every system reached, detectors first, and how it was made."""
    detectors = [figures for figures in systems if "depth" in figures]
    lines = [_budget(systems), ""]
    for columns in (_DETECTION_COLUMNS, _DEPTH_COLUMNS, _VELOCITY_COLUMNS) if detectors else ():
        lines += [*_rows(columns, detectors), ""]
    lines += [_occupancy_row(figures) for figures in systems if "constant" in figures]
    return "\n".join(lines).rstrip() + "\n"


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_table(out: Path) -> None:
    files = [out / system.name / "figures.json" for system in SYSTEMS]
    systems = [json.loads(file.read_text()) for file in files if file.exists()]
    if systems:
        (out / "table.md").write_text(table(systems))


# Title, where the figure lies, how it is written.
_DETECTION_COLUMNS = (
    ("frames", "frames", "d"),
    ("steps", "steps", "d"),
    ("minutes", "minutes", ".1f"),
    *((name, f"official.{name}", ".4f") for name in ("mAP", "NDS")),
    *((name, f"official.{name}", ".3f") for name in ("mATE", "mAOE", "mAVE")),
)
_DEPTH_COLUMNS = (
    ("relative error, all", "depth.relative", ".3f"),
    ("ego moved", "depth_moved.relative", ".3f"),
    (f"ego moved, < {NEAR_M:g} m", "depth_moved.relative_near", ".3f"),
    ("within a bin, all", "depth.near_bin", ".1%"),
    ("ego moved", "depth_moved.near_bin", ".1%"),
    (f"ego moved, < {NEAR_M:g} m", "depth_moved.near_bin_near", ".1%"),
)
_VELOCITY_COLUMNS = (
    ("moving, at true centre", "velocity.at_centre", ".2f"),
    ("moving, if called parked", "velocity.speed", ".2f"),
    ("parked, at true centre", "velocity.at_centre_parked", ".2f"),
    ("moving, found", "velocity.found", ".2f"),
    ("number of them", "velocity.moving_found", "d"),
    ("parked, found", "velocity.found_parked", ".2f"),
)


def _rows(columns: tuple[tuple[str, str, str], ...], systems: list[dict]) -> list[str]:
    head = f"| system | {' | '.join(title for title, _, _ in columns)} |"
    rule = "|---|" + "---:|" * len(columns)
    rows = (" | ".join(_cell(figures, path, form) for _, path, form in columns) for figures in systems)
    return [head, rule, *(f"| {figures['system']} | {row} |" for figures, row in zip(systems, rows, strict=True))]


def _cell(figures: dict, path: str, form: str) -> str:
    for name in path.split("."):
        figures = figures[name]
    return format(figures, form)


def _occupancy_row(figures: dict) -> str:
    constants = figures["constant"].values()
    others = ", ".join(f"{constant['mIoU']:.2f} ({constant['class']})" for constant in constants)
    return (
        f"{figures['system']}: mIoU {figures['official']['mIoU']:.2f} % "
        f"after {figures['steps']} steps in {figures['minutes']} min. "
        f"One class everywhere: {others}; the most frequent one, the most frequent solid one, the best scoring one."
    )


def _budget(systems: list[dict]) -> str:
    facts = (sorted({figures[name] for figures in systems}) for name in ("batch", "seed", "date", "machine"))
    batch, seed, date, machine = (", ".join(map(str, fact)) for fact in facts)
    return f"Batch {batch}, seed {seed}; {date}, {machine}."


def _machine(precision: str) -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor()
    )
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu}, {torch.get_num_threads()} thread(s)"
    )
    return f"{device}, {precision}, PyTorch {torch.__version__}"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--systems", nargs="*", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--epochs", type=int, default=7, help="passes over the training scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--precision", default="bf16-mixed", choices=("32", "bf16-mixed", "16-mixed"))
    parser.add_argument("--world", type=Path, default=ROOT / "data" / "families", help="made if it is not there")
    parser.add_argument("--samples-per-scene", type=int, default=20, help="of the world (default: %(default)s)")
    parser.add_argument("--density", type=float, default=0.3, help="of the world (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "families", help="folder of the runs")
    return parser


if __name__ == "__main__":
    main()
