"""Registration of the operators with ``torch.library``.

Every operator is defined once, with the plain-PyTorch reference as the kernel of every device. Compiled kernels
register themselves for their device when their library is loaded, and the dispatcher then prefers them. The reference
kernel is what runs first on a device: it asks for the compiled library, and hands over when there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _kernels

NAMESPACE = "bev_ops"

_library = torch.library.Library(NAMESPACE, "DEF")


def define_op(name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Defines ``bev_ops::name`` and returns its callable overload.

    Args:
        name: name of the operator.
        schema: arguments and returns, such as ``"(Tensor a) -> Tensor"``.
        reference: plain-PyTorch kernel, run on devices without a compiled one.
        fake: shapes, types and devices of the results, for torch.compile and torch.export.
    """
    qualified = f"{NAMESPACE}::{name}"
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(getattr(torch.ops, NAMESPACE), name).default

    def kernel(*args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if _kernels.load(device) and _has_compiled(qualified, device):
            return op(*args)
        return reference(*args)

    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    return op


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Gives ``bev_ops::name`` its gradient."""
    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_library)


def _has_compiled(qualified: str, device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(qualified, device.upper())
