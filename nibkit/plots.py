"""Every figure's parts: each function draws on an Axes and returns it.

Signed scores use one diverging colour map centred at zero, red for the match and blue against it, always with the range shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from colorsys import hls_to_rgb
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import FigureBase

from .methods import METHODS

SIGNED = "RdBu_r"
_colorblind = sns.color_palette("colorblind", 10)
PALETTE = [*_colorblind[:7], _colorblind[9], *sns.color_palette("dark", 10)[1:6]]  # of methods, in the order of METHODS


def colour(method: str) -> str | tuple[float, float, float]:
    """A method's colour, the same everywhere: the one it declares, or else the next of PALETTE, and after its end a hue of its own.

    There is one for every method of METHODS; any other name is grey.
    """
    if method not in METHODS or METHODS[method].colour:
        return METHODS[method].colour if method in METHODS else "0.6"
    place = [name for name, known in METHODS.items() if not known.colour].index(method)
    return PALETTE[place] if place < len(PALETTE) else hls_to_rgb(place * GOLDEN % 1, 0.4, 0.6)


GOLDEN = 0.618034  # steps of this part of the colour circle come near to no earlier one
RULES = {  # NIB's quadrature rules in NIB's colour, the more broken the less they know; the oracle in the controls' grey
    "exact": {"color": colour("nib"), "ls": "-"},
    "gauss": {"color": colour("nib"), "ls": "--"},
    "riemann": {"color": colour("nib"), "ls": ":"},
    "oracle": {"color": colour("centre"), "ls": "-."},
}


def theme() -> None:
    """Set seaborn's white grid and our resolutions for all figures that follow."""
    sns.set_theme(style="whitegrid", context="notebook", rc={"figure.dpi": 80, "savefig.dpi": 110, "savefig.bbox": "tight"})


@contextmanager
def themed() -> Iterator[None]:
    """`theme` for the figures inside only."""
    with plt.rc_context():
        theme()
        yield


def picture(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """An RGB picture (H, W, 3), in [0, 1] or of bytes, without axes."""
    ax.imshow(image)
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def overlay(
    ax: Axes, image: np.ndarray, scores: np.ndarray, limit: float | None = None, title: str = "", unit: str = "cosine / patch",
    strength: float = 0.6,
) -> Axes:
    """Signed scores (H, W) over the picture's grey version, with a colour bar in `unit`.

    limit: the score at the end of the colour bar; by default the largest magnitude, so that maps side by side should share one.
    strength: opacity of the scores, in [0, 1].
    """
    limit = float(limit or np.abs(scores).max() or 1e-9)
    ax.imshow(image.mean(-1), cmap="gray", vmin=-0.3, vmax=1.3)
    drawn = ax.imshow(scores, cmap=SIGNED, vmin=-limit, vmax=limit, alpha=strength)
    _colour_bar(ax, drawn, unit)
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def _colour_bar(ax: Axes, drawn: ScalarMappable, label: str):
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7)
    return bar


def heat(
    ax: Axes, image: np.ndarray, heatmap: np.ndarray, title: str = "", ends: Sequence[str] = (), unit: str = "", strength: float = 1.0
) -> Axes:
    """A [0, 1] heat map (H, W) as brightness of the picture: what the confidence metrics keep.

    ends, unit: the raw scores that 0 and 1 stand for, beside a colour bar where given. strength: how dark 0 is, in [0, 1].
    """
    if ends:
        bar = _colour_bar(ax, ScalarMappable(Normalize(0, 1), ListedColormap(np.linspace([1 - strength] * 3, [1] * 3))), unit)
        bar.set_ticks([0, 1], labels=ends)
    return picture(ax, image * (1 - strength + strength * heatmap[..., None]), title)


