"""Do maps depend on the model, the text and the picture, and on nothing else?

    rows = run(clip, data.load("scenes-captions")[:8], {"nib": METHODS["nib"], "centre": METHODS["centre"]})
    verdicts(rows)

A method's map of a pair is compared with the map it gives when one thing is changed. Where the change takes away what
the map claims to explain, the two must differ; where it is of no account, they must agree (CHECKS).

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (weights, top down); Hedström et al., Sanity Checks
Revisited, 2024 (the efficient form: complexity before and after, instead of a similarity at every block).
"""

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from skimage.metrics import structural_similarity

from ..attribution import Attribution, min_max, upsample
from ..metrics.stats import mean_interval, relative_difference, spearman
from ..models.sharing import shared

PARTS = ("image", "text")


class Check(NamedTuple):
    """What is measured (a mean over pairs), and on which side of `threshold` it must lie."""

    threshold: float
    above: bool
    measures: str


CHECKS = {
    "weights": Check(0.5, False, "Spearman: all weights shuffled against the trained model"),
    "weights, SSIM": Check(0.5, False, "structural similarity of the same two heat maps"),
    "complexity": Check(0.0, True, "relative rise of the heat map's entropy once all weights are shuffled"),
    "other pair": Check(0.5, False, "Spearman: a map with another caption (words: another picture) against its own"),
    "noise": Check(0.7, True, "Spearman: a little noise on the pixels against none"),
    "noise, top": Check(0.7, True, "share of the highest tenth of places that stays in it under this noise"),
    "seed": Check(0.9, True, "Spearman: another seed"),
    "batch": Check(0.01, False, "largest difference, a pair alone against in a batch, relative to the largest score"),
    "threads": Check(0.01, False, "the same, two threads against one"),
    "float64": Check(0.01, False, "the same, float32 against float64"),
}

# --- the model, shuffled ---------------------------------------------------------------------------------------------


def depths(names: Sequence[str]) -> dict[str, int]:
    """Parameter name -> its place in the cascade: 0 behind the blocks, 1 the last block, ..., highest: the input."""
    found = {name: re.search(r"\.(\d+)\.", name) for name in names}
    last: dict[str, int] = {}  # of each encoder, told by what stands before the number
    for name, match in found.items():
        if match:
            stem = name[: match.start()]
            last[stem] = max(last.get(stem, 0), int(match[1]))
    end = max(last.values()) + 2
    blocks = {name: 1 + last[name[: m.start()]] - int(m[1]) for name, m in found.items() if m}
    start = re.compile("embed|conv1|cls_token|ln_pre|pre_layrnorm")
    return {name: blocks.get(name, end if start.search(name) else 0) for name in names}


def cascade(clip, every: int = 4, seed: int = 0) -> Iterator[tuple[int, object]]:
    """Copies of `clip` with ever more weights shuffled from the top down: (blocks shuffled in each encoder, Clip).

    What is behind the blocks goes with the first `every` blocks, then `every` more at a time; the last stage takes the
    embeddings too, so that nothing trained is left. Shuffled means each tensor's entries in another order (zeros, such
    as unused vocabulary, stay where they are): a tensor keeps its mean and spread. `clip` itself is never touched.
    """
    clip, generator = copy.deepcopy(clip), torch.Generator().manual_seed(seed)
    parameters = dict(clip.model.named_parameters())
    depth = depths(list(parameters))
    done, blocks = -1, max(depth.values()) - 1
    for reached in [*range(every, blocks, every), blocks]:
        until = reached + (reached == blocks)
        for name, weight in parameters.items():
            if done < depth[name] <= until:
                flat = weight.data.view(-1)
                used = flat.nonzero()[:, 0].cpu()
                flat[used] = flat[used[torch.randperm(len(used), generator=generator)]]
        done = until
        yield reached, clip.around(clip.model)


# --- two maps --------------------------------------------------------------------------------------------------------


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two sets of scores; 1 if they are equal, 0 if only one of them is flat."""
    return 1.0 if np.array_equal(a, b) else float(spearman(np.ravel(a), np.ravel(b)))


def top(a: np.ndarray, b: np.ndarray, share: float = 0.1) -> float:
    """How much of the highest `share` of places in a is in that of b, 0 .. 1."""
    k = int(np.ceil(share * a.size))
    return len(np.intersect1d(np.argsort(-np.ravel(a))[:k], np.argsort(-np.ravel(b))[:k])) / k


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two patch maps as [0, 1] heat maps, -1 .. 1."""
    return float(structural_similarity(*heat(a, b), data_range=1.0))


def complexity(a: np.ndarray, b: np.ndarray) -> float:
    """Relative rise of the heat maps' entropy from a to b (histogram of 100 bins); nan where a is flat."""
    before, after = (stats.entropy(np.histogram(x, 100, (0, 1))[0]) for x in heat(a, b))
    return float((after - before) / before) if before else float("nan")


