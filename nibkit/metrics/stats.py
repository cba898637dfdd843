"""Tables over tidy rows, one per pair and label, a column per metric: intervals, tests, and who beats whom.

Columns are given with their direction, such as `metric.columns` has it: name -> is higher better? Rows of
`benchmark.run` know their `picture`: a picture that several rows share is drawn, tested and counted as one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .confidence import HIGHER_IS_BETTER

CONTROLS = ("random", "centre")

# --- two sets of numbers -------------------------------------------------------------------------------------------


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two arrays, as a part of the largest magnitude in `a`."""
    return float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny))


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, [-1, 1]; 0 where one side is constant or has nan."""
    a, b = (ranked - ranked.mean(-1, keepdims=True) for ranked in (stats.rankdata(x, axis=-1) for x in (a, b)))
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), scale, out=np.zeros(np.shape(scale)), where=scale > 0)


def rank_correlation(
    ours: Sequence[float], theirs: Sequence[float], orders: int = 50_000, seed: int = 0
) -> tuple[float, float]:
    """`spearman` of two rows of numbers, and its two-sided p by permutation; 0 and 1 where one is constant or has nan.

    p is exact for up to eight numbers, else from this many random orders. It takes all orders for equally likely: where
    the numbers follow a setting that grows, neighbours are alike, and p is smaller than it should be.
    """
    rho, a, b = float(spearman(ours, theirs)), stats.rankdata(ours), stats.rankdata(theirs)
    if not rho and not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return 0.0, 1.0
    a, b = a - a.mean(), b - b.mean()
    found = stats.permutation_test(
        (a,), lambda x, axis: x @ b, permutation_type="pairings", vectorized=True, n_resamples=orders, random_state=seed
    )
    return rho, float(found.pvalue)


# --- intervals and tests over pictures -----------------------------------------------------------------------------


def pictures_of(rows: pd.DataFrame) -> pd.Series:
    """The picture of each row; where rows have no column `picture`, every pair is one of its own."""
    return rows.picture if "picture" in rows else rows.dataset.astype(str) + "/" + rows.pair.astype(str)


def interval(values: np.ndarray, pictures: Sequence | None = None, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of `values` (n,): Student's t, corrected for skewness by Hall's transformation.

    pictures: which of them each value is of (default: each of its own). Values of one picture count as one observation:
    what they add to the mean's deviation together. The ends stay within the range of the values; nan where there are
    fewer than two pictures. Values that are all equal leave nothing to estimate from: the interval is that value.

    How often a 95 % interval holds the mean, simulated 4,000 times at 48, 24 and 16 pictures: for drops of which 70 %
    are 0 and the rest exponential 96, 97 and 95 %; for such drops of five captions a picture 95, 94 and 92 %. So at 16
    pictures and several captions take it for a 92 % interval. Of 0s and 1s it knows nothing while only one of the two
    has been seen.

    Source: Hall, On the removal of skewness by transformation, J. R. Statist. Soc. B 54, 1992.
    """
    values = np.asarray(values, float)
    codes = np.arange(len(values)) if pictures is None else pd.factorize(np.asarray(pictures))[0]
    n = codes.max() + 1 if len(codes) else 0
    if n < 2:
        return np.nan, np.nan
    mean = values.mean()
    u = np.bincount(codes, values - mean)  # what each picture adds to the deviation of the sum from its expectation
    spread = np.sqrt((u**2).mean())
    if not spread > 0:
        return mean, mean
    skew = ((u / spread) ** 3).mean()
    sd = np.sqrt(n / (n - 1)) * spread * n / len(values)  # of the mean, times sqrt(n)
    x = stats.t.ppf((1 + level) / 2, n - 1) * np.array([1, -1]) / np.sqrt(n)
    if abs(skew) > 1e-6:  # w + skew w^2 / 3 + skew^2 w^3 / 27 + skew / 6n = x, solved for w
        x = 3 / skew * (np.cbrt(1 + skew * (x - skew / (6 * n))) - 1)
    low, high = np.clip(mean - sd * x, values.min(), values.max())
    return low, high


