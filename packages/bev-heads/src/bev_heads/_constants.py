"""Settings as tensors on the device of the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def constant(values: Sequence[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(len(values),) on the device of ``like``. Uploaded once: an upload per call would wait for the host, and could
    not be captured in a CUDA graph."""
    # Tensors of a trace are kept by the trace, and by nobody else.
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return like.new_tensor(values, dtype=dtype)
    return _uploaded(tuple(values), like.device, dtype)


@lru_cache(maxsize=256)
def _uploaded(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    # The first call may be one in inference mode, a later one may need gradients.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
