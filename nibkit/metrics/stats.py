"""Tables over tidy rows (one per pair and method, a column per metric): who beats the controls or the best other method,
and do two metrics, or the paper and we, rank the methods alike?
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .confidence import HIGHER_IS_BETTER, METRICS

CONTROLS = ("random", "centre")


def intervals(values: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap of the mean over axis 0: (2, columns). Columns of equal n share their draws of rows."""
    n = len(values)
    if not n:
        return np.full((2, values.shape[1]), np.nan)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.quantile(draws @ values / n, [(1 - level) / 2, (1 + level) / 2], axis=0)


def mean_interval(values: Sequence[float], level: float = 0.95) -> dict[str, float]:
    """n, mean, and low and high of its percentile bootstrap interval; nan are left out."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    low, high = intervals(values[:, None], level)[:, 0]
    return {"n": len(values), "mean": values.mean() if len(values) else np.nan, "low": low, "high": high}


def means(rows: pd.DataFrame, metrics: Sequence[str], by: str | list[str] = "method") -> pd.DataFrame:
    """n, mean, low and high of each metric: a row per (metric, group), in order of `metrics`, then of the rows."""
    groups = rows.groupby(by, sort=False)
    keys = [by] if isinstance(by, str) else by
    found = []
    for metric in metrics:
        for key, group in groups:
            key = [key] if isinstance(by, str) else key
            found.append({"metric": metric, **dict(zip(keys, key)), **mean_interval(group[metric])})
    return pd.DataFrame(found).set_index(["metric", *keys])


def paired_test(difference: np.ndarray) -> tuple[float, str]:
    """Two-sided p of paired differences, and the test's name: Wilcoxon's signed ranks; where all that differ have one size,
    McNemar's exact test.
    """
    moved = difference[difference != 0]
    if len(np.unique(np.abs(moved))) > 1:
        return float(stats.wilcoxon(difference).pvalue), "Wilcoxon"
    return float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue) if len(moved) else 1.0, "McNemar"


def paired_p(difference: np.ndarray) -> float:
    """The p of `paired_test`."""
    return paired_test(difference)[0]


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
    """A word per row of a table with p_holm, low and high: `above` or `below` where p_holm < alpha and the interval lies on
    that side of `at`, else "open"."""
    clear = table.p_holm < alpha
    return np.select([clear & (table.low > at), clear & (table.high < at)], [above, below], "open")


def against_controls(
    rows: pd.DataFrame, higher: Mapping[str, bool], controls: Sequence[str] = CONTROLS, alpha: float = 0.05
) -> pd.DataFrame:
    """Each method against each control on each metric, over the pairs both measured.

    higher: metric -> whether higher is better. Columns: metric, method, control, n, gain (mean of method - control,
    turned so that positive is better; low, high: 95 % bootstrap interval), p (`paired_p`), p_holm (over all rows of the
    table), verdict: "beats", "loses" or "open" (p_holm >= alpha, or an interval with 0 in it).
    ValueError where a control has no rows.
    """
    methods = list(rows.method.unique())
    if missing := [name for name in controls if name not in methods]:
        raise ValueError(f"control {missing[0]!r} has no rows; there are: {', '.join(methods)}")
    wide, table = rows.pivot(index=["dataset", "pair"], columns="method", values=list(higher)), []
    for metric, up in higher.items():
        for method in (name for name in methods if name not in controls):
            for control in controls:
                gain = (wide[metric][method] - wide[metric][control]).dropna().to_numpy(float) * (1 if up else -1)
                if len(gain):
                    found = mean_interval(gain)
                    found["gain"] = found.pop("mean")
                    table.append({"metric": metric, "method": method, "control": control, **found, "p": paired_p(gain)})
    table = pd.DataFrame(table)
    table["p_holm"] = holm(table.p)
    table["verdict"] = decided(table, "beats", "loses", alpha=alpha)
    columns = ["metric", "method", "control", "n", "gain", "low", "high", "p", "p_holm", "verdict"]
    return table[columns]


def failing(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Per metric of `against_controls`: how many methods beat each control, and all of them; order as given."""
    won = (verdicts.verdict == "beats").groupby([verdicts.metric, verdicts.control]).sum().unstack()
    both = (verdicts.verdict == "beats").groupby([verdicts.metric, verdicts.method]).all().groupby("metric").sum()
    methods = verdicts.groupby("metric").method.nunique()
    return won.assign(both=both, methods=methods).loc[verdicts.metric.unique()]