def mean_interval(values: Sequence[float], pictures: Sequence | None = None, level: float = 0.95) -> dict[str, float]:
    """n, mean, and low and high of its `interval`; nan are left out."""
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    low, high = interval(values[known], None if pictures is None else np.asarray(pictures)[known], level)
    return {"n": known.sum(), "mean": values[known].mean() if known.any() else np.nan, "low": low, "high": high}


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of the median between two order statistics: holds it at least that often, whatever the distribution; of
    fewer than six values, for a level of 95 %, their range, which holds it less often. nan are not allowed.
    """
    values, n = np.sort(np.asarray(values, float)), len(values)
    place = max(int(stats.binom.ppf((1 - level) / 2, n, 0.5)), 1)
    return values[place - 1], values[n - place]


def resampled(pictures: Sequence, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Weights (1 + resamples, n), sums 1, of n rows: as they are, then bootstrap samples of whole pictures."""
    codes, found = pd.factorize(np.asarray(pictures))
    drawn = np.random.default_rng(seed).multinomial(len(found), np.full(len(found), 1 / len(found)), size=resamples)
    weights = np.concatenate([np.ones((1, len(codes))), drawn[:, codes]])
    return weights / weights.sum(1, keepdims=True)


def ends(values: np.ndarray, level: float = 0.95) -> np.ndarray:
    """A statistic's percentile bootstrap interval, (2, ...); values (1 + resamples, ...), as `resampled` has them."""
    return np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)


def means(rows: pd.DataFrame, columns: Sequence[str], by: str | list[str] = "label") -> pd.DataFrame:
    """n, mean, low and high of each of `columns`: a row per (metric, group), as columns and rows come."""
    keys = [by] if isinstance(by, str) else by
    found = []
    for metric in columns:
        for key, group in rows.groupby(keys, sort=False):
            found.append({"metric": metric, **dict(zip(keys, key)), **mean_interval(group[metric], pictures_of(group))})
    return pd.DataFrame(found).set_index(["metric", *keys])


def paired_test(difference: np.ndarray, pictures: Sequence | None = None) -> tuple[float, str]:
    """Two-sided p of paired differences, and the test's name: Wilcoxon's signed ranks; where all that differ have one
    size, McNemar's exact test. pictures: of each difference; a picture counts once, by its mean.
    """
    if pictures is not None:
        difference = pd.Series(np.asarray(difference)).groupby(np.asarray(pictures), sort=False).mean().to_numpy()
    moved = difference[difference != 0]
    if len(np.unique(np.abs(moved))) > 1:
        return float(stats.wilcoxon(difference).pvalue), "Wilcoxon"
    return float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue) if len(moved) else 1.0, "McNemar"


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: p-values adjusted for all of them being tested at once.

    nan is a test that was not made: it stays nan, and the others are not corrected for it.

    >>> holm([0.01, 0.04, 0.03, np.nan]).round(2).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p, float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # nan comes last
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def decided(table: pd.DataFrame, above: str, below: str, at: float = 0.0, alpha: float = 0.05) -> np.ndarray:
    """A word per row of a table with p_holm, low and high: `above` or `below` where p_holm < alpha and the interval
    lies on that side of `at`, else "open"."""
    clear = table.p_holm < alpha
    return np.select([clear & (table.low > at), clear & (table.high < at)], [above, below], "open")


# --- labels against each other -------------------------------------------------------------------------------------


def beside(rows: pd.DataFrame, columns: Sequence[str], by: str = "label") -> pd.DataFrame:
    """Rows side by side: index (dataset, pair, picture), columns (metric, label or what else `by` names)."""
    rows = rows.assign(picture=pictures_of(rows))
    return rows.pivot(index=["dataset", "pair", "picture"], columns=by, values=list(columns))


def _paired(difference: pd.Series, name: str) -> dict:
    """n, `name` (the mean), low, high, p and test of differences indexed like `beside`."""
    difference = difference.dropna().astype(float)
    pictures = difference.index.get_level_values("picture")
    found = mean_interval(difference, pictures)
    found = {name if key == "mean" else key: value for key, value in found.items()}
    return found | dict(zip(("p", "test"), paired_test(difference.to_numpy(), pictures)))


