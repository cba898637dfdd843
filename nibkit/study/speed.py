"""What the methods cost on this machine: seconds, work and memory per pair, beside its matrix rate and a naive loop.

Work is counted, not estimated: multiplications and additions of all matrix products and convolutions that really ran.
The naive loop is `efficiency.published` with the gradients of all weights: one pair and one step at a time, nothing
shared.
"""

import contextlib
import ctypes
import functools
import gc
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..attribution import Attribution
from ..checks import one_of
from ..methods import METHODS
from ..metrics.confidence import confidence
from ..metrics.stats import relative_difference
from ..models.sharing import shared
from ..plots import colour
from . import efficiency

DTYPES = ("float32", "tf32", "bf16", "bf16-gradients")
HALVES = DTYPES[2:]
PLAN = {  # label -> (name of METHODS, options): the paper's eight, rise with fewer masks, and the certified integral
    **{name: (name, {}) for name in efficiency.PUBLISHED if name != "rise"},
    "rise (20 masks)": ("rise", {"masks": 20, "text_masks": 20}),
    "nib exact (to 1 %)": ("nib", {"rule": "exact"}),
}
BUDGET = 2.0  # seconds of repeating a measurement; the fastest counts


def plan(names: Iterable[str]) -> dict[str, tuple[str, dict]]:
    """What PLAN has of these methods; those it does not have with their defaults. Errors: ValueError."""
    names = [one_of("method", name, METHODS) for name in names]
    known = {label: how for label, how in PLAN.items() if how[0] in names}
    return known | {name: (name, {}) for name in names if name not in {how[0] for how in known.values()}}


