"""How fast do NIB's rules converge? Completeness gap and distance from a dense float64 integral, against gradient passes.

    rows = measure(nibkit.load("scenes"), data.load("scenes-captions")[:6], layers=[3, 6, 9])
    goals(rows)

The gap alone proves little: it says that scores add up, not that each is right. Controls stand beside the rules: the last
scores in another order ("shuffled": they add up just as well), the reference's own gap, which it never looked at, and the
exact rule with its nodes placed by the true curves ("oracle"), which shows how much better placing could make it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from .. import data
from ..methods.nib import Bottleneck, Path, bend, exact_rule, gauss, path
from ..metrics.stats import median_interval
from ..models import load
from ..models.towers import ragged
from .theory import bottlenecks

PASSES = {"riemann": (10, 20, 50), "gauss": (10, 20, 50), "exact": (7, 10, 14, 20, 32)}
TUNED = 24  # the first so many scenes-captions, on which the exact rule's constants were chosen, are no evidence
LEAST = 0.05  # a gap is relative to the change of F, or to this where F changes less
INDEX = ["layer", "part", "rule", "passes"]
GOALS = {  # what is asked of the exact rule: passes, column, quantile over pairs, bound
    "median gap at 20": (20, "gap", 0.5, 1.0),
    "95 % gap at 20": (20, "gap", 0.95, 5.0),
    "median correlation at 10": (10, "correlation", 0.5, 0.995),
}


class Dense(NamedTuple):
    """The path of a batch at many points: token scores (B, T), and the curves behind them, sum_c z dF/dz (points, B, T) at lam
    (points,)."""

    scores: Tensor
    lam: Tensor
    slopes: Tensor


def reference(bottleneck: Bottleneck, points: int) -> Dense:
    """Gauss-Legendre on points / 10 panels of ten, equal in asinh(lam / lam0); meant for float64.

    lam0 is a tenth of the exact rule's scale of where F is nearly linear.
    """
    lam0 = 0.1 * bend(bottleneck.state).min()
    (x, weights), panels = gauss(10), points // 10
    width = np.arcsinh(1 / lam0) / panels
    u = ((torch.arange(panels)[:, None] + x) * width).flatten().to(bottleneck.target)
    lam, weights = lam0 * u.sinh(), weights.to(u).repeat(panels) * width * lam0 * u.cosh()
    _, slopes = bottleneck.slopes(lam)
    return Dense(torch.einsum("n,nbt->bt", weights, slopes), lam, slopes)


def oracle(bottleneck: Bottleneck, dense: Dense, n: int) -> Path:
    """The exact rule with n nodes placed by the true curves: a placing that knows all, though not the best there is.

    Nodes per step of u: the root of the curves' second derivative (Euclidean over tokens), smoothed, and for 30 % uniform;
    best of 63 such densities on layer 3, image, and layer 9, text.
    """
    found, lam, lam0 = [], dense.lam.cpu().numpy(), bend(bottleneck.state)
    for slopes, scale in zip(dense.slopes.cpu().numpy().swapaxes(0, 1), lam0):
        u = np.linspace(0, np.arcsinh(1 / scale), 800)
        y = CubicSpline(np.arcsinh(lam / scale), slopes * np.hypot(lam, scale)[:, None])
        density = gaussian_filter1d(np.sqrt(np.linalg.norm(y(u, 2), axis=1)), 20, mode="nearest")
        share = np.cumsum(0.7 * density / density.mean() + 0.3)
        found.append(scale * np.sinh(np.interp(np.linspace(share[0], share[-1], n), share, u)))
    return exact_rule(bottleneck, 0.0, n, np.stack(found, 1))


def measure(
    clip,
    pairs: Sequence,
    layers: Sequence[int] = (9,),
    passes: Mapping[str, Sequence[int]] = PASSES,
    points: int = 480,
    batch: int = 8,
) -> pd.DataFrame:
    """Each rule on each pair: columns pair, layer, part ("image" or "text"), rule, passes, gap, correlation, error.

    pairs: items with `.id`, `.image` and `.text`. passes: rule -> gradient passes to spend ("exact" never stops before).
    points: of the float64 `reference`, a multiple of 10; 0 does without, and correlation and error are nan.
    gap: |sum of all scores - (F(Z) - F(0))| in % of max(|F(Z) - F(0)|, 0.05); correlation: Pearson's, of patches or tokens,
    with the reference; error: their Euclidean distance from it, in % of its length.
    ValueError for other points.
    """
    if points < 0 or points % 10:
        raise ValueError(f"points={points} is not 0 or a multiple of 10")
    double = clip.around(copy.deepcopy(clip.model).double()) if points else None
    tables = []
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        pixels, ids = clip.preprocess([pair.image for pair in chunk]), clip.tokenize([pair.text for pair in chunk])
        for layer in layers:
            dense = bottlenecks(double, pixels.double(), ids, layer) if double else {}
            for part, bottleneck in bottlenecks(clip, pixels, ids, layer).items():
                paths = {(rule, n): path(bottleneck, rule, n) for rule, some in passes.items() for n in some}
                change = next(iter(paths.values())).change
                found = [(rule, n, p.scores) for (rule, n), p in paths.items()]
                if double:
                    truth = reference(dense[part], points)
                    _, n, last = found[-1]
                    order = torch.randperm(last.shape[1], generator=torch.Generator().manual_seed(start))
                    found += [("shuffled", n, last[:, order]), ("reference", points, truth.scores)]
                    found += [("oracle", n, oracle(bottleneck, truth, n).scores) for n in passes.get("exact", ())]
                for rule, n, scores in found:
                    table = pd.DataFrame({"pair": [pair.id for pair in chunk], "layer": layer, "part": part, "rule": rule})
                    table["passes"] = n
                    table["gap"] = 100 * ((scores.sum(1) - change).abs() / change.abs().clamp(min=LEAST)).cpu().numpy()
                    table["correlation"], table["error"] = np.nan, np.nan
                    if double:
                        ours, true = (_shown(clip, part, x, ids) for x in (scores, truth.scores))
                        table["correlation"] = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours, true)]
                        table["error"] = [100 * np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, true)]
                    tables.append(table)
    return pd.concat(tables, ignore_index=True)


def bundle(n: int = 24, n_random: int = 8, device: str = "auto") -> pd.DataFrame:
    """The bundled convergence.csv: `measure` on n scenes-captions from number TUNED on, at layers 3, 6 and 9, and on n_random of
    them with ViT-B/32's architecture and random weights at layers 3 and 9, without a reference; with a column model."""
    pairs, scenes = data.load("scenes-captions")[TUNED:], load("scenes", device=device)
    random = load("ViT-B/32", device=device, pretrained=False)
    runs = (scenes, pairs[:n], (3, 6, 9), PASSES, 2000), (random, pairs[:n_random], (3, 9), PASSES, 0)
    return pd.concat([measure(*run).assign(model=run[0].name) for run in runs], ignore_index=True)


