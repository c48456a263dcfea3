"""The op mechanism: one pure function is an op's schema, its fallback on any device, its fake kernel and its truth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "diffnoise"
_library = torch.library.Library(NAMESPACE, "DEF")
registry: dict[str, Op] = {}


class Op:
    """A registered op: call it to run the fastest kernel for the device of its tensors.

    `reference` is the pure PyTorch function behind it (differentiable, any floating dtype). PyTorch's dispatcher picks
    the implementation: a C++ or CUDA or Triton kernel where one is loaded for the device, the reference elsewhere.
    """

    def __init__(
        self,
        reference: Callable[..., torch.Tensor],
        check: Callable[..., None],
        fake: Callable[..., torch.Tensor],
        integers_only: bool,
        differentiable: bool,
    ) -> None:
        self.name = reference.__name__
        self.qualified_name = f"{NAMESPACE}::{self.name}"
        self.reference = reference
        self._check = check
        functools.update_wrapper(self, reference)
        _library.define(self.name + torch.library.infer_schema(reference, mutates_args=()))
        _library.impl(self.name, reference, "CompositeExplicitAutograd")
        torch.library.register_fake(self.qualified_name, fake, lib=_library)
        if integers_only:
            # Autograd's part of a call would take longer than a small noise map does.
            _library.impl(self.name, torch.library.fallthrough_kernel, "Autograd")
        elif differentiable:
            torch.library.register_autograd(
                self.qualified_name, self._reference_gradient, setup_context=_save_inputs, lib=_library
            )
        else:
            torch.library.register_autograd(self.qualified_name, self._refuse_gradient, lib=_library)
        self._overload = getattr(getattr(torch.ops, NAMESPACE), self.name).default

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._check(*args, **kwargs)
        return self._overload(*args, **kwargs)

    def _refuse_gradient(self, ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"diffnoise.ops.{self.name} is not differentiable; call diffnoise.ops.{self.name}.reference(...) where a gradient is needed."
        )

    def _reference_gradient(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by running the reference once more; nothing but the inputs was kept."""
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if is_tensor else value for value, is_tensor in ctx.arguments]
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
        with torch.enable_grad():
            for i in wanted:
                arguments[i] = arguments[i].detach().requires_grad_()
            gradients = torch.autograd.grad(self.reference(*arguments), [arguments[i] for i in wanted], grad)
        found = dict(zip(wanted, gradients, strict=True))
        return tuple(found.get(i) for i in range(len(arguments)))

    def has_kernel(self, key: str) -> bool:
        """Whether a kernel of its own (not the reference) is registered for the dispatch key, "CPU" or "CUDA"."""
        return torch._C._dispatch_has_kernel_for_dispatch_key(self.qualified_name, key)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.arguments = [(None, True) if isinstance(value, Tensor) else (value, False) for value in inputs]


def op(
    check: Callable[..., None],
    fake: Callable[..., torch.Tensor] | None = None,
    integers_only: bool = False,
    differentiable: bool = False,
) -> Callable[[Callable[..., torch.Tensor]], Op]:
    """Register the decorated function as `torch.ops.diffnoise.<name>`.

    `check` takes the same arguments and raises `ValueError` with a full sentence. `fake` gives the output's shape and
    dtype where tracing the reference itself would be slow; by default the reference runs on fake tensors.
    `integers_only`: no tensor argument can require a gradient. `differentiable`: gradients are those of the reference; without it
    they are refused.
    """

    def register(reference: Callable[..., torch.Tensor]) -> Op:
        registered = Op(reference, check, fake or reference, integers_only, differentiable)
        registry[registered.name] = registered
        return registered

    return register
