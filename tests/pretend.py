"""A GPU for machines without one: tensors whose device reads cuda:0 and whose numbers are a CPU's.

What a real GPU would refuse is refused: tensors on two devices, a CPU's generator for a GPU's numbers, `.numpy()`.
torch's own FakeTensorMode knows such tensors too, but has no numbers, so code that reads one back ends there; nor can
it go backward without a GPU. To torch's C++ these tensors are on "meta", whose backward pass runs on the CPU.
"""

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from nibkit.benchmark import batch
from nibkit.models import devices

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
WAITS = []  # what a GPU would have had to catch up with, operation by operation
MOVES = {aten._to_copy, aten.copy_}
BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class Pretend(torch.Tensor):
    """A tensor on the GPU that is not there; its numbers are those of `held`."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        kept = {"dtype": held.dtype, "strides": held.stride(), "storage_offset": held.storage_offset()}
        self = torch.Tensor._make_wrapper_subclass(cls, held.size(), device="meta", **kept)
        self.held = held
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __getitem__(self, index):  # torch's C++ makes the tensor of a list on "meta", without its numbers
        index = tuple(
            torch.tensor(i) if isinstance(i, list) else i for i in (index if isinstance(index, tuple) else (index,))
        )
        return super().__getitem__(index)

    def tolist(self):
        WAITS.append("tolist")
        return self.held.tolist()

    def __repr__(self):
        return f"Pretend({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def _checked(function, tensors: list[torch.Tensor], there: list[bool], first) -> None:
    if all(there) or not any(there) or function.overloadpacket in MOVES:
        return
    here = [t for t, gone in zip(tensors, there) if not gone]
    by_index = function.overloadpacket in BY_INDEX and isinstance(first, Pretend)
    if not by_index and any(t.ndim for t in here):
        shapes = [(tuple(t.shape), "cuda:0" if gone else "cpu") for t, gone in zip(tensors, there)]
        raise RuntimeError(f"Expected all tensors to be on the same device: {function} of {shapes}")


def waits(function, kwargs: dict, to_gpu: bool, from_gpu: bool) -> bool:
    """Does the CPU wait here for the GPU? Numbers read back, shapes that depend on numbers, plain uploads."""
    if function.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select):
        return from_gpu
    if function.overloadpacket is aten._to_copy and to_gpu != from_gpu:
        return from_gpu or not kwargs.get("non_blocking")
    return False


def run(function, args, kwargs):
    """One operation: refused as a GPU would, else done on the numbers."""
    flat, form = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    there = [isinstance(x, Pretend) for x in tensors]
    _checked(function, tensors, there, args[0] if args else None)
    device = kwargs.get("device")
    on_gpu = torch.device(device).type in ("cuda", "meta") if device is not None else any(there)
    rng = kwargs.get("generator")
    if rng is not None and (rng.device.type == "cpu") == on_gpu:
        raise RuntimeError(
            f"Expected a {'cuda' if on_gpu else 'cpu'!r} device type for generator but found {rng.device.type!r}"
        )
    if function is aten._fused_sdp_choice.default:
        return 0  # attention by plain products, which knows every device
    if waits(function, kwargs, on_gpu, any(there)):
        WAITS.append(str(function))
    args_, kwargs_ = tree_unflatten([x.held if isinstance(x, Pretend) else x for x in flat], form)
    if device is not None:
        kwargs_ = {**kwargs_, "device": CPU}
    out = function(*args_, **kwargs_)
    if function._schema.name.endswith("_") and not function._schema.name.endswith("__"):
        return args[0]
    return tree_map(lambda x: Pretend(x) if on_gpu and isinstance(x, torch.Tensor) else x, out)


class Mode(TorchDispatchMode):
    """Sends what makes tensors on "cuda", or moves them there, to `run`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


@contextlib.contextmanager
def gpu(free: int = 10**9):
    """While it is open, device="cuda:0" is to be had, with `free` bytes on it."""
    ways = (
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None),
        mock.patch.object(torch.cuda, "empty_cache", lambda: None),
        mock.patch.object(torch.cuda, "synchronize", lambda: None),
        mock.patch.object(torch.Tensor, "pin_memory", lambda self: self),
        mock.patch.object(devices, "free_bytes", lambda device: free),
        mock.patch.object(
            batch, "ThreadPoolExecutor", partial(ThreadPoolExecutor, initializer=lambda: Mode().__enter__())
        ),
        Mode(),
    )
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # or .double() would turn the outside alone
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        for way in ways:
            stack.enter_context(way)
        yield


def there(x):
    """The same numbers on the GPU: tensors, lists of tensors, or a Clip."""
    if isinstance(x, list):
        return [there(part) for part in x]
    if isinstance(x, torch.Tensor):
        return Pretend(x.detach())
    model = copy.deepcopy(x.model)
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    moved = Pretend(tensor.detach())
                    kind[name] = torch.nn.Parameter(moved, False) if kind is module._parameters else moved
    return type(x)(x.name, model, x._backend, x._transform, x._tokenizer, CUDA)
