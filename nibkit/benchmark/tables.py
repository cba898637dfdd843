"""Tables over the rows of a run: means with intervals, beside the paper's, and for the eye."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from ..methods import display_name
from ..metrics.confidence import HIGHER_IS_BETTER, METRICS
from ..metrics.stats import mean_interval, pictures_of
from ..models import checksum
from .paper import PAPER_PAIRS
from .paper import table as paper_table

DECIMALS = {"n": 0, "failures": 0, "passes": 1}  # shown; of metrics, see `style`


def summary(
    rows: pd.DataFrame, columns: Sequence[str] = METRICS, by: str | list[str] = "label", level: float = 0.95
) -> pd.DataFrame:
    """Per label: method (where it has one), n (pairs measured), failures, the mean of each of `columns` and its
    interval over pictures (METRIC, METRIC_low and METRIC_high: `stats.interval`), pairs_per_second (1 / mean seconds)
    and passes (mean).

    columns: names, or a metric's `columns`; by default the paper's four. by: what to group by, such as an option.
    """
    columns = list(columns)

    def row(group: pd.DataFrame) -> dict:
        good = group[group[columns].notna().any(axis=1)]
        methods = list(group.method.unique()) if "method" in group else []
        result = {"method": methods[0]} if len(methods) == 1 else {}
        result |= {"n": len(good), "failures": len(group) - len(good)}
        for metric in columns:
            found = mean_interval(good[metric], pictures_of(good), level)
            result |= {metric: found["mean"], f"{metric}_low": found["low"], f"{metric}_high": found["high"]}
        return result | {"pairs_per_second": 1 / good.seconds.mean(), "passes": good.passes.mean()}

    groups = {key: row(group) for key, group in rows.groupby(by, sort=False)}
    index = pd.MultiIndex.from_tuples(groups, names=by) if isinstance(by, list) else pd.Index(groups, name=by)
    return pd.DataFrame(list(groups.values()), index=index)


def beside_paper(summary: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Our means next to the paper's Table 2, columns (metric, "ours" | "paper"), for the methods that the paper has.

    summary: by label; of several labels of one method the first stands there. dataset: one of the paper's, or one that
    plays its part (paper.PAPER_ROLE); the paper's are nan for others. Its pairs per second were measured on the
    authors' machine.
    """
    paper = paper_table("table2_benchmark", dataset).rename(columns={"fps": "pairs_per_second"}).set_index("method")
    ours = summary[summary.method.isin(paper.index) & ~summary.method.duplicated()]
    theirs = paper.loc[ours.method].set_index(ours.index)
    columns = [*METRICS, "pairs_per_second"]
    sides = pd.concat({"ours": ours[columns], "paper": theirs[columns]}, axis=1)
    return sides.swaplevel(axis=1)[[(column, side) for column in columns for side in ("ours", "paper")]]


def about(clip, dataset: Sequence, rows: pd.DataFrame) -> pd.DataFrame:
    """Whose numbers `rows` are, in one row: model (and its dtype, if not float32), weights (`checksum`), dataset, pairs
    (in `rows`), of (in the dataset), paper_pairs (that the paper measured; nan for data that are not the paper's),
    failures (rows without metrics).
    """
    name = getattr(dataset, "name", "custom")
    row = {"model": clip.label, "weights": checksum(clip), "dataset": name}
    row |= {"pairs": rows.pair.nunique(), "of": len(dataset)}
    row |= {"paper_pairs": PAPER_PAIRS.get(name, np.nan), "failures": int((rows.error != "").sum())}
    return pd.DataFrame([row])


def caption(about: pd.DataFrame) -> str:
    """A table of `about` in words: "Ours: scenes, weights 0a1b2c3d, on 48 of 256 pairs of scenes-objects"."""
    a = about.iloc[0]
    paper = "" if pd.isna(a.paper_pairs) else f" (the paper: {a.paper_pairs:,.0f})"
    failures = f"; {a.failures:,} failures" if a.failures else ""
    return f"Ours: {a.model}, weights {a.weights}, on {a.pairs:,} of {a.of:,} pairs of {a.dataset}{paper}{failures}"