def compare(rows: pd.DataFrame, method: str = "nib") -> pd.DataFrame:
    """`method` against the best of all others in `rows`, per metric of the paper, over the pairs both measured.

    The other is picked by its mean on these very pairs, which favours it.

    Columns: best_other, n, difference (method - best_other, percent points; low, high: its 95 % bootstrap interval),
    better (the difference favours the method), p, p_holm (over the metrics) and test (`paired_test`: Wilcoxon for a drop,
    McNemar for an increase).
    """
    rows = rows.dropna(subset=METRICS)
    names = list(rows.method.unique())
    if method not in names or len(names) < 2:
        raise ValueError(f"method {method!r} and another one must have measured rows; there are: {', '.join(names)}")
    wide, table = rows.pivot(index=["dataset", "pair"], columns="method", values=METRICS), {}
    for metric, higher in HIGHER_IS_BETTER.items():
        lead = wide[metric].drop(columns=method).sub(wide[metric][method], axis=0).mean().round(9)  # equal means stay equal
        best = lead.idxmax() if higher else lead.idxmin()
        difference = (wide[metric][method] - wide[metric][best]).dropna().to_numpy(float)
        found, (p, test) = mean_interval(difference), paired_test(difference)
        table[metric] = {
            "best_other": best, "n": found["n"], "difference": found["mean"], "low": found["low"], "high": found["high"],
            "better": bool(found["mean"] > 0 if higher else found["mean"] < 0), "p": p, "test": test,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis("metric")
    table.insert(table.columns.get_loc("test"), "p_holm", holm(table.p))
    return table


def rank_correlation(
    ours: Sequence[float], theirs: Sequence[float], orders: int = 50_000, seed: int = 0
) -> tuple[float, float]:
    """Spearman's rho of two rows of numbers, and its two-sided p by permutation; 0 and 1 where one row is constant or has nan.

    p is exact for up to eight numbers, else from this many random orders. It takes all orders for equally likely: where
    the numbers follow a setting that grows, neighbours are alike, and p is smaller than it should be.
    """
    a, b = (ranked - ranked.mean() for ranked in (stats.rankdata(x) for x in (ours, theirs)))
    scale = np.sqrt((a @ a) * (b @ b))
    if not scale > 0:
        return 0.0, 1.0
    found = stats.permutation_test(
        (a,), lambda x, axis: x @ b, permutation_type="pairings", vectorized=True, n_resamples=orders, random_state=seed
    )
    return float(found.statistic / scale), float(found.pvalue)


def agreement(sides: pd.DataFrame) -> pd.DataFrame:
    """Per metric of a table of `benchmark.beside_paper`: do our means rank the methods as the paper's do?

    Columns: methods (in both), rho and p (`rank_correlation`), p_holm (over the metrics).
    """
    table = {}
    for metric in METRICS:
        both = sides[metric].dropna()
        rho, p = rank_correlation(both["ours"], both["paper"])
        table[metric] = {"methods": len(both), "rho": rho, "p": p}
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis("metric").astype({"methods": int})
    return table.assign(p_holm=holm(table.p))


def tau(
    rows: pd.DataFrame, first: str, second: str, higher: Mapping[str, bool], level: float = 0.95, resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Do two metrics rank the methods alike? Kendall's tau-b of the methods' means, best first on both: 1 the same
    order, -1 the reverse, about 0 where they have nothing to do with each other; nan where all means of one are equal.

    Only pairs on which every method was measured count. low, high: its bootstrap interval over these n pairs.
    """
    wide = rows.pivot(index=["dataset", "pair"], columns="method", values=sorted({first, second})).dropna()
    n = len(wide)
    if not n:
        raise ValueError(f"no pair has {first} and {second} of every method; see the column `error` of the rows")
    signs = [1 if higher[name] else -1 for name in (first, second)]
    again = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    draws = np.concatenate([np.full((1, n), 1 / n), again])
    a, b = (sign * (draws @ wide[name].to_numpy(float)) for name, sign in zip((first, second), signs))
    sides = [np.sign(np.round(x[:, :, None] - x[:, None], 9)) for x in (a, b)]  # equal means stay equal after rounding
    agree = (sides[0] * sides[1]).sum((1, 2))
    scale = np.sqrt((sides[0] ** 2).sum((1, 2)) * (sides[1] ** 2).sum((1, 2)))
    taus = np.divide(agree, scale, out=np.full(len(agree), np.nan), where=scale > 0)
    low, high = np.nanquantile(taus[1:], [(1 - level) / 2, (1 + level) / 2]) if scale[0] else (np.nan, np.nan)
    return {"n": n, "methods": wide[first].shape[1], "tau": taus[0], "low": low, "high": high}


def ranks(rows: pd.DataFrame, metrics: Sequence[str], higher: Mapping[str, bool]) -> pd.DataFrame:
    """Rank of each method's mean on each metric, 1 the best; equal means share theirs. Rows: methods, as they come."""
    table = rows.groupby("method", sort=False)[list(metrics)].mean().round(9)
    return pd.DataFrame({name: table[name].rank(ascending=not higher[name]) for name in metrics})


def readable(table: pd.DataFrame, decimals: int = 2) -> pd.DataFrame:
    """A table of `means` for the eye: a row per group, a column per metric, "mean (low to high)"."""
    text = table.apply(lambda r: f"{r['mean']:.{decimals}f} ({r.low:.{decimals}f} to {r.high:.{decimals}f})", axis=1)
    text = text.mask(table.n == 0, "–").unstack("metric", sort=False)
    return text[table.index.unique("metric")]


def listed(table: pd.DataFrame, column: str, form: str = ".2f") -> str:
    """A column of a table with `low` and `high` as one line of text: "name 0.60 (0.46 to 0.77), ..."."""
    lines = (f"{row.Index} {getattr(row, column):{form}} ({row.low:{form}} to {row.high:{form}})" for row in table.itertuples())
    return ", ".join(lines)
