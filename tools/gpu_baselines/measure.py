"""Times of work on a GPU, taken in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Clock:
    """Takes the median time of several ways to do the same thing, one after the other, again and again."""

    repetitions: int = 30
    warm_up: int = 3

    def in_graphs(self, ways: dict[str, Work], calls: int = 10) -> dict[str, float]:
        """Microseconds of device time per call: each way is captured ``calls`` times in a CUDA graph and replayed.

        Leaves out what the host does in between; for work that does not wait for the device.
        """
        graphs = {name: _captured(work, calls) for name, work in ways.items()}
        return {name: time / calls for name, time in self.eagerly({n: g.replay for n, g in graphs.items()}).items()}

    def eagerly(self, ways: dict[str, Work]) -> dict[str, float]:
        """Microseconds per call as a program sees it, launches and waiting included."""
        times: dict[str, list[float]] = {name: [] for name in ways}
        for repetition in range(self.warm_up + self.repetitions):
            for name, work in ways.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                start.record()
                work()
                end.record()
                torch.cuda.synchronize()
                if repetition >= self.warm_up:
                    times[name].append(start.elapsed_time(end) * 1e3)
        return {name: statistics.median(taken) for name, taken in times.items()}


def copy_bandwidth() -> float:
    """Bytes per second of a large copy on the device, read and written bytes counted."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    time = Clock(repetitions=10).eagerly({"copy": lambda: target.copy_(source)})["copy"]
    return 2 * source.numel() / (time * 1e-6)


def peak_bytes(work: Work) -> int:
    """Device memory that a call takes at most, beyond what was taken before; its result included."""
    work()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = work()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def _captured(work: Work, calls: int) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    return graph
