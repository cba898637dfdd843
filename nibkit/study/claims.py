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
    """How far each metric moves over the settings of an ablation table: (max - min) / mean in percent, a row per data set."""
    metrics = table(name).groupby("dataset")[list(HIGHER_IS_BETTER)]
    return 100 * (metrics.max() - metrics.min()) / metrics.mean()


NEAR, HARDLY, STRONGLY = 0.5, 10, 50  # points off a stated figure; spreads in percent of the mean
OURS = "our question"


def verdicts() -> pd.DataFrame:
    """What the paper says of its figures, and what its own tables give.

    Columns: claim, source (where the paper says so, or "our question"), stated (its words or figure, "–" where the question
    is ours), recomputed, rule (when the claim counts as true), holds ("yes" or "no").
    """
    gain, fast = gains(), speedups()
    image, text = gain.loc["image_drop", "mean"], gain.loc["text_drop", "mean"]
    cells = gain.drop(columns="mean").stack()
    lost = [f"{column.replace('_', ' ')} on {dataset} ({value:.1f} %)" for (column, dataset), value in cells.items() if value < 0]
    nearest = (fast - 63.95).abs().idxmin()
    faster = f"{gain.loc['fps', 'mean']:+.2f} % over the fastest baseline"
    faster += f"; nearest over any one: {fast[nearest]:+.2f} % ({nearest})"
    steps, beta = (spread(name)[["image_drop", "text_drop"]].mean() for name in ("table3_num_steps", "table5_m2ib_beta"))
    swings = f"image drop moves by {beta.image_drop:.0f} %, text drop by {beta.text_drop:.0f} % of the mean"
    near, hardly, strongly = f"within {NEAR} points", f"under {HARDLY} % of the mean", f"over {STRONGLY} % of the mean"
    rows = [
        ("image interpretability, mean gain in drop", "abstract", "+9 %", f"{image:+.2f} %", near, abs(image - 9) < NEAR),
        ("text interpretability, mean gain in drop", "abstract", "+58.83 %", f"{text:+.2f} %", near, abs(text - 58.83) < NEAR),
        ("speed, mean gain in pairs per second", "abstract", "+63.95 %", faster, near, abs(fast[nearest] - 63.95) < NEAR),
        (
            "best in every column of Table 2", OURS, "–",
            f"{(cells >= 0).sum()} of {len(cells)}; behind in {', '.join(lost)}", "best or level in all", not lost,
        ),
        *(
            (
                f"{part} scores hardly depend on num_steps", OURS, "–",
                f"{part} drop moves by {steps[f'{part}_drop']:.0f} % of its mean", hardly, steps[f"{part}_drop"] < HARDLY,
            )
            for part in ("image", "text")
        ),
        ("M2IB depends strongly on beta", "argument against M2IB", "very sensitive", swings, strongly, beta.min() > STRONGLY),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["claim", "source", "stated", "recomputed", "rule", "holds"])
    return table.assign(holds=table.holds.map({True: "yes", False: "no"}))
