"""The op mechanism: one pure function is an op's schema, its fallback on any device, its fake kernel and its truth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._overlap import refuse_overlap

NAMESPACE = "diffnoise"
_library = torch.library.Library(NAMESPACE, "DEF")
registry: dict[str, Op] = {}


class Op:
    """A registered op: call it to run the fastest kernel for the device of its tensors.

    `reference` is the pure PyTorch function behind it (differentiable, any floating dtype). PyTorch's dispatcher picks
    the implementation: a C++ or CUDA or Triton kernel where one is loaded for the device, the reference elsewhere.
    Where `takes_out`, a call with `out=` writes the result there, without memory of its own, and returns it; `out` may be one of
    the inputs, of the same shape and strides.
    """

    def __init__(
        self,
        reference: Callable[..., torch.Tensor],
        check: Callable[..., None],
        fake: Callable[..., torch.Tensor],
        integers_only: bool,
        out: bool,
        differentiable: bool,
    ) -> None:
        self.name = reference.__name__
        self.qualified_name = f"{NAMESPACE}::{self.name}"
        self.reference = reference
        self.takes_out = out
        self._check = check
        functools.update_wrapper(self, reference)
        schema = torch.library.infer_schema(reference, mutates_args=())
        _library.define(self.name + schema)
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
        if out:
            self._define_out(schema)
        packet = getattr(getattr(torch.ops, NAMESPACE), self.name)
        self._overload = packet.default
        self._out_overload = packet.out if out else None

    def __call__(self, *args: Any, out: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        if out is None:
            self._check(*args, **kwargs)
            return self._overload(*args, **kwargs)
        if self._out_overload is None:
            raise TypeError(f"diffnoise.ops.{self.name} takes no out=.")
        self._check(*args, **kwargs, out=out)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, out)):
            raise RuntimeError(f"{self._hint} with out=; leave out= away, or call it under torch.no_grad().")
        refuse_overlap(out, tensors)
        self._out_overload(*args, **kwargs, out=out)
        return out

    def _define_out(self, schema: str) -> None:
        name = f"{self.name}.out"
        _library.define(name + schema.removesuffix(") -> Tensor") + ", *, Tensor(a!) out) -> ()")
        _library.impl(name, self._copy_result, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *args, **kwargs: None, lib=_library)
        _library.impl(name, torch.library.fallthrough_kernel, "Autograd")
        _library.impl(name, self._count_version, "ADInplaceOrView", with_keyset=True)

    def _copy_result(self, *args: Any, out: torch.Tensor, **kwargs: Any) -> None:
        out.copy_(self.reference(*args, **kwargs))

    def _count_version(self, keys: torch.DispatchKeySet, *args: Any, out: torch.Tensor, **kwargs: Any) -> None:
        """Lets autograd notice that a tensor saved for a backward pass has been overwritten."""
        torch.autograd.graph.increment_version(out)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            self._out_overload.redispatch(keys & torch._C._after_ADInplaceOrView_keyset, *args, out=out, **kwargs)

    @property
    def _hint(self) -> str:
        return f"diffnoise.ops.{self.name} is not differentiable"

    def _refuse_gradient(self, ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{self._hint}; call diffnoise.ops.{self.name}.reference(...) where a gradient is needed.")

    def _reference_gradient(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by running the reference once more; nothing but the inputs was kept."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"diffnoise.ops.{self.name} has no second derivative; call diffnoise.ops.{self.name}.reference(...) where one is needed."
            )
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
    out: bool = False,
    differentiable: bool = False,
) -> Callable[[Callable[..., torch.Tensor]], Op]:
    """Register the decorated function as `torch.ops.diffnoise.<name>`.

    `check` takes the same arguments and raises `ValueError` with a full sentence. `fake` gives the output's shape and
    dtype where tracing the reference itself would be slow; by default the reference runs on fake tensors.
    `integers_only`: no tensor argument can require a gradient. `out`: there is an overload `<name>.out`, too, for which a kernel of
    its own may be registered; `check` then takes `out=` and sees to its shape and dtype. `differentiable`: gradients are
    those of the reference; without it they are refused.
    """

    def register(reference: Callable[..., torch.Tensor]) -> Op:
        registered = Op(reference, check, fake or reference, integers_only, out, differentiable)
        registry[registered.name] = registered
        return registered

    return register