def heat(*maps: np.ndarray, size: int = 224) -> list[np.ndarray]:
    """Patch maps (rows, columns) -> heat maps (size, size) in [0, 1]."""
    return [min_max(upsample(m[None], size)[0]) for m in maps]


def scores(a: Attribution, part: str, k: int, before: int = 1) -> np.ndarray:
    """Pair k's patch scores, or those of its words: what is `before` them (BOS) and EOS left out."""
    return a.image[k] if part == "image" else a.text[k][before:-1]


# --- the checks ------------------------------------------------------------------------------------------------------


def run(
    clip, pairs: Sequence, methods: Mapping[str, Callable], *, every: int = 4, noise: float = 0.3, few: int = 4, seed=0
) -> pd.DataFrame:
    """Every check of every method: columns method, check, part ("image" or "text"), blocks, pair, value.

    pairs: items with `.id`, `.image` and `.text`, at least two different texts. methods: label -> a function
    (clip, pixels, ids, seed=...) -> Attribution, such as those of METHODS. every: blocks per stage of `cascade`; its
    stages are the rows of "weights", and `blocks` says how many were shuffled. noise: standard deviation of the noise
    on the normalised pixels (0.3 is about 20 of 255 grey levels). few: pairs of "batch", "threads" and "float64".

    The model and the number of threads are as before when this returns or raises. Errors: ValueError.
    """
    texts = [pair.text for pair in pairs]
    if len(set(texts)) < 2:
        raise ValueError(f"{len(texts)} pairs have {len(set(texts))} different texts; the checks need at least 2")
    if every < 1 or few < 1 or noise <= 0:
        raise ValueError(f"every={every} and few={few} must be at least 1, noise={noise} above 0")
    if clip.device.type == "mps":
        raise ValueError("there is no float64 on mps to compare with; load the model with device='cpu'")
    pixels, ids = clip.preprocess([pair.image for pair in pairs]), clip.tokenize(texts)
    rng, rows, bos = np.random.default_rng(seed), [], clip.text.before
    others = [int(rng.choice([j for j, text in enumerate(texts) if text != own])) for own in texts]
    noisy = pixels + noise * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels)

    def maps(clip=clip, pixels=pixels, ids=ids, seed=seed) -> dict[str, Attribution]:
        with shared():
            return {label: method(clip, pixels, ids, seed=seed) for label, method in methods.items()}

    def note(check: str, before: dict, after: dict, measure=alike, parts=PARTS, first=0, blocks=0, other=None) -> None:
        """A row for each map of `after`: pair k of it is pair first + k of `before`, its text that of other[k]."""
        for label, part, k in itertools.product(after, parts, range(len(next(iter(after.values()))))):
            old = scores(before[label], part, other[k] if other and part == "text" else first + k, bos)
            value = measure(old, scores(after[label], part, k, bos))
            row = {"method": label, "check": check, "part": part, "blocks": blocks, "pair": pairs[first + k].id}
            rows.append({**row, "value": value})

    own = maps()
    for blocks, shuffled in cascade(clip, every, seed):
        changed = maps(shuffled)
        note("weights", own, changed, blocks=blocks)
    image = ("image",)
    note("weights, SSIM", own, changed, ssim, image)
    note("complexity", own, changed, complexity, image)
    note("other pair", own, maps(ids=[ids[j] for j in others]), other=others)
    changed = maps(pixels=noisy)
    note("noise", own, changed)
    note("noise, top", own, changed, top, image)
    note("seed", own, maps(seed=seed + 1))
    for k in range(min(few, len(ids))):
        note("batch", own, maps(pixels=pixels[k : k + 1], ids=ids[k : k + 1]), relative_difference, first=k)
    one, two = (_with_threads(n, lambda: maps(clip, pixels[:few], ids[:few])) for n in (1, 2))
    note("threads", one, two, relative_difference)
    double = clip.around(copy.deepcopy(clip.model).double())
    note("float64", maps(double, pixels[:few].double(), ids[:few]), one, relative_difference)
    return pd.DataFrame(rows)


def _with_threads(n: int, work: Callable):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


def verdicts(rows: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """The rows of `run`, a line per (method, check, part): n, value (mean over pairs), low and high (its interval),
    threshold, verdict.

    verdict: "passes" or "fails" where the interval lies on one side of the threshold, "open" where it does not. Of the
    cascade, only its last stage counts.
    """
    last = rows.blocks == rows.groupby("check").blocks.transform("max")
    table = []
    for (method, check, part), group in rows[last].groupby(["method", "check", "part"], sort=False):
        threshold, above, _ = CHECKS[check]
        found = mean_interval(group.value, level=level)
        low, high = found["low"], found["high"]
        inside, outside = (low > threshold, high <= threshold) if above else (high < threshold, low >= threshold)
        row = {"method": method, "check": check, "part": part, "n": found["n"], "value": found["mean"]}
        row |= {"low": low, "high": high}
        row["threshold"] = f"{'>' if above else '<'} {threshold:g}"
        table.append(row | {"verdict": "passes" if inside else "fails" if outside else "open"})
    return pd.DataFrame(table)