def _shown(clip, part: str, scores: Tensor, ids: list[Tensor]) -> list[np.ndarray]:
    rows = clip.image.patches(scores) if part == "image" else ragged(scores, ids)
    return [row.flatten().cpu().double().numpy() for row in rows]


def curve(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column's median over pairs, for each layer, part, rule and number of passes (the index).

    Columns: n, COLUMN, COLUMN_low and COLUMN_high (`stats.median_interval`), COLUMN_p95 (95th percentile).
    """
    found = {}
    for key, values in rows.groupby(INDEX)[column]:
        low, high = median_interval(values.to_numpy())
        found[key] = {"n": len(values), column: values.median(), f"{column}_low": low, f"{column}_high": high}
        found[key][f"{column}_p95"] = values.quantile(0.95)
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(INDEX).astype({"n": int}).sort_index()


def goals(rows: pd.DataFrame) -> pd.DataFrame:
    """GOALS beside what the exact rule reached: columns layer, part, n, goal, asked, reached, oracle, verdict ("PASS" or "open").

    oracle: what the same rule reaches with nodes placed by the true curves; where that misses too, better placing is not likely to
    reach the goal.
    """
    table = []
    for (layer, part), group in rows.groupby(["layer", "part"], sort=False):
        for goal, (passes, column, q, bound) in GOALS.items():
            values, best = (group.loc[(group.rule == rule) & (group.passes == passes), column] for rule in ("exact", "oracle"))
            reached, least = values.quantile(q), column == "correlation"
            met = reached >= bound if least else reached <= bound
            asked = f">= {bound:g}" if least else f"<= {bound:g} %"
            table.append((layer, part, len(values), goal, asked, reached, best.quantile(q), "PASS" if met else "open"))
    return pd.DataFrame(table, columns=["layer", "part", "n", "goal", "asked", "reached", "oracle", "verdict"])
