"""The paper's statements about its own tables, computed again from those tables (data/paper)."""

import pandas as pd

from .metrics import HIGHER_IS_BETTER
from .paths import bundled

BETTER = {**HIGHER_IS_BETTER, "fps": True}
PAPER_ROLE = {  # data set -> whose place it takes in the paper's tables
    "scenes-objects": "imagenet",
    "scenes-captions": "flickr8k",
    "conceptual_captions": "conceptual_captions",
    "tiny-imagenet": "imagenet",
    "flickr8k": "flickr8k",
}
PAPER_PAIRS = {"conceptual_captions": 2000, "tiny-imagenet": 1000, "flickr8k": 1000}  # pairs that the paper measured


def table(name: str, dataset: str | None = None) -> pd.DataFrame:
    """One of the paper's tables, e.g. "table2_benchmark": numbers as printed there.

    dataset: only its rows; one of the paper's, or one that plays its part (PAPER_ROLE). Errors: ValueError for a data set
    that the table does not have.
    """
    rows = pd.read_csv(bundled(f"paper/{name}.csv"))
    if dataset is None:
        return rows
    role = PAPER_ROLE.get(dataset, dataset)
    if role not in set(rows.dataset):
        known = ", ".join(dict.fromkeys([*PAPER_ROLE, *rows.dataset.unique()]))
        raise ValueError(f"dataset {dataset!r} has no counterpart in the paper's {name}; those that have one: {known}")
    return rows[rows.dataset == role]


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
    """How far each metric moves over the settings of an ablation table: (max - min) / mean in percent, a row per data set."""
    metrics = table(name).groupby("dataset")[list(HIGHER_IS_BETTER)]
    return 100 * (metrics.max() - metrics.min()) / metrics.mean()


def _claim(claim: str, stated: str, found: str, holds: bool) -> dict:
    return {"claim": claim, "stated": stated, "recomputed": found, "holds": "yes" if holds else "no"}


def verdicts() -> pd.DataFrame:
    """The paper's claims, what it states, what its own tables give, and whether the two agree."""
    gain, fast = gains(), speedups()
    image, text = gain.loc["image_drop", "mean"], gain.loc["text_drop", "mean"]
    cells = gain.drop(columns="mean").stack()
    lost = [f"{column.replace('_', ' ')} on {dataset} ({value:.1f} %)" for (column, dataset), value in cells.items() if value < 0]
    nearest = (fast - 63.95).abs().idxmin()
    steps, beta = spread("table3_num_steps"), spread("table5_m2ib_beta")
    steps, beta = (s[["image_drop", "text_drop"]].mean() for s in (steps, beta))
    return pd.DataFrame(
        [
            _claim("image interpretability, mean gain in drop", "+9 %", f"{image:+.2f} %", abs(image - 9) < 0.5),
            _claim("text interpretability, mean gain in drop", "+58.83 %", f"{text:+.2f} %", abs(text - 58.83) < 0.5),
            _claim(
                "speed, mean gain in pairs per second",
                "+63.95 %",
                f"{gain.loc['fps', 'mean']:+.2f} % over the fastest baseline; nearest over any one: {fast[nearest]:+.2f} % ({nearest})",
                abs(fast[nearest] - 63.95) < 0.5,
            ),
            _claim(
                "best in every column of Table 2",
                f"{len(cells)} of {len(cells)}",
                f"{(cells >= 0).sum()} of {len(cells)}; behind in {', '.join(lost)}",
                not lost,
            ),
            _claim(
                "image scores hardly depend on num_steps",
                "stable",
                f"image drop moves by {steps['image_drop']:.0f} % of its mean",
                steps["image_drop"] < 10,
            ),
            _claim(
                "text scores hardly depend on num_steps",
                "stable",
                f"text drop moves by {steps['text_drop']:.0f} % of its mean",
                steps["text_drop"] < 10,
            ),
            _claim(
                "M2IB depends strongly on beta",
                "sensitive",
                f"image drop moves by {beta['image_drop']:.0f} %, text drop by {beta['text_drop']:.0f} % of the mean",
                beta.min() > 50,
            ),
        ]
    )
