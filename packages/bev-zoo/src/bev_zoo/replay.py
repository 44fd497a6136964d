"""Stages of a model replayed as CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Replayed", "mapped"]

_KEPT_GRAPHS = 4  # per stage: input shapes whose graphs stay
_WARM_UP = 3  # calls before recording: libraries choose their algorithms and reserve their memory


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Any, ...]  # written before each replay
    outputs: Any  # written by each replay


class Replayed:
    """A stage without host synchronisation, recorded once per shape of its inputs and replayed from then on.

    What the stage computes from its inputs may depend on nothing else that changes. A new shape is recorded anew; the
    graphs of the last four shapes are kept.

    Args:
        run: the stage: nested lists and tuples of tensors (and None) in and out.
        device: the GPU it runs on.
        keep_results: hand out copies; else the next call writes over what this one gave.
    """

    def __init__(self, run: Callable[..., Any], device: torch.device, *, keep_results: bool) -> None:
        self._run = run
        self._device = device
        self._keep_results = keep_results
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()

    def __call__(self, *inputs: Any) -> Any:
        """As the stage itself."""
        key = repr(mapped(lambda tensor: (tuple(tensor.shape), tensor.dtype), inputs))
        if key not in self._graphs:
            with torch.cuda.device(self._device):
                self._graphs[key] = self._record(inputs)
        self._graphs.move_to_end(key)
        while len(self._graphs) > _KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        recorded = self._graphs[key]
        _copy_into(recorded.inputs, inputs)
        recorded.graph.replay()
        return mapped(Tensor.clone, recorded.outputs) if self._keep_results else recorded.outputs

    def _record(self, inputs: tuple[Any, ...]) -> _Graph:
        inputs = mapped(Tensor.clone, inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._run(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._run(*inputs)
        return _Graph(graph, inputs, outputs)


def mapped(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Nested lists and tuples with the function of every tensor in its place."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, (list, tuple)):
        branches = [mapped(function, branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree


def _copy_into(destination: Any, source: Any) -> None:
    if isinstance(source, Tensor):
        destination.copy_(source, non_blocking=True)
    elif isinstance(source, (list, tuple)):
        for into, branch in zip(destination, source, strict=True):
            _copy_into(into, branch)
