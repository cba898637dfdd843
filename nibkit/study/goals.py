"""What is asked of one GPU, and what it does: pairs per second of each method with its default settings.

The goals are those of one NVIDIA H100 and ViT-B/32's sizes; weights may be random.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..methods import METHODS
from ..metrics.confidence import confidence
from ..models.sharing import shared
from .speed import fastest, pairs, precision


class Goal(NamedTuple):
    """What is to run, and how many pairs a second are asked for. method: a name of METHODS, or "metrics"."""

    method: str
    rate: float
    dtype: str = "tf32"
    batch: int = 256
    options: dict = {}
    search: bool = False  # for a better batch size

    @property
    def label(self) -> str:
        """Method and settings, as a table names them."""
        return " ".join([self.method, *(f"{name}={value}" for name, value in self.options.items())])


GOALS = (
    Goal("nib", 1500, search=True),
    Goal("nib", 3000, "bf16-gradients", search=True),
    Goal("metrics", 3000),
    Goal("rise", 4, "bf16", 8, {"masks": 6000}),
    Goal("m2ib", 300),
    Goal("mfaba", 600, search=True),
    Goal("gae", 2000),
    Goal("legrad", 1500, search=True),
    Goal("grad_eclip", 3000),
    Goal("gradcam", 5000),
    Goal("chefer", 5000),
    Goal("saliency", 5000),
    Goal("fastig", 5000),
    Goal("nib", 1 / 0.015, "float32", 1),
    Goal("nib", 1000, "tf32", 256, {"rule": "exact", "tol": 0.01}),
)
SIZES = ("2GB", "8GB", "24GB")  # beside "auto", to look for a better batch size


def _run(clip, goal: Goal, data, size: str):
    if goal.method != "metrics":
        return lambda: METHODS[goal.method](clip, *data, **goal.options, batch_size=size)
    side = clip.image.size
    maps = np.linspace(0, 1, side * side, dtype=np.float32).reshape(1, side, side).repeat(goal.batch, 0)
    words = [np.linspace(0, 1, len(i), dtype=np.float32) for i in data[1]]
    return lambda: confidence(clip, *data, maps, words)


def measure(clip, goals=GOALS, sizes=SIZES, budget: float = 0.6) -> Iterator[dict]:
    """One row per goal as it is found: method, dtype, batch, goal and got (pairs a second with batch_size "auto"), met;
    then best and best_size, the fastest of `sizes` too (where that is looked for).

    budget: seconds of repeating a measurement; the fastest counts, after one call that warms up.
    """
    for goal in goals:
        # the metrics find the pair's own embeddings known, as in a benchmark; methods find nothing
        with precision(clip, goal.dtype) as ready, shared() if goal.method == "metrics" else contextlib.nullcontext():
            data, rates = pairs(ready, goal.batch), {}
            for size in ("auto", *sizes) if goal.search else ("auto",):
                run = _run(ready, goal, data, size)
                if not rates:
                    run()
                rates[size] = goal.batch / fastest(run, ready.device, budget)
            best = max(rates, key=rates.get)
        row = {"method": goal.label, "dtype": goal.dtype, "batch": goal.batch, "goal": goal.rate, "got": rates["auto"]}
        yield row | {"met": rates["auto"] >= goal.rate, "best": rates[best], "best_size": best}
