"""What depends on where a model is: how much fits there, what to do where it does not, and how products are rounded."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from .sharing import once


@contextlib.contextmanager
def same_products() -> Iterator[None]:
    """Convolutions multiply as matrices do: in tf32 only if `torch.set_float32_matmul_precision` says so, or a patch
    embedding on a GPU would be 1e-3 off by torch's default.
    """
    conv = getattr(torch.backends.cudnn, "conv", None)
    if conv is None or not torch.cuda.is_initialized():  # before torch 2.9 there is no such setting
        yield
        return
    before = conv.fp32_precision
    conv.fp32_precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    try:
        yield
    finally:
        conv.fp32_precision = before


UNITS = {"MB": 10**6, "GB": 10**9}
AUTO = 500 * 10**6  # bytes; more made a CPU slower
SHARE = 0.25  # of what is free on a GPU: `rows_at_once` leaves out what the libraries need for themselves


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that nothing holds: what the driver has, and what torch keeps of it unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def bytes_of(batch_size: str, device: torch.device | None = None) -> int:
    """ "auto", "500MB", "1.5GB" -> bytes, or a ValueError. "auto": SHARE of what is free on CUDA, else AUTO.

    >>> bytes_of("1.5GB")
    1500000000
    """
    if batch_size == "auto":
        return int(SHARE * free_bytes(device)) if device is not None and device.type == "cuda" else AUTO
    number, unit = str(batch_size)[:-2], str(batch_size)[-2:]
    try:
        if (found := int(float(number) * UNITS[unit])) > 0:
            return found
    except (KeyError, ValueError, OverflowError):
        pass
    allowed = 'rows (a whole number >= 1), "auto", or memory such as "500MB"'
    raise ValueError(f"batch_size={batch_size!r} is none of: {allowed}")


Found = TypeVar("Found")
_said = set()


def in_parts(n: int, rows: int, work: Callable[[slice], Found]) -> Iterator[Found]:
    """work(slice) of 0 .. n - 1 in parts of at most `rows`. Where a GPU's memory does not hold a part, half as many
    rows go on from there, which is said once; that of a single row is the error it was.
    """
    start = 0
    while start < n:
        part, full = slice(start, min(n, start + rows)), False
        try:
            found = work(part)
        except torch.cuda.OutOfMemoryError:
            if (size := part.stop - start) == 1:
                raise
            rows, full = size // 2, True
        if not full:
            yield found
            start = part.stop
        else:  # only here, the error gone, is what it held free
            torch.cuda.empty_cache()
            if not _said:
                _said.add("memory")
                warnings.warn(
                    f"the GPU's memory did not hold {size} rows at once; going on with {rows}, and less where needed. "
                    'A smaller batch_size, such as "2GB", spares the attempt',
                    RuntimeWarning,
                    stacklevel=2,
                )


def onto(device: torch.device, x: Tensor) -> Tensor:
    """`x` on the device, without waiting for what a GPU still has to do."""
    return x.to(device, non_blocking=device.type == "cuda")


def at_hand(ids: list[Tensor]) -> list[Tensor]:
    """The ids on the CPU, in one transfer; within `shared`, one for all that ask."""
    if ids[0].device.type == "cpu":
        return ids
    return once((ids, "at hand"), lambda: list(torch.cat(ids).cpu().split([len(i) for i in ids])))
