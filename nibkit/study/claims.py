"""The paper's statements about its own tables, computed again from those tables (data/paper)."""

from collections.abc import Iterable, Iterator

import pandas as pd

from ..benchmark.paper import table
from ..methods import display_name
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


DROPS = ["image_drop", "text_drop"]
NEAR = 0.5  # percentage points within which a stated mean counts as found
HARDLY, STRONGLY = 10, 50  # a spread in percent of the mean, below and above these
Row = tuple[str, str, str, str, Iterable]  # statement, section, table, recomputed, whether each cell agrees


def statements() -> pd.DataFrame:
    """Every statement of the paper that its own tables can confirm or refute, one row each.

    Columns: statement (the paper's words in quotation marks, ours around them), section, table (that it rests on),
    recomputed (what that table says), agree and of (cells of that table that agree, of so many), verdict: "holds"
    where all agree, else "contradicted". A stated mean agrees within NEAR points.
    """
    return _verdicts([*_headlines(), *_settings()], "holds", "contradicted")


def questions() -> pd.DataFrame:
    """Our own questions to the paper's tables: columns as `statements` but the section; verdict: "yes" or "no"."""
    return _verdicts(_questions(), "yes", "no").drop(columns="section")


def _verdicts(rows: Iterable[Row], good: str, bad: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["statement", "section", "table", "recomputed", "agree"])
    cells = table.agree.map(lambda agree: [bool(one) for one in agree])
    return table.assign(agree=cells.map(sum), of=cells.map(len), verdict=cells.map(all).map({True: good, False: bad}))


def _said(cells: pd.Series, form: str = "{:g}") -> str:
    return ", ".join(f"{str(name).replace('_', ' ')} {form.format(value)}" for name, value in cells.items())


def _best(rows: pd.DataFrame, drop: str, by: str) -> pd.Series:
    """The setting with the lowest drop, for each data set."""
    return rows.loc[rows.groupby("dataset")[drop].idxmin()].set_index("dataset")[by]


def _headlines() -> Iterator[Row]:
    mean, fast, bench = gains()["mean"], speedups(), table("table2_benchmark", "imagenet").set_index("method")
    for part, stated in (("image", "9"), ("text", "58.83")):
        quoted, gain = f'"{part} interpretability by an average of {stated}%"', mean[f"{part}_drop"]
        found = f"mean gain in {part} drop over the best baseline {gain:+.2f} %"
        yield quoted, "abstract", "2", found, [abs(gain - float(stated)) < NEAR]
    nearest = (fast - 63.95).abs().idxmin()
    other, gain = display_name(nearest), fast[nearest]
    found = f"{mean.fps:+.2f} % over the fastest baseline; nearest over any one {gain:+.2f} % ({other})"
    yield '"accelerates processing speed by 63.95%"', "abstract", "2", found, [abs(gain - 63.95) < NEAR]
    first, rose = bench.image_increase.idxmax(), bench.image_increase
    found = f"highest on ImageNet: {display_name(first)} {rose[first]:g}; NIB {rose['nib']:g}"
    yield '"highest Image Confidence Increase of 53.1"', "results on ImageNet", "2", found, [first == "nib"]


def _settings() -> Iterator[Row]:
    steps, layers = table("table3_num_steps"), table("table4_target_layer")
    text = steps.pivot(index="dataset", columns="num_steps", values="text_drop")
    asked = 'num_steps from 5 to 20 "slightly improves the Text Confidence Drop"'
    found = f"text drop, where lower is better, moves by: {_said(text[20] - text[5], '{:+.4f}')}"
    yield asked, "ablation of num_steps", "3", found, text[20] < text[5]
    for drop in DROPS:
        best, asked = _best(steps, drop, "num_steps"), f'"best ... at num_steps = 10": {drop.replace("_", " ")}'
        yield asked, "ablation of num_steps", "3", f"lowest at: {_said(best)}", best == 10
    for drop in DROPS:
        at = layers.pivot(index="dataset", columns="target_layer", values=drop)
        more = at[[3, 6]].sub(at[9], axis=0)
        asked = f'layers 3 and 6 have "higher Confidence Drop" than 9: {drop.replace("_", " ")}'
        found = "; ".join(f"layer {layer} less layer 9: {_said(more[layer], '{:+.4f}')}" for layer in more)
        yield asked, "ablation of target_layer", "4", found, (more > 0).to_numpy().ravel()
    moved = spread("table5_m2ib_beta")[DROPS].mean()
    found = f"largest less smallest, mean over the sets: {_said(moved, '{:.0f} %')} of the mean"
    yield f"M2IB is very sensitive to beta (over {STRONGLY} %)", "argument against M2IB", "5", found, moved > STRONGLY


def _questions() -> Iterator[Row]:
    cells = gains().drop(columns="mean").stack()
    asked = "Is NIB best, or level with the best, in every column of Table 2?"
    behind = cells[cells < 0]
    behind.index = [f"{column} on {name}" for column, name in behind.index]
    yield asked, "", "2", f"behind in: {_said(behind, '{:+.1f} %')}", cells >= 0
    bench, beta = table("table2_benchmark").set_index(["method", "dataset"]).image_drop, table("table5_m2ib_beta")
    against = 100 * (bench["nib"] / beta.groupby("dataset").image_drop.min() - 1)
    asked = "Does NIB keep its lead in image drop over M2IB at M2IB's best beta?"
    yield asked, "", "2, 5", f"NIB's drop against that: {_said(against, '{:+.1f} %')}", against < 0
    off = 100 * (beta[beta.beta == 0.1].set_index("dataset").image_drop / bench["m2ib"] - 1)
    asked = "Is M2IB's image drop at beta 0.1 the same in Table 5 as in Table 2?"
    yield asked, "", "2, 5", f"Table 5 less Table 2: {_said(off, '{:+.1f} %')}", off.abs() < 0.05
    moved = spread("table3_num_steps")
    for drop in DROPS:
        asked = f"Does NIB's {drop.replace('_', ' ')} hardly depend on num_steps (under {HARDLY} % of its mean)?"
        yield asked, "", "3", f"largest less smallest: {_said(moved[drop], '{:.0f} %')}", moved[drop] < HARDLY
    for by, chosen, few, more in (("num_steps", 10, 3, 6), ("target_layer", 9, 4, 7)):
        tried = pd.concat([table(f"table{few}_{by}"), table(f"table{more}_{by}_expanded")], ignore_index=True)
        for drop in DROPS:
            best, asked = _best(tried, drop, by), f"Is {by} = {chosen} best for {drop.replace('_', ' ')}?"
            yield asked, "", f"{few}, {more}", f"lowest at: {_said(best)}", best == chosen