def text(ax: Axes, words: Sequence[tuple[str, float]], limit: float | None = None, title: str = "") -> Axes:
    """Words on a background coloured by their signed score, the score below each; one line that fills the Axes."""
    limit = float(limit or max((abs(s) for _, s in words), default=0) or 1e-9)
    colour, norm = plt.get_cmap(SIGNED), Normalize(-limit, limit)
    widths = np.array([max(len(w), 4) + 1 for w, _ in words], float)
    edges = np.concatenate([[0], np.cumsum(widths)]) / max(widths.sum(), 1)
    for (word, score), left, right in zip(words, edges[:-1], edges[1:]):
        face = colour(norm(score))
        ink = "white" if np.mean(face[:3]) < 0.45 else "black"
        ax.add_patch(plt.Rectangle((left, 0.42), (right - left) * 0.94, 0.36, color=face, lw=0))
        centred = {"ha": "center", "va": "center"}
        ax.text((left + right) / 2 - (right - left) * 0.03, 0.6, word, color=ink, fontsize=12, parse_math=False, **centred)
        ax.text((left + right) / 2, 0.27, f"{score:+.3f}", fontsize=8, color="0.3", **centred)
    ax.set(xlim=(0, 1), ylim=(0, 1), title=title)
    ax.set_axis_off()
    return ax


def pair(
    figure: FigureBase, image: np.ndarray, maps: Mapping[str, np.ndarray], words: Mapping[str, Sequence[tuple[str, float]]],
    title: str = "",
) -> None:
    """A pair on a figure of its own: the picture, its signed maps (name -> (H, W)) beside it, the caption by each name below.

    The maps share one scale, and so do the words.
    """
    heights = [4] + [1] * len(words)
    grid = figure.add_gridspec(len(heights), 1 + len(maps), height_ratios=heights, hspace=0.15, wspace=0.35, top=0.93, bottom=0.02)
    limit = max(np.abs(scores).max() for scores in maps.values())
    loudest = max(abs(score) for line in words.values() for _, score in line)
    picture(figure.add_subplot(grid[0, 0]), image, title)
    for place, (name, scores) in enumerate(maps.items(), 1):
        overlay(figure.add_subplot(grid[0, place]), image, scores, limit, name)
    for place, (name, line) in enumerate(words.items(), 1):
        text(figure.add_subplot(grid[place, :]), line, loudest).set_title(name, loc="left", fontsize=8, y=0.75)


def bars(ax: Axes, summary, column: str, title: str = "") -> Axes:
    """One metric of a benchmark summary as bars with their intervals, one colour per method."""
    low, high = summary[f"{column}_low"], summary[f"{column}_high"]
    colours = [colour(m.split()[0]) for m in summary.index]
    error = np.maximum(0, [summary[column] - low, high - summary[column]])
    ax.barh(list(summary.index), summary[column], xerr=error, color=colours, error_kw={"lw": 1})
    ax.yaxis.set_inverted(True)  # first method on top, also where Axes share the axis
    ax.set_title(title or column.replace("_", " "))
    return ax


def style(label: str) -> dict[str, str]:
    """A line's colour and dashes: the method's own colour, dashed for a variant of it ("nib exact")."""
    name, _, variant = label.partition(" ")
    return {"color": colour(name), "ls": "--" if variant else "-"}


def line(ax: Axes, table, column: str, title: str = "", **style) -> Axes:
    """A column of a table against the table's index, with its interval as a band where there is one."""
    (drawn,) = ax.plot(table.index, table[column], **{"marker": "o", "markersize": 4, **style})
    if f"{column}_low" in table:
        ends = table[f"{column}_low"], table[f"{column}_high"]
        ax.fill_between(table.index, *ends, color=drawn.get_color(), alpha=0.2, lw=0)
    ax.set(title=title, xlabel=table.index.name)
    return ax


def verdicts(ax: Axes, table) -> Axes:
    """A table of `sanity.verdicts` as a grid, methods x checks: the mean in a cell coloured by its verdict."""
    marks = table.verdict.map({"passes": 1, "open": 0, "fails": -1})
    table = table.assign(column=(table.check + " " + table.part).str.replace(" ", "\n"), mark=marks)
    grid = table.pivot(index="method", columns="column", values=["mark", "value"])
    grid = grid.reindex(index=table.method.unique()).reindex(columns=table.column.unique(), level=1)
    values = grid["value"].round(2).map("{:.2f}".format).replace("-0.00", "0.00")
    sns.heatmap(grid["mark"].astype(float), annot=values, fmt="", cmap="PiYG", vmin=-1.6, vmax=1.6, cbar=False, linewidths=1, ax=ax)
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", rotation=0, length=0, labelsize=8)
    ax.set(xlabel="", ylabel="")
    return ax


