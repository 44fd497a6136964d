"""Operations against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bev_bench.flops import count_operations
from bev_bench.options import FlopsOptions
from bev_zoo import Detector, get_recipe, nuscenes_rig

SIZE = (64, 96)


def _convolutions_by_hand(module: nn.Module, run) -> int:
    """Two operations per weight and output pixel of every convolution that ran."""
    counts: list[int] = []

    def count(conv: nn.Conv2d, _inputs: object, output: torch.Tensor) -> None:
        pixels = output.shape[0] * output.shape[2] * output.shape[3]
        counts.append(2 * conv.weight.numel() * pixels)

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _operations(recipe: str, case: str = "whole call") -> dict[str, float]:
    report = count_operations(FlopsOptions(recipe=recipe, shape=SIZE))
    return {row.setting: row.figure("operations").median for row in report.rows if row.case == case}


def test_stages_of_convolutions_are_what_their_layers_sum_up_to() -> None:
    model = Detector(replace(get_recipe("bevdet-tiny"), input_size=SIZE)).eval()
    images, rig = torch.zeros(1, 1, 6, 3, *SIZE), nuscenes_rig(SIZE)
    operations = _operations("bevdet-tiny")
    stages = {"backbone": model.backbone, "neck": model.neck, "bev encoder": model.bev_encoder, "head": model.head}
    for name, stage in stages.items():
        by_hand = _convolutions_by_hand(stage, lambda: model(images, rig))
        assert operations[name] * 1e9 == pytest.approx(by_hand, rel=1e-9), name


def test_the_view_transform_is_its_convolution_and_the_pool() -> None:
    cameras, pixels, width, bins, context = 6, (64 // 8) * (96 // 8), 64, 59, 32
    convolution = 2 * cameras * pixels * width * (bins + context)
    pool = 2 * cameras * bins * pixels * context  # every frustum point, every channel: multiply and add
    geometry = 1e-3  # some 3x3 matrices
    operations = _operations("bevdet-tiny")["view transform"] * 1e9
    assert operations == pytest.approx(convolution + pool, rel=geometry)


@pytest.mark.parametrize("case", ["whole call", "streamed frame"])
def test_stages_add_up_and_shares_to_a_hundred(case: str) -> None:
    report = count_operations(FlopsOptions(recipe="bevdet-tiny-stereo", shape=SIZE))
    *stages, total = [row for row in report.rows if row.case == case]
    assert total.setting == "total"
    assert sum(row.figure("operations").median for row in stages) == pytest.approx(total.figure("operations").median)
    assert sum(row.figure("share").median for row in stages) == pytest.approx(100)
    assert {"cost volume", "backbone"} <= {row.setting for row in stages}
