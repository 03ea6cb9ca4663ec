"""Which calls may pass by torch's dispatcher: it costs more than the kernels of a small input, and has nothing to add to most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter


def _not_known(*_: object) -> bool:
    return True


def _asked_of(module: Any, name: str) -> Callable[..., Any]:
    """A question of torch's own, which 2.4 to 2.13 can all answer. Where it is gone no call is plain: slower, and right."""
    found: Callable[..., Any] = getattr(module, name, _not_known)
    return found


_function_modes = _asked_of(torch._C, "_len_torch_function_stack")
_tracing_state = _asked_of(torch._C, "_get_tracing_state")
_is_profiled = _asked_of(torch.autograd, "_profiler_enabled")
# Whether a tensor is wrapped (by vmap, by grad, as fake or functional), or any within an active dispatch mode.
_is_wrapped = _asked_of(torch._C, "_dispatch_isTensorSubclassLike")
# Of forward derivatives: -1 outside.
_forward = vars(forward_ad)
# Whoever traces without Dynamo's help is told by its modes.
_is_compiling = torch.compiler.is_dynamo_compiling
_is_grad_enabled = torch.is_grad_enabled

# Themselves: a subclass may have its own say in what an operator does.
_TYPES = frozenset({Tensor, Parameter})


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether a call on these tensors is the backend's affair alone.

    False where somebody between would take part or watch: the call is compiled, traced or profiled; a function mode, a
    dispatch mode or a functorch transform is active; a gradient is wanted, forwards or backwards; a tensor is of a subclass, or
    stands for other values than its memory holds.
    """
    if (
        _is_compiling()
        or _function_modes()
        or _tracing_state() is not None
        or _is_profiled()
        or _forward.get("_current_level", 0) >= 0
    ):
        return False
    with_gradient = _is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _TYPES
            or (with_gradient and tensor.requires_grad)
            or _is_wrapped(tensor)
            or tensor.is_neg()
            or tensor._is_zerotensor()
        ):
            return False
    return True


def refuse_forward_derivatives(**arguments: Tensor | None) -> None:
    """NotImplementedError, by the argument's name, where a tensor carries a forward derivative: the operators would drop it silently."""
    if _forward.get("_current_level", 0) < 0:
        return
    for name, tensor in arguments.items():
        if tensor is None:
            continue
        dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
        if dual.tangent is not None:
            raise NotImplementedError(
                f"{name}: got a tensor with a forward derivative, want reverse mode (backward or torch.autograd.grad), "
                "or detach() where no derivative is wanted"
            )
