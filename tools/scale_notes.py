"""What training a system takes on 1, 8 and 64 GPUs: memory, operations, messages; a table in Markdown.

    python tools/scale_notes.py [RECIPE …] [--batch-size B] [--tflops 20]

Memory of weights and of what the backward pass needs is counted from shapes, without data and without a GPU; operations
too. Seconds follow from a rate of operations that you name and from the bandwidth of the links: they are estimates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from bev_lss import CameraRig, camera_parameters
from bev_zoo import Detector, Recipe, SwinOptions, count_flops, get_recipe, list_recipes
from bev_zoo.create import meta_model
from bev_zoo.features import StereoReference

CAMERAS = 6
PER_WEIGHT = 4 * 5  # bytes: weight, gradient, two moments of AdamW, average
GIB = 2**30
# Bytes per second that an all-reduce moves per GPU: NVLink within a machine, eight links of 400 Gbit between machines.
WITHIN, BETWEEN = 300e9, 40e9


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one training step of one sample.

    Attributes:
        parameters: learnt numbers.
        activations: float32 bytes kept for the backward pass, where the recipe recomputes what it recomputes.
        all_activations: the same with nothing recomputed.
        flops: operations, forward, backward and what is recomputed not counted.
    """

    parameters: int
    activations: int
    all_activations: int
    flops: float

    def memory(self, batch_size: int) -> float:
        """GiB per GPU in float32, every process holding the model; the stage that is being recomputed comes on top."""
        return (self.parameters * PER_WEIGHT + batch_size * self.activations) / GIB

    def samples_per_second(self, gpus: int, batch_size: int, tflops: float) -> float:
        """Of all GPUs, if no message hides behind the backward pass."""
        computing = batch_size * self.flops / (tflops * 1e12)
        message = 0 if gpus == 1 else 2 * 4 * self.parameters / (WITHIN if gpus <= 8 else BETWEEN)
        return gpus * batch_size / (computing + message)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="default: all published systems")
    parser.add_argument("--batch-size", type=int, help="samples per GPU (default: the recipe's)")
    parser.add_argument("--tflops", type=float, default=20.0, help="10^12 operations a GPU gets done per second")
    options = parser.parse_args(argv)
    names = options.recipes or [name for name in list_recipes() if "tiny" not in name]
    rows = [_row(name, options.batch_size, options.tflops) for name in tqdm(names, file=sys.stderr)]
    print(
        "| recipe | batch | parameters, M | weights and optimiser, GiB | kept per sample, GiB "
        "| nothing recomputed, GiB | per GPU, GiB | TFLOP per sample | gradients, MB | samples/s on 1 | on 8 | on 64 |"
    )
    print("|---|" + "---:|" * 11)
    print("\n".join(rows))
    return 0


def cost(name: str) -> Cost:
    """Count a recipe on the meta device."""
    recipe = get_recipe(name)
    model = meta_model(recipe).train()
    flops = count_flops(recipe)
    frame = flops.streaming.total if flops.streaming else flops.total
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        activations=kept_bytes(model),
        all_activations=kept_bytes(meta_model(_without_recomputation(recipe)).train()),
        flops=3 * frame + (flops.total - frame),  # frames of the past have no backward pass
    )


def kept_bytes(model: Detector) -> int:
    """Bytes that one sample's forward pass keeps, weights left out; of stages that are recomputed only their input."""
    recipe = model.recipe
    own = {p.untyped_storage()._cdata for p in model.parameters()} | {
        b.untyped_storage()._cdata for b in model.buffers()
    }
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no number is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    images = torch.empty(1, CAMERAS, 3, *recipe.input_size, device="meta")
    rig = _meta_rig()
    cameras = rig.frame_cameras(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.image_features(images)
        reference = None
        if recipe.stereo:
            reference = StereoReference(features.stereo.detach(), rig.cam_to_ego[:, 0])
        bev = model.frame_map(features, cameras, camera_parameters(cameras), reference).bev
        model.head(model.encoded([bev] + [bev.detach()] * recipe.temporal.history))
    return sum(storage.nbytes() for storage in kept.values())


def _without_recomputation(recipe: Recipe) -> Recipe:
    swin = isinstance(recipe.backbone, SwinOptions)
    view = recipe.view
    if view.depth_net is not None:
        view = replace(view, depth_net=replace(view.depth_net, checkpointing=False))
    return replace(
        recipe,
        backbone=replace(recipe.backbone, checkpointing=(0, 0, 0, 0) if swin else False),
        view=view,
        bev_encoder=replace(recipe.bev_encoder, checkpointing=False, neck_checkpointing=False),
    )


def _row(name: str, batch_size: int | None, tflops: float) -> str:
    found = cost(name)
    batch = batch_size or get_recipe(name).training.batch_size
    rates = " | ".join(f"{found.samples_per_second(gpus, batch, tflops):.1f}" for gpus in (1, 8, 64))
    return (
        f"| {name} | {batch} | {found.parameters / 1e6:.0f} | {found.parameters * PER_WEIGHT / GIB:.1f} "
        f"| {found.activations / GIB:.1f} | {found.all_activations / GIB:.1f} | {found.memory(batch):.0f} "
        f"| {found.flops / 1e12:.2f} | {4 * found.parameters / 1e6:.0f} | {rates} |"
    )


def _meta_rig() -> CameraRig:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    lead = (1, 1, CAMERAS)
    return CameraRig(empty(*lead, 3, 3), empty(*lead, 4, 4), empty(*lead, 4, 4), empty(*lead, 3, 3), empty(1, 3, 3))


if __name__ == "__main__":
    sys.exit(main())
