"""Ways to run a detector, and their names."""

from __future__ import annotations

import pytest
import torch

from bev_bench.options import LatencyOptions, SystemOptions
from bev_bench.settings import Setting, check_setting, parse_setting

NAMES = ["plain", "fuse", "channels-last", "bf16", "compile", "cuda-graph", "no-plan-cache"]


@pytest.mark.parametrize("name", [*NAMES, "fuse+channels-last+bf16", "fuse+fp16+cuda-graph+no-plan-cache"])
def test_a_name_says_all(name: str) -> None:
    assert parse_setting(name).name == name


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("plain", Setting()),
        ("fp32", Setting()),
        ("bf16+fuse", Setting(fuse=True, precision="bf16")),
        ("no-plan-cache", Setting(plan_cache=False)),
    ],
)
def test_words_in_any_order(name: str, setting: Setting) -> None:
    assert parse_setting(name) == setting


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fused", "unknown word 'fused'.*fuse, channels-last"),
        ("bf16+fp16", "says precision twice"),
        ("", "unknown word"),
    ],
)
def test_other_words_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_setting(name)


def test_a_cpu_records_no_cuda_graph() -> None:
    with pytest.raises(ValueError, match="a CUDA graph needs a GPU"):
        check_setting(Setting(cuda_graph=True), torch.device("cpu"))


def _options(**changes: object) -> LatencyOptions:
    return LatencyOptions(system=SystemOptions(recipe="bevdet-tiny"), **changes)


def test_single_options_or_variants() -> None:
    assert _options(fuse=True, plan_cache="off").settings() == [Setting(fuse=True, plan_cache=False)]
    assert [s.name for s in _options(variants=("plain", "fuse+bf16")).settings()] == ["plain", "fuse+bf16"]
    with pytest.raises(ValueError, match="--variants stands alone: write fuse as one of them"):
        _options(fuse=True, variants=("plain",)).settings()
    with pytest.raises(ValueError, match="names a setting twice"):
        _options(variants=("plain", "fp32")).settings()
