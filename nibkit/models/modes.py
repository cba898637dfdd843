"""Torch's global modes, as nibkit needs them, whatever the caller has switched on."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def plain(grad: bool | None = None) -> Iterator[None]:
    """No inference mode, no autocast, float32 as the default: numbers and gradients do not depend on who calls.

    grad: whether gradients are recorded; None: as outside. Half precision, where a model is loaded with it, is switched on again
    inside, for the passes that nobody differentiates.
    """
    default = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        wanted = torch.is_grad_enabled() if grad is None else grad
        stack.enter_context(torch.inference_mode(False))  # which switches gradients on
        stack.enter_context(torch.set_grad_enabled(wanted))
        for kind in {"cpu", *([torch.accelerator.current_accelerator().type] if torch.cuda.is_available() else [])}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if default != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, default)
        yield