def scoreboard(ax: Axes, table) -> Axes:
    """A table of `stats.against_controls` as a grid, methods x metrics: how far above the stronger control.

    A cell holds the smaller gain; green beats every control, pink loses to one, white is neither.
    """
    worth = table.verdict.map({"beats": 1, "open": 0, "loses": -1})
    cells = table.assign(mark=worth).groupby(["method", "metric"], sort=False)[["mark", "gain"]].min()
    order = {"index": table.method.unique(), "columns": table.metric.unique()}
    mark, gain = (cells[name].unstack().reindex(**order) for name in ("mark", "gain"))
    decimals = "{:+.2f}" if gain.abs().max(axis=None) <= 1 else "{:+.1f}"
    heads = [name.replace("_", "\n") for name in mark.columns]
    sns.heatmap(
        mark.set_axis(heads, axis=1).astype(float), annot=gain.map(decimals.format), fmt="", cmap="PiYG", vmin=-1.6, vmax=1.6,
        cbar=False, linewidths=1, annot_kws={"size": 8}, ax=ax,
    )  # fmt: skip
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", rotation=0, length=0, labelsize=8)
    ax.set(xlabel="", ylabel="")
    return ax


def dots(ax: Axes, table, column: str, title: str = "", shift: float = 0.0, **style) -> Axes:
    """A column of a table as points beside its index, top down, with `low` and `high` as whiskers. shift: in rows, downwards."""
    rows = np.arange(len(table)) + shift
    error = np.maximum(0, [table[column] - table["low"], table["high"] - table[column]])
    ax.errorbar(table[column], rows, xerr=error, **{"fmt": "o", "markersize": 4, "elinewidth": 1, **style})
    ax.set_yticks(np.arange(len(table)), [str(name) for name in table.index])
    ax.set(title=title, ylim=(len(table) - 0.5, -0.5))
    return ax


def by_layer(axes: Sequence[Axes], table, labels: Sequence[str]) -> Sequence[Axes]:
    """`stats.means` by method and layer: a panel per metric, a line per label, NIB's with its interval."""
    for ax, metric in zip(axes, table.index.unique("metric")):
        for label in labels:
            means = table.xs((metric, label), level=("metric", "method")).sort_index()
            shown = means.rename(columns={"low": "mean_low", "high": "mean_high"}) if label.startswith("nib") else means
            line(ax, shown, "mean", metric, label=label, **style(label))
        ax.set(xlabel="layer", ylabel="", xticks=means.index)
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


def ratios(ax: Axes, table, title: str = "") -> Axes:
    """The column `ratio` of a table as `dots` on a log scale, with a line at 1."""
    dots(ax, table, "ratio", title, color=colour("nib"))
    ax.axvline(1, color="0.3", lw=1)
    ax.set(xscale="log", xticks=[0.2, 0.5, 1, 2, 5], xticklabels=["0.2", "0.5", "1", "2", "5"])
    ax.minorticks_off()
    return ax


def ranks(ax: Axes, table, title: str = "") -> Axes:
    """A table of `stats.ranks` as a line per method from column to column, the best on top, named on the right."""
    places = np.arange(table.shape[1])
    taken = {}
    for method, row in table.iterrows():
        ax.plot(places, row, marker="o", markersize=4, lw=1.5, **style(method))
        taken.setdefault(row.iloc[-1], []).append(method)
    for rank, methods in taken.items():  # equal means share a line of text
        ax.text(places[-1] + 0.12, rank, ", ".join(methods), va="center", fontsize=8)
    ax.set_xticks(places, [name.replace("_", " ") for name in table.columns], fontsize=8)
    ax.set(title=title, ylabel="rank", yticks=[1, len(table)], ylim=(len(table) + 0.5, 0.5), xlim=(-0.1, places[-1] + 0.1))
    ax.grid(False)
    return ax