def style(
    table: pd.DataFrame, about: pd.DataFrame | None = None, columns: Mapping[str, bool | None] = HIGHER_IS_BETTER
) -> Styler:
    """A table of `summary` or `beside_paper` for the eye: the best of a metric in bold, intervals in small print.

    Our metrics have one decimal, the paper's, of a thousand pairs and more, two. Pairs per second are left blank where
    nothing was run (no passes: the controls).

    about: whose numbers these are, for the caption above the table. columns: the metrics' directions.
    """
    shown = _cells(table, columns, "<b>{}</b>", "{}<br><small>{}</small>")
    shown = shown.rename(columns=_heads(columns, " ↑", " ↓"))
    styles = [{"selector": "td", "props": "text-align: right"}, {"selector": "caption", "props": "text-align: left"}]
    styled = shown.style.format_index(escape="html").set_table_styles(styles)
    # pandas does not escape captions
    return styled if about is None else styled.set_caption(html.escape(caption(about)))


def to_latex(
    table: pd.DataFrame, about: pd.DataFrame | None = None, columns: Mapping[str, bool | None] = HIGHER_IS_BETTER
) -> str:
    """A table of `summary` or `beside_paper` in LaTeX, for the package booktabs; columns in the paper's order.

    As `style`: the best of a metric in bold, intervals small, arrows at better; methods have the paper's names. about:
    whose numbers these are, for the caption.
    """
    shown = _cells(table, columns, r"\textbf{{{}}}", r"{} {{\scriptsize ({})}}").replace("–", "--")
    heads = _heads(columns, r" $\uparrow$", r" $\downarrow$")
    shown = shown.rename(index=display_name, columns=heads).rename_axis(index=None)
    said = None if about is None else caption(about).translate({ord(c): rf"\{c}" for c in "_%&#$"})
    layout = {"column_format": "l" + "r" * shown.shape[1], "multicol_align": "c", "position_float": "centering"}
    return shown.style.format_index(escape="latex").to_latex(hrules=True, caption=said, **layout)


def _cells(table: pd.DataFrame, columns: Mapping[str, bool | None], best: str, interval: str) -> pd.DataFrame:
    """The text of a table's cells; best and interval: formats of a best value, and of a value with its interval."""
    names = {column: column[0] if isinstance(column, tuple) else column for column in table}
    dropped = [column for column, name in names.items() if name == "method" or name.endswith(("_low", "_high"))]
    shown = table.drop(columns=dropped).astype(object)
    for column in shown:
        higher = columns.get(names[column])
        decimals = DECIMALS.get(column, 1 if names[column] in columns and column != (names[column], "paper") else 2)
        values = table[column].round(decimals)
        text = values.map(f"{{:,.{decimals}f}}".format)
        if higher is not None:
            text = text.mask(values == (values.max() if higher else values.min()), text.map(best.format))
        if f"{column}_low" in table:
            low, high = (table[f"{column}_{end}"] for end in ("low", "high"))
            between = [f"{a:.{decimals}f} to {b:.{decimals}f}" for a, b in zip(low, high)]
            text = text.combine(pd.Series(between, text.index), interval.format).where(low.notna(), text)
        shown[column] = text.mask(values.isna(), "–")
    if "passes" in table and "pairs_per_second" in table:
        shown["pairs_per_second"] = shown["pairs_per_second"].mask(table["passes"] == 0, "")
    return shown


def _heads(columns: Mapping[str, bool | None], up: str, down: str) -> dict[str, str]:
    arrows = {True: up, False: down, None: ""}
    heads = {name: name.replace("_", " ") + arrows[higher] for name, higher in columns.items()}
    return heads | {"pairs_per_second": "pairs per second (ours: this run)"}