def pairs(clip, n: int, words: int = 10, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """n pairs of noise, each text of `words` random tokens: cost depends on sizes alone. Pixels and ids."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.standard_normal((n, 3, clip.image.size, clip.image.size), np.float32))
    [a] = clip.tokenize(["a"])
    inner = torch.from_numpy(rng.integers(300, min(len(clip.text.embedding), 30000), (n, words)))
    ids = [torch.cat([a[: clip.text.before], row.to(a), a[-1:]]) for row in inner]
    return pixels.to(clip.device), ids


@contextlib.contextmanager
def precision(clip, dtype: str) -> Iterator:
    """`clip` in a dtype of DTYPES, the weights shared: bf16 is `nibkit.load(dtype="bfloat16")`, passes that nobody
    differentiates (NIB's integrand stays float32); bf16-gradients those too, `nibkit.load(gradients="bfloat16")`; tf32
    is a setting of all of float32's products. Errors: ValueError.
    """
    one_of("dtype", dtype, DTYPES)
    if dtype == "tf32" and clip.device.type != "cuda":
        raise ValueError(f"dtype='tf32' is a mode of NVIDIA GPUs; this model is on {clip.device}: take float32 or bf16")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        half, gradients = (torch.bfloat16 if dtype in names else torch.float32 for names in (HALVES, HALVES[1:]))
        yield clip.around(clip.model, half, gradients)
    finally:
        torch.set_float32_matmul_precision(before)


def timed(run: Callable, device: torch.device) -> float:
    """Seconds of one run, its work on the device included."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fastest(run: Callable, device: torch.device, budget: float = BUDGET) -> float:
    """Seconds of the fastest of up to five runs, as many as fit the budget (seconds), at least one."""
    times = []
    while not times or (sum(times) + min(times) < budget and len(times) < 5):
        times.append(timed(run, device))
    return min(times)


def matrix_rate(clip, dtype: str = "float32", budget: float = 0.5, size: int = 2048) -> float:
    """GFLOP/s of the product of two square matrices where the model is, the fastest of some: what there is to be
    had.
    """
    with precision(clip, dtype):
        single = torch.randn(2, size, size, device=clip.device)
        a, b = single.bfloat16() if dtype in HALVES else single
        a @ b
        return 2e-9 * size**3 / fastest(lambda: a @ b, clip.device, budget)


def peak(run: Callable, device: torch.device) -> float:
    """MB that a run needs at most beyond what is there before it: a GPU's, or a Linux process's; nan elsewhere."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if sys.platform != "linux":
        return math.nan
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what was freed before shall not hide what is taken now
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    run()
    return (_kilobytes("VmHWM") - before) / 1e3


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(
    clip,
    methods: dict[str, tuple[str, dict]] = PLAN,
    batches: Iterable[int] = (1, 8),
    dtype: str = "float32",
    naive: bool = True,
    budget: float = BUDGET,
) -> Iterator[dict]:
    """One row per method and batch size, then what the metrics cost, then one pair by all of the paper's methods that
    are asked for but RISE, as a benchmark takes it: with their metrics, and what they share done once.

    methods: label -> (name of METHODS, options). batches: pairs per call. dtype: see `precision`. naive: run the naive
    loop of one pair too, once, where the method has one. budget: seconds of repeating each measurement.

    Keys: method, batch, seconds (per pair), passes, gflop (per pair), rate (share of `matrix_rate`, which is measured
    before each method, since others may use the machine), peak_mb, naive_seconds, speedup (naive_seconds / seconds),
    error (in half precision: the largest deviation from float32, as a share of the largest score; else 0), best_seconds
    and best_size (of a method at the largest of `batches`: the fastest batch_size of "auto" and SIZES; else nan).
    """
    with precision(clip, dtype) as clip:
        yield from _measured(clip, methods, list(batches), dtype, naive, budget)


def _measured(clip, methods, batches, dtype, naive, budget) -> Iterator[dict]:
    slowly = {}
    for label, (name, options) in methods.items():
        slow = slowly[label] = _naive_seconds(clip, name, options) if naive else math.nan
        for batch in batches:
            data = pairs(clip, batch)
            run = functools.partial(_explain, METHODS[name], data, options)
            row = _row(clip, label, batch, run, dtype, budget, slow, _deviation(clip, run, dtype))
            yield row | (_best(clip, run, row["seconds"], batch, budget) if batch == max(batches) else {})
    for batch in batches:  # the pair's own embeddings are known, as in a benchmark
        data = pairs(clip, batch)
        side = clip.image.size
        maps = np.linspace(0, 1, side * side, dtype=np.float32).reshape(1, side, side).repeat(batch, 0)
        words = [np.linspace(0, 1, len(i), dtype=np.float32) for i in data[1]]
        with shared():
            def run(clip):
                return confidence(clip, *data, maps, words)
            run(clip)
            yield _row(clip, "metrics of one method", batch, run, dtype, budget, math.nan, 0.0)
    if len(names := [label for label in methods if label in efficiency.PUBLISHED and label != "rise"]) > 1:
        data = pairs(clip, 1)
        def run(clip):
            return _together(clip, data, [methods[name] for name in names])
        yield _row(clip, f"{len(names)} methods, metrics", 1, run, dtype, budget, sum(slowly[n] for n in names), 0.0)


def _explain(method: Callable, data, options: dict, clip, **more) -> Attribution:
    return method(clip, *data, **options, **more)


SIZES = {"cpu": ("100MB", "2GB"), "cuda": ("2GB", "8GB", "24GB")}  # tried beside "auto"


def _best(clip, run: Callable, seconds: float, batch: int, budget: float) -> dict:
    """The batch_size that is fastest, and its seconds per pair; "auto" took `seconds`."""
    found = {"auto": seconds}
    for size in SIZES.get(clip.device.type, ()):
        found[size] = fastest(lambda: run(clip, batch_size=size), clip.device, budget) / batch
    size = min(found, key=found.get)
    return {"best_seconds": found[size], "best_size": size}


def _together(clip, data, methods: list[tuple[str, dict]]) -> None:
    with shared():
        for name, options in methods:
            a = METHODS[name](clip, *data, **options)
            confidence(clip, *data, a.heatmap(), a.word_scores())


ATTENTION_ON_CPU = {  # torch's own table has the GPU's kernels
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_val, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, out_val, **__: (
        sdpa_backward_flop_count(g.shape, q.shape, k.shape, v.shape)
    ),
}


class Work(TorchDispatchMode):
    """Counts floating-point operations while it is on, by torch's own formulas: `flop`.

    torch's FlopCounterMode also hooks every module, and `autograd.grad` by a module's output then fails on leaves.
    """

    flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        if count := ATTENTION_ON_CPU.get(packet) or flop_registry.get(packet):
            self.flop += count(*args, **(kwargs or {}), out_val=out)
        return out


def _row(clip, label, batch, run, dtype, budget, slow, deviation) -> dict:
    with Work() as counted:  # also warms up
        result = run(clip)
    rate = matrix_rate(clip, dtype, min(budget, 0.5))
    found = []
    memory = peak(lambda: found.append(fastest(lambda: run(clip), clip.device, budget)), clip.device)
    gflop, seconds = counted.flop / 1e9 / batch, found[0] / batch
    passes = result.info.passes.max() if isinstance(result, Attribution) else math.nan if result is None else 1
    return {
        "method": label,
        "batch": batch,
        "seconds": seconds,
        "passes": passes if math.isnan(passes) else int(passes),
        "gflop": gflop,
        "rate": gflop / seconds / rate,
        "peak_mb": memory,
        "naive_seconds": slow,
        "speedup": slow / seconds,
        "error": deviation,
        "best_seconds": math.nan,
        "best_size": "",
    }


def _naive_seconds(clip, name: str, options: dict) -> float:
    """Seconds for one pair; nan where there is no such loop, or none with these options."""
    loop = efficiency.PUBLISHED.get(name)
    if not loop or not options.keys() <= inspect.signature(loop).parameters.keys():
        return math.nan
    data = pairs(clip, 1)
    return fastest(lambda: efficiency.published(clip, name, *data, weights=True, **options), clip.device, 0)


def _deviation(clip, run: Callable, dtype: str) -> float:
    if dtype == "float32":
        return 0.0
    got = run(clip).image
    with precision(clip, "float32") as exact:
        want = run(exact).image
    return relative_difference(want, got)


# --- how the cost grows --------------------------------------------------------------------------------------------


def scaling(clip, dtype: str = "float32", most: int = 16, repeats: int = 1) -> pd.DataFrame:
    """Cost of NIB against what may grow: columns `of` ("pairs", "steps", "layer"), `n`, `seconds` (the median of
    `repeats` calls), `fastest`, `slowest`, `gflop` (all pairs).

    Pairs: 1, 2, 4 .. `most` with ten steps at the default layer. Steps: 1 .. 20, and layers: all, with one pair.
    """
    doubled = [2**k for k in range(int(math.log2(most)) + 1)]
    layers = range(min(len(clip.image.blocks), len(clip.text.blocks)))
    grid = [("pairs", n, n, {}) for n in doubled]
    grid += [("steps", n, 1, {"steps": n}) for n in (1, 2, 5, 10, 15, 20)]
    grid += [("layer", n, 1, {"layer": n}) for n in layers]
    rows = []
    with precision(clip, dtype) as clip:
        for of, n, batch, options in grid:
            data = pairs(clip, batch)
            def run():
                return METHODS["nib"](clip, *data, **options)
            with Work() as counted:
                run()
            taken = [timed(run, clip.device) for _ in range(repeats)]
            spread = {"seconds": np.median(taken), "fastest": min(taken), "slowest": max(taken)}
            rows.append({"of": of, "n": n, **spread, "gflop": counted.flop / 1e9})
    return pd.DataFrame(rows)


def draw(axes: Sequence[Axes], table: pd.DataFrame) -> None:
    """What `scaling` found, on four axes: seconds against pairs, steps and layer with straight fits; pairs a second.

    Whiskers: the fastest and the slowest call.
    """
    labels = {"pairs": "pairs in one call", "steps": "steps, one pair", "layer": "layer that is cut, one pair"}
    for ax, (of, label) in zip((axes[0], axes[2], axes[3]), labels.items()):
        part = table[table.of == of]
        slope, start = np.polyfit(part.n, part.seconds, 1)
        ax.plot(part.n, start + slope * part.n, color="0.7", lw=1, label=f"{start:.3f} {slope:+.4f} n")
        _points(ax, part.n, part.seconds, part.fastest, part.slowest, "o")
        ax.set(xlabel=label, ylabel="seconds", ylim=(0, None))
        ax.legend(frameon=False, loc="lower left" if slope < 0 else "lower right")
    part = table[table.of == "pairs"]
    _points(axes[1], part.n, *(part.n / part[column] for column in ("seconds", "slowest", "fastest")), "o-")
    axes[1].set(xscale="log", xlabel=labels["pairs"], ylabel="pairs per second", ylim=(0, None))
    axes[1].set_xticks(part.n, part.n)
    axes[1].minorticks_off()
    axes[3].xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(ax: Axes, x: pd.Series, y: pd.Series, low: pd.Series, high: pd.Series, form: str) -> None:
    ax.errorbar(x, y, [y - low, high - y], fmt=form, color=colour("nib"), elinewidth=1)
