"""The ways a detector can be run, and their names on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["PRECISIONS", "Precision", "Setting", "check_setting", "parse_setting"]

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a detector is run; all defaults together are the plain model."""

    fuse: bool = False
    """Fold batch norm into the convolutions before it."""
    channels_last: bool = False
    """Keep the channels of a pixel next to each other in memory."""
    precision: Precision = "fp32"
    """Type of weights and activations."""
    compile: bool = False
    """Through torch.compile; compiling is part of the warm-up."""
    cuda_graph: bool = False
    """Record the kernels of a call once and replay them; GPU only."""
    plan_cache: bool = True
    """Build a pooling plan once per calibration, not in every call."""

    @property
    def name(self) -> str:
        """As :func:`parse_setting` reads it."""
        words = [
            *(["fuse"] if self.fuse else []),
            *(["channels-last"] if self.channels_last else []),
            *([self.precision] if self.precision != "fp32" else []),
            *(["compile"] if self.compile else []),
            *(["cuda-graph"] if self.cuda_graph else []),
            *([] if self.plan_cache else ["no-plan-cache"]),
        ]
        return "+".join(words) or "plain"


_WORDS: dict[str, tuple[str, object]] = {
    "fuse": ("fuse", True),
    "channels-last": ("channels_last", True),
    "fp32": ("precision", "fp32"),
    "bf16": ("precision", "bf16"),
    "fp16": ("precision", "fp16"),
    "compile": ("compile", True),
    "cuda-graph": ("cuda_graph", True),
    "no-plan-cache": ("plan_cache", False),
}


def parse_setting(text: str) -> Setting:
    """A setting from its name, such as "plain" or "fuse+channels-last+bf16".

    Raises:
        ValueError: an unknown or repeated word.
    """
    if text == "plain":
        return Setting()
    changes: dict[str, object] = {}
    for word in text.split("+"):
        if word not in _WORDS:
            known = ", ".join(_WORDS)
            raise ValueError(f"unknown word {word!r} in variant {text!r}: join any of {known} with +, or say plain")
        field, value = _WORDS[word]
        if field in changes:
            raise ValueError(f"variant {text!r} says {field.replace('_', '-')} twice")
        changes[field] = value
    return Setting(**changes)


def check_setting(setting: Setting, device: torch.device) -> None:
    """Check that a device can run a setting.

    Raises:
        ValueError: it cannot.
    """
    if setting.cuda_graph and device.type != "cuda":
        raise ValueError("a CUDA graph needs a GPU, and this measures the CPU: leave out --cuda-graph")
    if setting.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("this GPU has no bfloat16: use --precision fp16")