def against_controls(
    rows: pd.DataFrame, columns: Mapping[str, bool], controls: Sequence[str] = CONTROLS, alpha: float = 0.05
) -> pd.DataFrame:
    """Each label against each control on each metric, over the pairs both measured.

    Columns: metric, label, control, n, gain (mean of label - control, turned so that positive is better; low, high:
    95 % interval), p (`paired_test`), p_holm (over all rows of the table), verdict: "beats", "loses" or "open" (p_holm
    >= alpha, or an interval with 0 in it). ValueError where a control has no rows.
    """
    labels = list(rows.label.unique())
    if missing := [name for name in controls if name not in labels]:
        raise ValueError(f"control {missing[0]!r} has no rows; there are: {', '.join(labels)}")
    wide, table = beside(rows, columns), []
    for metric, up in columns.items():
        for label in (name for name in labels if name not in controls):
            for control in controls:
                gain = wide[metric][label] - wide[metric][control]
                if gain.notna().any():
                    found = _paired(gain if up else -gain, "gain")
                    table.append({"metric": metric, "label": label, "control": control, **found})
    table = pd.DataFrame(table).drop(columns="test")
    table["p_holm"] = holm(table.p)
    return table.assign(verdict=decided(table, "beats", "loses", alpha=alpha))


def failing(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Per metric of `against_controls`: how many labels beat each control, and all of them; order as given."""
    won = (verdicts.verdict == "beats").groupby([verdicts.metric, verdicts.control]).sum().unstack()
    both = (verdicts.verdict == "beats").groupby([verdicts.metric, verdicts.label]).all().groupby("metric").sum()
    labels = verdicts.groupby("metric").label.nunique()
    return won.assign(both=both, methods=labels).loc[verdicts.metric.unique()]


def compare(rows: pd.DataFrame, columns: Mapping[str, bool] = HIGHER_IS_BETTER, label: str = "nib") -> pd.DataFrame:
    """`label` against the best of all others in `rows`, per metric, over the pairs both measured.

    The other is picked by its mean on these very pairs, which favours it. Rows without all of the columns are left out.

    Columns: best_other, n, difference (label - best_other, the metric's unit; low, high: its 95 % interval), better
    (the difference favours the label), p, p_holm (over the metrics) and test (`paired_test`: of the paper's metrics
    Wilcoxon for a drop, McNemar for an increase).
    """
    rows = rows.dropna(subset=list(columns))
    names = list(rows.label.unique())
    if label not in names or len(names) < 2:
        raise ValueError(f"{label!r} and another label must have measured rows; there are: {', '.join(names)}")
    wide, table = beside(rows, columns), {}
    for metric, higher in columns.items():
        lead = wide[metric].drop(columns=label).sub(wide[metric][label], axis=0).mean()
        lead = lead.round(9)  # equal means stay equal
        best = lead.idxmax() if higher else lead.idxmin()
        table[metric] = {"best_other": best, **_paired(wide[metric][label] - wide[metric][best], "difference")}
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis("metric")
    higher = np.array(list(columns.values()))
    table.insert(table.columns.get_loc("p"), "better", np.where(higher, table.difference > 0, table.difference < 0))
    table.insert(table.columns.get_loc("test"), "p_holm", holm(table.p))
    return table


# --- metrics against each other ------------------------------------------------------------------------------------


def tau(
    rows: pd.DataFrame, first: str, second: str, columns: Mapping[str, bool], level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Do two metrics rank the labels alike? Kendall's tau-b of the labels' means, best first on both: 1 the same
    order, -1 the reverse, about 0 where they have nothing to do with each other; nan where all means of one are equal.

    Only pairs on which every label was measured count. low, high: percentile bootstrap interval over their pictures.
    """
    wide = beside(rows, sorted({first, second})).dropna()
    if not len(wide):
        raise ValueError(f"no pair has {first} and {second} of every method; see the column `error` of the rows")
    weights = resampled(wide.index.get_level_values("picture"), seed=seed)
    sides = []
    for name in (first, second):
        x = (1 if columns[name] else -1) * (weights @ wide[name].to_numpy(float))
        sides.append(np.sign(np.round(x[:, :, None] - x[:, None], 9)))  # equal means stay equal after rounding
    agree = (sides[0] * sides[1]).sum((1, 2))
    scale = np.sqrt((sides[0] ** 2).sum((1, 2)) * (sides[1] ** 2).sum((1, 2)))
    taus = np.divide(agree, scale, out=np.full(len(agree), np.nan), where=scale > 0)
    low, high = ends(taus, level) if scale[0] else (np.nan, np.nan)
    return {"n": len(wide), "methods": wide[first].shape[1], "tau": taus[0], "low": low, "high": high}


def listed(table: pd.DataFrame, column: str, form: str = ".2f") -> str:
    """A column of a table with `low` and `high` as one line of text: "name 0.60 (0.46 to 0.77), ..."."""
    values = zip(table.index, table[column], table.low, table.high)
    return ", ".join(f"{name} {value:{form}} ({low:{form}} to {high:{form}})" for name, value, low, high in values)
