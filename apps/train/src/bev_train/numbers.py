"""Numbers that are not finite: which step to leave out, what to blame, when to give up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = [
    "BatchNormStatistics",
    "NonFiniteError",
    "SkippedSteps",
    "describe_gradients",
    "describe_losses",
    "first_non_finite",
]

# The gradient scaler of 16-mixed starts at 2^16 and halves at every overflow: so many halvings are its own affair.
_SCALER_HALVINGS = 20


class NonFiniteError(ValueError):
    """Losses or gradients were infinite or NaN more often than the run may skip steps."""


class SkippedSteps:
    """Counts optimiser steps that were left out, and says when there have been too many in a row.

    Args:
        at_most: steps in a row that may be left out.

    Attributes:
        total: steps left out since the beginning of training.
        in_a_row: those since the last step that was taken.
        is_now: whether the step that just ended was left out.
        gave_up: what was wrong with the one too many; None as long as training goes on.
    """

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self.total = self.in_a_row = 0
        self.is_now = False
        self.gave_up: str | None = None

    def take(self) -> None:
        """A step is taken."""
        self.in_a_row, self.is_now = 0, False

    def skip(self, *, by_scaler: bool) -> bool:
        """A step is left out; returns whether that is one too many.

        Args:
            by_scaler: only gradients overflowed, and a gradient scaler reacts to that.
        """
        self.total += 1
        self.in_a_row += 1
        self.is_now = True
        return self.in_a_row > self.at_most + (_SCALER_HALVINGS if by_scaler else 0)


class BatchNormStatistics:
    """The running statistics of a model as they were before a step, because a forward pass that fails spoils them.

    Args:
        model: the model; it must be on its device already.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._live = [buffer for norm in norms for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._live]

    @torch.no_grad()
    def remember(self) -> None:
        """Take down the statistics of now."""
        _copy(self._live, self._before)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model back what was taken down last."""
        _copy(self._before, self._live)


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    if target:  # a model may do without batch norm
        torch._foreach_copy_(target, source)


class Culprit(NamedTuple):
    """Where a number that is not finite was first seen."""

    module: str
    what: str  # output, gradient

    def __str__(self) -> str:
        return f"first in the {self.what} of {self.module}"


def first_non_finite(
    model: nn.Module, compute_losses: Callable[[], Mapping[str, Tensor]], *, backward: bool
) -> Culprit | None:
    """Run a batch again and name the module in which a number is first not finite; None if all are finite this time.

    No gradient is written into the parameters.

    Args:
        model: what is watched.
        compute_losses: the losses of the batch, as in training.
        backward: compute the gradients too.
    """
    outputs: list[Culprit] = []
    gradients: list[Culprit] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            watch = _watching(name or type(model).__name__, outputs, gradients if backward else None)
            hooks.callback(module.register_forward_hook(watch).remove)
        total = torch.stack(list(compute_losses().values())).sum()
    if backward:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(total, parameters, allow_unused=True)
    return next(iter((*outputs, *gradients)), None)


def _watching(name: str, outputs: list[Culprit], gradients: list[Culprit] | None) -> Callable[..., None]:
    def watch_gradient(gradient: Tensor) -> None:
        if not torch.isfinite(gradient).all():
            gradients.append(Culprit(name, "gradient of the output"))

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if not torch.isfinite(tensor).all():
                outputs.append(Culprit(name, "output"))
            if gradients is not None and tensor.requires_grad:
                tensor.register_hook(watch_gradient)

    return watch


def _tensors(output: Any) -> Iterator[Tensor]:
    """Floating-point tensors in what a module returns."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for part in output:
            yield from _tensors(part)


def describe_losses(losses: Mapping[str, Tensor], tokens: Sequence[str], step: int) -> str:
    """One line about a loss that is not finite: the terms and the samples."""
    terms = ", ".join(f"{name} = {loss.item():g}" for name, loss in losses.items())
    return f"the loss is not finite at step {step} ({terms}; samples {', '.join(tokens)})"


def describe_gradients(gradients: Mapping[str, Tensor], tokens: Sequence[str], step: int, shown: int = 4) -> str:
    """One line about gradients that are not finite, or whose norm is not: the parameters and the samples."""
    names = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    samples = f"samples {', '.join(tokens)}"
    if not names:  # every entry is finite, the sum of their squares is not
        highest, largest = max((gradient.abs().max().item(), name) for name, gradient in gradients.items())
        return f"the norm of the gradient is not finite at step {step} (up to {highest:g} in {largest}; {samples})"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    where = f"{', '.join(names[:shown])}{more}"
    return f"the gradient is not finite at step {step} (in {where}; {samples})"
