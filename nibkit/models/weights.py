"""How backends read the weights of a library's own modules: in place, and at every use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Projection = Callable[[], tuple[Tensor, Tensor | None]]  # -> weight, bias


def norm(module: torch.nn.Module) -> Callable:
    """The module's LayerNorm in the dtype of what it is given (OpenAI's own class computes in float32 only)."""
    if not isinstance(module, torch.nn.LayerNorm):  # an Identity where a model has none
        return module
    return lambda x: F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def parts(n: int, joint: Projection) -> list[Projection]:
    """The n projections that a library keeps one below the other in a joint weight and bias."""
    return [lambda k=k: tuple(None if x is None else x.chunk(n)[k] for x in joint()) for k in range(n)]
