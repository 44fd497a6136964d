"""Where a command measures."""

from __future__ import annotations

import torch

from bev_bench.options import RunOptions
from bev_bench.stopwatch import Repetition

__all__ = ["begin"]


def begin(options: RunOptions) -> tuple[torch.device, Repetition]:
    """Check the options and set the threads; gives the device that is measured, and how often.

    Raises:
        ValueError: CUDA without a GPU, threads or repetitions that make no sense.
    """
    repetition = Repetition(repeats=options.repeats, warm_up=options.warm_up, max_seconds=options.max_seconds)
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but PyTorch finds no GPU: use --device cpu or auto")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return device, repetition
