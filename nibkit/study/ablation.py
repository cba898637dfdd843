"""The paper's ablations: one method at many settings, beside Tables 3 to 7.

A setting is a method of its own to `nibkit.benchmark`:

    rows = benchmark.run(clip, pairs, plan("nib", "steps", [5, 10, 20], rule="riemann"))
    summary = benchmark.summary(by_setting(rows, "steps"), by="steps")
    trend(rows, paper("steps", pairs.name))
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..benchmark.paper import table as paper_table
from ..methods import METHODS
from ..metrics.confidence import HIGHER_IS_BETTER, METRICS
from ..metrics.stats import decided, holm, rank_correlation

TABLES = {  # option of the method -> its name in the paper's tables, and the tables that vary it
    "steps": ("num_steps", ("table3_num_steps", "table6_num_steps_expanded")),
    "layer": ("target_layer", ("table4_target_layer", "table7_target_layer_expanded")),
    "beta": ("beta", ("table5_m2ib_beta",)),
}


def plan(method: str, setting: str, values: Iterable[float], **options) -> dict[str, tuple[str, dict]]:
    """`method` at each value of its option `setting`, for `benchmark.run`: {"nib steps=10": ("nib", {"steps": 10})}."""
    return {f"{method} {setting}={value:g}": (method, {**options, setting: value}) for value in values}


def by_setting(rows: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The rows whose label ends in "SETTING=VALUE", with the value as a column of that name; others are left out."""
    values = rows.method.str.extract(rf" {setting}=(\S+)$", expand=False)
    return rows[values.notna()].assign(**{setting: pd.to_numeric(values.dropna())})


def paper(setting: str, dataset: str) -> pd.DataFrame:
    """The paper's means of the four metrics at each value of `setting` ("steps", "layer" or "beta"), tables joined.

    dataset: one of the paper's, or one that plays its part (benchmark.paper.PAPER_ROLE).
    """
    column, names = TABLES[setting]
    table = pd.concat([paper_table(name, dataset) for name in names]).drop_duplicates()
    return table.set_index(column)[METRICS].rename_axis(setting).sort_index()


def _spearman(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of `ours` (N, settings) with `theirs` (settings,); 0 where one is constant."""
    a, b = (stats.rankdata(x, axis=-1) for x in (ours, theirs))
    a, b = a - a.mean(-1, keepdims=True), b - b.mean()
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum())
    return np.divide(a @ b, scale, out=np.zeros(len(ours)), where=scale > 0)


def trend(
    rows: pd.DataFrame, theirs: pd.DataFrame, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Per metric: do our means rise and fall with the paper's over the settings?

    theirs: a table of `paper`. Only settings of both count, and pairs that were measured at each of them.

    Columns: settings, n (pairs), rho (Spearman's, -1 .. 1; 0 where our means are all equal), low and high (its
    bootstrap interval over our pairs; the paper's means are taken as they are), p (over the settings;
    `stats.rank_correlation`), p_holm (over the metrics), verdict ("with" or "against" where the interval is without 0
    and p_holm < 1 - level, which takes six settings; else "open"), best_ours and best_paper (the setting with the best
    mean).
    """
    setting = theirs.index.name
    rows = by_setting(rows, setting)
    both = sorted(set(theirs.index) & set(rows[setting]))
    if len(both) < 3:
        raise ValueError(f"{setting}={both} are in both tables; a trend needs 3 settings of {list(theirs.index)}")
    wide = rows[rows[setting].isin(both)].pivot(index=["dataset", "pair"], columns=setting, values=METRICS).dropna()
    n = len(wide)
    if not n:
        raise ValueError(f"no pair was measured at each of {setting}={both}; see the column `error` of the rows")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    table = {}
    for metric, higher in HIGHER_IS_BETTER.items():
        values, reference = wide[metric][both].to_numpy(float), theirs.loc[both, metric].to_numpy(float)
        mean, sign = values.mean(0), 1 if higher else -1
        rho, p = rank_correlation(mean, reference)
        low, high = np.quantile(_spearman(draws @ values / n, reference), [(1 - level) / 2, (1 + level) / 2])
        table[metric] = {
            "settings": len(both), "n": n, "rho": rho, "low": low, "high": high, "p": p,
            "best_ours": both[(sign * mean).argmax()], "best_paper": both[(sign * reference).argmax()],
        }  # fmt: skip
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis("metric")
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table.p))
    table.insert(table.columns.get_loc("p") + 2, "verdict", decided(table, "with", "against", alpha=1 - level))
    return table


def against_integral(
    clip, pairs: Sequence, steps: Iterable[int], *, layer: int = 9, max_passes: int = 256, batch: int = 16
) -> pd.DataFrame:
    """NIB's Riemann sums of `steps` terms against the integral that they stand for, per pair and encoder.

    pairs: items with `.id`, `.image` and `.text` that can be read. max_passes: of the exact rule.

    Columns: pair, rule ("riemann" or "exact"), part ("image" or "text"), passes (gradient passes per encoder), gap (how
    far the scores are from adding up to F(Z) - F(0), % of it), correlation (Pearson's, of patch or token scores with
    the exact rule's).
    """
    found = []
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        inputs = clip.preprocess([pair.image for pair in chunk]), clip.tokenize([pair.text for pair in chunk])
        exact = METHODS["nib"](clip, *inputs, layer=layer, rule="exact", max_passes=max_passes)
        sums = [METHODS["nib"](clip, *inputs, layer=layer, rule="riemann", steps=n) for n in steps]
        for rule, a in [("exact", exact), *(("riemann", a) for a in sums)]:
            for part in ("image", "text"):
                table = pd.DataFrame({"pair": [pair.id for pair in chunk], "rule": rule, "part": part})
                table["passes"] = a.info.passes
                table["gap"] = 100 * a.info[f"gap_{part}"] / a.info[f"change_{part}"].abs()
                scores = zip(getattr(a, part), getattr(exact, part))
                table["correlation"] = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in scores]
                found.append(table)
    return pd.concat(found, ignore_index=True)
