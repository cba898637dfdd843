"""How long the paper's Table 2 takes from files to rows, on made-up JPEGs: eight methods, 6,000 masks, with reading."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from .. import benchmark, data
from .efficiency import PUBLISHED
from .speed import precision

SIZE = (640, 480)  # a photo of Flickr8k or of Conceptual Captions is about as large
WORDS = (
    "a",
    "dog",
    "on",
    "the",
    "grass",
    "red",
    "bus",
    "two",
    "people",
    "near",
    "water",
    "photo",
    "of",
    "small",
    "house",
)


def write(folder: Path, n: int, seed: int = 0) -> Path:
    """n JPEGs of smooth noise and captions of six to fourteen words; the CSV that lists them."""
    rng, rows = np.random.default_rng(seed), []
    for k in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=90)
        rows.append({"image": f"{k}.jpg", "text": " ".join(rng.choice(WORDS, rng.integers(6, 15)))})
    pd.DataFrame(rows).to_csv(folder / "pairs.csv", index=False)
    return folder / "pairs.csv"


def measure(clip, n: int, dtype: str = "float32", batch: int = 128, masks: int = 6000) -> Iterator[tuple[str, float]]:
    """(what, figure): the pairs, the seconds of everything, of 1,000 pairs at that pace, and of each method by itself.

    The first pair goes through all methods before the clock starts: a GPU's libraries load their kernels then.
    """
    plan = {name: (name, {"masks": masks} if name == "rise" else {}) for name in PUBLISHED}
    with TemporaryDirectory() as folder, precision(clip, dtype) as clip:
        pairs = data.load(write(Path(folder), n))
        benchmark.run(clip, pairs, plan | {"rise": ("rise", {"masks": 8})}, n_pairs=1, progress=False)
        started = time.perf_counter()
        rows = benchmark.run(clip, pairs, plan, batch=batch, progress=False)
        seconds = time.perf_counter() - started
    if failed := [error for error in rows.error if error]:
        raise RuntimeError(f"{len(failed)} of {len(rows)} rows failed, the first: {failed[0]}")
    yield "pairs", n
    yield "seconds, reading included", seconds
    yield "minutes for 1,000 pairs", seconds / n * 1000 / 60
    for name, part in rows.groupby("method", sort=False).seconds:
        yield f"{name}: seconds", part.sum()
