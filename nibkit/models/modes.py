"""Torch's global modes, as nibkit needs them, whatever its caller has switched on; and a model as it was left."""

import contextlib
import copy
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from .devices import same_products

_inside: ContextVar[bool] = ContextVar("nibkit.modes", default=False)


@contextlib.contextmanager
def plain(grad: bool | None = None, half: tuple[str, torch.dtype] | None = None) -> Iterator[None]:
    """No inference mode, no autocast, float32 as the default, convolutions as products: numbers and gradients do not
    depend on who calls.

    grad: whether gradients are recorded; None: as outside. half: (device type, dtype) of an autocast of nibkit's own.
    Within another `plain` only these two count.
    """
    wanted = torch.is_grad_enabled() if grad is None else grad
    with contextlib.ExitStack() as stack:
        if not _inside.get():
            stack.callback(_inside.reset, _inside.set(True))
            stack.enter_context(torch.inference_mode(False))  # which switches gradients on
            for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if (default := torch.get_default_dtype()) != torch.float32:
                torch.set_default_dtype(torch.float32)
                stack.callback(torch.set_default_dtype, default)
            stack.enter_context(same_products())
        stack.enter_context(torch.set_grad_enabled(wanted))
        if half:
            stack.enter_context(torch.autocast(*half))
        yield


def recordable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it was made in inference mode: no gradient passes through one of those."""
    return tensor.clone() if tensor.is_inference() else tensor


def view(model: nn.Module) -> nn.Module:
    """A model of the same weights, not copied, in eval mode and frozen, while `model` stays as it is.

    What changes the weights in place, as optimizers do, changes both.
    """
    shared = {id(p): nn.Parameter(recordable(p.detach()), requires_grad=False) for p in model.parameters()}
    shared |= {id(b): recordable(b.detach()) for b in model.buffers()}
    return copy.deepcopy(model, shared).eval()


def same_storage(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models, of which one is a view of the other, still share all weights: none was replaced."""
    pairs = [[*model.parameters(), *model.buffers()] for model in (one, other)]
    return len(pairs[0]) == len(pairs[1]) and all(
        a.data_ptr() == b.data_ptr() and a.dtype == b.dtype or b.is_inference() for a, b in zip(*pairs)
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch's DataParallel, DistributedDataParallel and compile."""
    while type(model).__name__ in ("DataParallel", "DistributedDataParallel", "OptimizedModule"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Libraries draw weights before they load others: the caller's random state is not theirs."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        yield
