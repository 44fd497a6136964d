"""Batch norm folded into convolutions, wherever a trial run shows that nothing else takes what lies between."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from bev_lss import FrameCameras, camera_parameters

from .features import StereoReference

if TYPE_CHECKING:
    from .detector import Detector

__all__ = ["fold_batch_norm"]

# Exactly these: a subclass may do more with its weights than convolve.
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d)
# What asks a tensor for its shape and the like does not use its values.
_QUESTIONS = {"__get__", "dim", "size", "stride", "numel", "is_contiguous", "is_floating_point"}


def fold_batch_norm(model: Detector) -> int:
    """Fold every batch norm of a model in evaluation mode into the convolution before it, in place.

    A run on shapes alone finds the pairs: the norm is all that takes the convolution's result, at every call of either.
    Where such a result, folded or not, goes into an ``nn.ReLU`` and nowhere else, the ReLU then works in place.

    Returns:
        How many were folded. Norms of other things, such as those after a sum of convolutions, stay.
    """
    traced = _trace(model)
    for name in traced.sole_relus:
        model.get_submodule(name).inplace = True
    for conv_name, norm_name in traced.pairs:
        norm = model.get_submodule(norm_name)
        model.set_submodule(conv_name, fuse_conv_bn_eval(model.get_submodule(conv_name), norm))
        model.set_submodule(norm_name, _what_is_left(norm))
    return len(traced.pairs)


class _Traced(NamedTuple):
    """Names of modules."""

    pairs: list[tuple[str, str]]  # convolution, and the norm that alone takes its result
    sole_relus: list[str]  # ReLUs that alone take the result of a convolution or norm


def _what_is_left(norm: nn.Module) -> nn.Module:
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _trace(model: Detector) -> _Traced:
    """What follows what in a call of the model, seen on a copy without memory for its weights."""
    meta = _without_memory(model)
    with torch.no_grad(), _Trace(meta) as trace:
        _run_stages(meta)
    pairs = [
        (conv, norm)
        for norm, convs in trace.taken_from(_NORMS).items()
        if (conv := _only(convs)) is not None
        and type(meta.get_submodule(conv)) in _CONVOLUTIONS
        and meta.get_submodule(norm).running_mean is not None
        and trace.calls[conv] == trace.calls[norm]
    ]
    relus = [relu for relu, givers in trace.taken_from((nn.ReLU,)).items() if None not in givers]
    return _Traced(pairs, relus)


def _only(names: set[str | None]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _without_memory(model: Detector) -> Detector:
    """A copy of the model on the meta device; its weights are never copied."""
    tensors = [*model.parameters(), *model.buffers()]
    memo = {id(t): nn.Parameter(t.detach().to("meta"), requires_grad=False) for t in tensors}
    return copy.deepcopy(model, memo)


def _run_stages(model: Detector) -> None:
    """Every module of the model, as a call for one camera runs it."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    cameras = FrameCameras(empty(1, 1, 4, 4), empty(1, 1, 3, 3), empty(1, 1, 3, 3), empty(1, 3, 3))
    features = model.image_features(empty(1, 1, 3, *model.recipe.input_size))
    reference = StereoReference(features.stereo, empty(1, 1, 4, 4)) if model.recipe.stereo else None
    bev = model.frame_map(features, cameras, camera_parameters(cameras), reference).bev
    model.head(model.encoded([bev] * (1 + model.recipe.temporal.history)))


class _Trace(TorchFunctionMode):
    """Counts what takes each result of a convolution or norm, and remembers which module gave it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._uses: Counter[int] = Counter()  # of results, by their id
        self._results: dict[int, tuple[str, Tensor]] = {}  # kept alive, or an id would come again
        self._taken: dict[str, list[int]] = defaultdict(list)
        self._modules = dict(model.named_modules())
        for name, module in self._modules.items():
            if isinstance(module, (*_CONVOLUTIONS, *_NORMS, nn.ReLU)):
                self._watch(name, module)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in _QUESTIONS:
            self._uses.update(id(tensor) for tensor in _tensors((args, kwargs)) if id(tensor) in self._results)
        if func in (F.batch_norm, F.layer_norm, F.gelu):
            return torch.empty_like(args[0])  # shapes are all that counts, and these take long to give them
        return func(*args, **(kwargs or {}))

    def taken_from(self, kinds: tuple[type[nn.Module], ...]) -> dict[str, set[str | None]]:
        """For modules of some types the givers of what they took; None for what they did not have for themselves."""
        return {
            name: {self._results[i][0] if i in self._results and self._uses[i] == 1 else None for i in taken}
            for name, taken in self._taken.items()
            if isinstance(self._modules[name], kinds)
        }

    def _watch(self, name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._taken[name].append(id(inputs[0]))
            self.calls[name] += 1

        def leave(_: nn.Module, __: tuple[Tensor, ...], result: Tensor) -> None:
            self._results[id(result)] = (name, result)

        module.register_forward_pre_hook(enter)
        if not isinstance(module, nn.ReLU):
            module.register_forward_hook(leave)


def _tensors(tree: object) -> Iterator[Tensor]:
    """All tensors of nested arguments."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from _tensors(tuple(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from _tensors(branch)
