"""The paper's ablations: one method at many settings, beside Tables 3 to 7.

A setting is a label of its own to `nibkit.benchmark`, and a column of its rows:

    rows = benchmark.run(clip, pairs, plan("nib", "steps", [5, 10, 20], rule="riemann"))
    summary = benchmark.summary(rows, by="steps")
    trend(rows, paper("steps", pairs.name))
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ..benchmark.paper import table as paper_table
from ..methods.nib import path
from ..metrics.confidence import HIGHER_IS_BETTER, METRICS
from ..metrics.stats import beside, decided, ends, holm, rank_correlation, resampled, spearman
from .convergence import shown
from .theory import bottlenecks

TABLES = {  # option of the method -> its name in the paper's tables, and the tables that vary it
    "steps": ("num_steps", ("table3_num_steps", "table6_num_steps_expanded")),
    "layer": ("target_layer", ("table4_target_layer", "table7_target_layer_expanded")),
    "beta": ("beta", ("table5_m2ib_beta",)),
}


def plan(method: str, setting: str, values: Iterable[float], **options) -> dict[str, tuple[str, dict]]:
    """`method` at each value of its option `setting`, for `benchmark.run`: {"nib steps=10": ("nib", {"steps": 10})}."""
    return {f"{method} {setting}={value:g}": (method, {**options, setting: value}) for value in values}


def paper(setting: str, dataset: str) -> pd.DataFrame:
    """The paper's means of the four metrics at each value of `setting` ("steps", "layer" or "beta"), tables joined.

    dataset: one of the paper's, or one that plays its part (benchmark.paper.PAPER_ROLE); nan for others.
    """
    column, names = TABLES[setting]
    table = pd.concat([paper_table(name, dataset) for name in names]).drop_duplicates()
    return table.set_index(column)[METRICS].rename_axis(setting).sort_index()


def trend(rows: pd.DataFrame, theirs: pd.DataFrame, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Per metric: do our means rise and fall with the paper's over the settings?

    rows: with the setting as a column, once for each pair. theirs: a table of `paper`. Only settings of both count, and
    pairs that were measured at each of them.

    Columns: settings, n (pairs), rho (Spearman's, -1 .. 1; 0 where our means are all equal), low and high (its
    percentile bootstrap interval over our pictures; the paper's means are taken as they are), p (over the settings;
    `stats.rank_correlation`), p_holm (over the metrics), verdict ("with" or "against" where the interval is without 0
    and p_holm < 1 - level, which takes six settings; else "open"), best_ours and best_paper (the setting with the best
    mean).
    """
    setting = theirs.index.name
    both = sorted(set(theirs.index) & set(rows[setting]))
    if len(both) < 3:
        raise ValueError(f"{setting}={both} are in both tables; a trend needs 3 settings of {list(theirs.index)}")
    wide = beside(rows[rows[setting].isin(both)], METRICS, setting).dropna()
    if not len(wide):
        raise ValueError(f"no pair was measured at each of {setting}={both}; see the column `error` of the rows")
    weights = resampled(wide.index.get_level_values("picture"), seed=seed)
    table = {}
    for metric, higher in HIGHER_IS_BETTER.items():
        means, reference = weights @ wide[metric][both].to_numpy(float), theirs.loc[both, metric].to_numpy(float)
        sign = 1 if higher else -1
        rho, p = rank_correlation(means[0], reference)
        low, high = ends(spearman(means, reference), level)
        table[metric] = {"settings": len(both), "n": len(wide), "rho": rho, "low": low, "high": high, "p": p}
        best = [np.nan if np.isnan(x).all() else both[(sign * x).argmax()] for x in (means[0], reference)]
        table[metric] |= dict(zip(("best_ours", "best_paper"), best))
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis("metric")
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table.p))
    table.insert(table.columns.get_loc("p") + 2, "verdict", decided(table, "with", "against", alpha=1 - level))
    return table


def against_integral(
    clip, pairs: Sequence, steps: Iterable[int], *, layer: int = 9, max_passes: int = 256, batch: int = 16
) -> pd.DataFrame:
    """NIB's Riemann sums of `steps` terms against two integrals: carry, and exact, which is carry and norm.

    pairs: items with `.id`, `.image` and `.text` that can be read. max_passes: of the integrals, which stop at 1 %.

    Columns: pair, of ("carry" or "exact"), rule ("riemann", or that integral itself), part ("image" or "text"), passes
    (gradient passes), gap (how far the scores are from adding up to the integral's change, % of it), correlation
    (Pearson's, of patch or token scores with the integral's).
    """
    found = []
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        pixels, ids = clip.preprocess([pair.image for pair in chunk]), clip.tokenize([pair.text for pair in chunk])
        for part, bottleneck in bottlenecks(clip, pixels, ids, layer).items():
            sums = [("riemann", path(bottleneck, "riemann", n)) for n in steps]
            for of in ("exact", "carry"):
                integral = path(bottleneck, of, max_passes, 0.01)
                for rule, one in [(of, integral), *sums]:
                    table = pd.DataFrame({"pair": [pair.id for pair in chunk], "of": of, "rule": rule, "part": part})
                    table["passes"] = one.passes.numpy()
                    gap = 100 * (one.scores.sum(1) - integral.change).abs() / integral.change.abs()
                    table["gap"] = gap.cpu().numpy()
                    scores = zip(*(shown(clip, part, ids, x.scores) for x in (one, integral)))
                    table["correlation"] = [np.corrcoef(x, y)[0, 1] for x, y in scores]
                    found.append(table)
    return pd.concat(found, ignore_index=True)
