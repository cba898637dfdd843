"""Small batches without gradients by CUDA graphs: telling a GPU what to do takes longer there than doing it.

What comes for the third time with the same shapes is recorded, and from then on told in one piece. The kernels are the
same, so the numbers are too, bit for bit. Larger batches keep a GPU busy by themselves.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from threading import Lock

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

ROWS = 8  # of a batch
OFTEN = 3
KEPT = 32  # recordings of a tower
enabled = True


def record(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """`function` as a graph of these inputs' shapes. Errors: RuntimeError where CUDA cannot record it."""
    held, stream = [x.clone() for x in inputs], torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries set themselves up outside of a recording
        function(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = function(*held)

    def replay(*given: Tensor) -> Tensor:
        for place, x in zip(held, given):
            place.copy_(x)
        graph.replay()
        return out.clone()

    return replay


class Graphs:
    """The recordings of one tower, by name, shapes and precision."""

    def __init__(self):
        self._seen, self._known, self._lock = Counter(), {}, Lock()

    @classmethod
    def of(cls, tower) -> "Graphs":
        """A tower's own; a view of it with other blocks has others."""
        if getattr(tower, "_graphs", (None,))[0] is not tower.blocks:
            tower._graphs = tower.blocks, cls()
        return tower._graphs[1]

    def __call__(self, name: Hashable, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """function(*inputs), where it pays by a recording of it."""
        kind = inputs[0].device.type
        small = enabled and kind == "cuda" and len(inputs[0]) <= ROWS and not torch.is_grad_enabled()
        if not small or _get_current_dispatch_mode() is not None:  # which wants to see every operation
            return function(*inputs)
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        shapes = tuple((x.shape, x.dtype) for x in inputs)
        key = name, shapes, half, torch.get_float32_matmul_precision(), inputs[0].device
        with self._lock:  # a recording has one place for its inputs
            self._seen[key] += 1
            if key not in self._known and self._seen[key] >= OFTEN and len(self._known) < KEPT:
                try:
                    self._known[key] = record(function, inputs)
                except RuntimeError:  # such as an operation that waits for the CPU
                    self._known[key] = function
            return self._known.get(key, function)(*inputs)
