"""The paper's statements about its own tables, computed again from those tables (data/paper)."""

import pandas as pd

from ..benchmark.paper import table
from ..metrics.confidence import HIGHER_IS_BETTER

BETTER = {**HIGHER_IS_BETTER, "fps": True}


def gains() -> pd.DataFrame:
    """NIB against the best baseline of each data set in Table 2, in percent of that baseline; positive is better.

    One row per column of Table 2: a gain for each data set, and their mean.
    """
    rows = table("table2_benchmark").set_index(["dataset", "method"])
    ours, others = rows.xs("nib", level="method"), rows.drop("nib", level="method").groupby("dataset")
    found = {}
    for column, higher in BETTER.items():
        best = others[column].max() if higher else others[column].min()
        found[column] = 100 * (ours[column] / best - 1) * (1 if higher else -1)
    gain = pd.DataFrame(found).T.rename_axis("column")
    return gain.assign(mean=gain.mean(axis=1))


def speedups() -> pd.Series:
    """NIB's FPS over each baseline's in Table 2, in percent more pairs a second, mean over data sets."""
    fps = table("table2_benchmark").pivot(index="dataset", columns="method", values="fps")
    return (100 * (fps["nib"] / fps.drop(columns="nib").T - 1)).mean(axis=1).sort_values()


def spread(name: str) -> pd.DataFrame:
    """How far each metric moves over the settings of an ablation table: (max - min) / mean in percent, a row per data
    set.
    """
    metrics = table(name).groupby("dataset")[list(HIGHER_IS_BETTER)]
    return 100 * (metrics.max() - metrics.min()) / metrics.mean()
