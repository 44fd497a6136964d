"""Under mixed precision, what must stay in float32 does: head, heatmap and box losses, depth, pooling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bev_train.speed import prepare_for_speed
from bev_zoo import Detector, Targets, create_model, get_recipe, nuscenes_rig

_PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def _losses(model: Detector, precision: str, dtypes: dict[str, set[torch.dtype]]) -> dict[str, Tensor]:
    """Losses of one batch; ``dtypes`` receives the types that every module of interest gives."""
    recipe = model.recipe
    for name, module in (("backbone", model.backbone), ("view", model.view_transform), ("head", model.head)):
        module.register_forward_hook(lambda _, __, out, name=name: dtypes.setdefault(name, set()).update(_types(out)))
    height, width = recipe.input_size
    rig = nuscenes_rig(recipe.input_size, frames=recipe.frames)
    cameras = rig.intrinsics.shape[2]
    targets = Targets(
        boxes=[torch.tensor([[10.0, 2, 0, 4, 2, 1.5, 0.1, 1, 0]])],
        labels=[torch.tensor([0])],
        depth=torch.full((1, cameras, height, width), 12.0),
        semantics=torch.zeros(1, 200, 200, 16, dtype=torch.uint8),
        mask_camera=torch.ones(1, 200, 200, 16, dtype=torch.bool),
    )
    images = torch.randn(1, recipe.frames, cameras, 3, height, width)
    with torch.autocast("cpu", dtype=_PRECISIONS[precision]):
        return model.train().loss(images, rig, targets)


def _types(output: object) -> set[torch.dtype]:
    if isinstance(output, Tensor):
        return {output.dtype}
    return set().union(*(_types(part) for part in output)) if isinstance(output, list | tuple) else set()


@pytest.mark.parametrize("precision", list(_PRECISIONS))
@pytest.mark.parametrize("recipe", ["bevdet-tiny", pytest.param("bevdet-tiny-occ", marks=pytest.mark.slow)])
def test_what_decides_stays_in_float32(tiny_options, recipe: str, precision: str) -> None:
    model = create_model(get_recipe(recipe), input_size=(64, 96))
    prepare_for_speed(model, tiny_options(precision=precision))
    dtypes: dict[str, set[torch.dtype]] = {}
    losses = _losses(model, precision, dtypes)
    assert dtypes["backbone"] == {_PRECISIONS[precision]}  # mixed precision is on at all
    assert dtypes["view"] == {torch.float32}  # pooled features and depth
    assert dtypes.get("head", {torch.float32}) == {torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(torch.isfinite(loss) for loss in losses.values())
