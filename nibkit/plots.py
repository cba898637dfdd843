"""Every figure's parts: each function draws on an Axes and returns it.

Titles are shown as written: a $ in a caption is no mathematics.
Signed scores use one diverging colour map centred at zero, red for the match and blue against it, always with the range
shown.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from colorsys import hls_to_rgb
from contextlib import contextmanager

import IPython
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.core.formatters import PNGFormatter
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pandas.io.formats.style import Styler

from .methods import METHODS

SIGNED = "RdBu_r"
FONTS = [  # between them they have most letters; matplotlib draws each letter with the first that has it
    *["DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Emoji", "Symbola", "WenQuanYi Zen Hei"],
    *[
        "Unifont",
        "Arial Unicode MS",
        "Hiragino Sans",
        "PingFang SC",
        "Microsoft YaHei",
        "Malgun Gothic",
        "Segoe UI Emoji",
    ],
]
_colorblind = sns.color_palette("colorblind", 10)
PALETTE = [*_colorblind[:7], _colorblind[9], *sns.color_palette("dark", 10)[1:6]]  # of methods, in the order of METHODS


def colour(method: str) -> str | tuple[float, float, float]:
    """A method's colour, the same everywhere: the one it declares, or else the next of PALETTE, and after its end a hue
    of its own.

    There is one for every method of METHODS; any other name is grey.
    """
    if method not in METHODS or METHODS[method].colour:
        return METHODS[method].colour if method in METHODS else "0.6"
    place = [name for name, known in METHODS.items() if not known.colour].index(method)
    return PALETTE[place] if place < len(PALETTE) else hls_to_rgb(place * GOLDEN % 1, 0.4, 0.6)


GOLDEN = 0.618034  # steps of this part of the colour circle come near to no earlier one
# NIB's quadrature rules: the published sum in NIB's colour, the others in some that no method has, since bands overlap
RULES = {
    "riemann": {"color": colour("nib"), "ls": "-"},
    "gauss": {"color": "#c2185b", "ls": ":"},
    "carry": {"color": "#8a7f00", "ls": "-."},
    "exact": {"color": "#101010", "ls": "--"},
    "norm": {"color": colour("centre"), "ls": ":"},
}
PARTS = {"named": "#c0392b", "other": "#2c6fbb", "ground": "0.6"}  # of a picture: what the text names, and what not
# Verdicts: for, open, against. Dark and light, so that they are told apart without colours too.
VERDICTS = {1: ("▲", "#14664b"), 0: ("", "#ffffff"), -1: ("▼", "#f9c58d")}
FOR, AGAINST = "holds yes passes PASS beats with", "contradicted no fails FAILS loses against"
WORTH = dict.fromkeys(FOR.split(), 1) | dict.fromkeys(AGAINST.split(), -1)  # any other verdict is open


def theme() -> None:
    """Set seaborn's white grid and our resolutions for all figures that follow; a notebook keeps each one's `alt`."""
    rc = {"figure.dpi": 80, "savefig.dpi": 110, "savefig.bbox": "tight", "font.family": ["sans-serif", *_fonts()]}
    sns.set_theme(style="whitegrid", context="notebook", rc=rc)
    if shell := IPython.get_ipython():
        keep_alt(shell.display_formatter.formatters["image/png"])


def keep_alt(png: PNGFormatter) -> None:
    """Have a notebook's way of showing a figure put its `alt` into the output's metadata, where readers look for it."""
    if Figure not in png.type_printers:
        plt.switch_backend(plt.get_backend())  # loads it: only now a notebook's sets how figures are shown
    draw = png.type_printers.get(Figure)
    if draw and getattr(draw, "func", None) is not _drawn:
        png.for_type(Figure, functools.partial(_drawn, draw))


def _drawn(draw, figure: Figure) -> tuple:
    drawn = draw(figure)  # data, or data and metadata
    data, metadata = drawn if isinstance(drawn, tuple) else (drawn, {})
    return data, metadata | {"alt": alt(figure)}


def alt(figure: Figure) -> str:
    """A figure in words, for those who cannot see it: title, axes and legend of every panel, equal ones once."""
    said = [" ".join(figure.get_suptitle().split())]
    for ax in figure.axes:
        x, y = ax.get_xlabel(), ax.get_ylabel()
        parts = [ax.get_title(), f"{y} against {x}" if x and y else x or y]
        if ax.get_legend():
            parts.append("legend: " + ", ".join(text.get_text() for text in ax.get_legend().get_texts()))
        said.append("; ".join(" ".join(part.split()) for part in parts if part.strip()))
    panels = [text for text in dict.fromkeys(said) if text]
    return "Figure. " + ". ".join(panels) + "." if panels else ""


@contextmanager
def themed() -> Iterator[None]:
    """`theme` for the figures inside only."""
    with plt.rc_context():
        theme()
        yield


def picture(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """An RGB picture (H, W, 3), in [0, 1] or of bytes, without axes."""
    ax.imshow(image)
    ax.set_title(title, parse_math=False)
    ax.set_axis_off()
    return ax


def overlay(
    ax: Axes,
    image: np.ndarray,
    scores: np.ndarray,
    limit: float | None = None,
    title: str = "",
    unit: str = "cosine / patch",
    strength: float = 0.6,
    outline: np.ndarray | None = None,
) -> Axes:
    """Signed scores (H, W) over the picture's grey version, with a colour bar in `unit`; without one where it is "".

    limit: the score at the end of the colour bar; by default the largest magnitude, so that maps side by side should
    share one.
    strength: opacity of the scores, in [0, 1]. outline: a mask (H, W) whose edge is drawn.
    """
    limit = float(limit or np.abs(scores).max() or 1e-9)
    ax.imshow(image.mean(-1), cmap="gray", vmin=-0.3, vmax=1.3)
    drawn = ax.imshow(scores, cmap=SIGNED, vmin=-limit, vmax=limit, alpha=strength)
    if outline is not None:
        for width, colour in ((3, "white"), (1.2, "black")):  # seen on dark and on light
            ax.contour(outline.astype(float), [0.5], colors=colour, linewidths=width)
    if unit:
        _colour_bar(ax, drawn, unit)
    ax.set_title(title, parse_math=False)
    ax.set_axis_off()
    return ax


def legend(ax: Axes, **options) -> Axes:
    """A legend on the right of the Axes, where it covers no data; options as matplotlib's."""
    ax.legend(**{"fontsize": 8, "loc": "center left", "bbox_to_anchor": (1, 0.5)} | options)
    return ax


def blended(image: np.ndarray, scores: np.ndarray, limit: float | None = None, strength: float = 0.6) -> np.ndarray:
    """What `overlay` shows without its Axes: bytes (H, W, 3), of scores (H, W) and an RGB picture of their size."""
    limit = float(limit or np.abs(scores).max() or 1e-9)
    grey = ((image.mean(-1, keepdims=True) + 0.3) / 1.6).clip(0, 1)
    colours = plt.get_cmap(SIGNED)(Normalize(-limit, limit, clip=True)(scores))[..., :3]
    return np.uint8(255 * ((1 - strength) * grey + strength * colours).round(3))


def _colour_bar(ax: Axes, drawn: ScalarMappable, label: str):
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7)
    return bar


def heat(
    ax: Axes,
    image: np.ndarray,
    heatmap: np.ndarray,
    title: str = "",
    ends: Sequence[str] = (),
    unit: str = "",
    strength: float = 1.0,
) -> Axes:
    """A [0, 1] heat map (H, W) as brightness of the picture: what the confidence metrics keep.

    ends, unit: the raw scores that 0 and 1 stand for, beside a colour bar where given. strength: how dark 0 is, in [0,
    1].
    """
    if ends:
        bar = _colour_bar(
            ax, ScalarMappable(Normalize(0, 1), ListedColormap(np.linspace([1 - strength] * 3, [1] * 3))), unit
        )
        bar.set_ticks([0, 1], labels=ends)
    return picture(ax, image * (1 - strength + strength * heatmap[..., None]), title)


@functools.cache
def _fonts() -> dict[str, frozenset]:
    """Those of FONTS that this machine has, best first: name -> the letters it has."""
    files = {font.name: font.fname for font in reversed(font_manager.fontManager.ttflist)}
    known = [name for name in FONTS if name in files]
    return {name: frozenset(font_manager.get_font(files[name]).get_charmap()) for name in known}


def number(value: float, spec: str) -> str:
    """The number as that format writes it, with a minus sign as on axes and in formulas.

    >>> number(-0.25, "+.3f"), number(0.25, "+.3f")
    ('−0.250', '+0.250')
    """
    return format(value, spec).replace("-", "−")


def spelt(word: str) -> str:
    """The word as it can be drawn here: a letter that no font has becomes its number, which says what is missing.

    >>> spelt("café"), spelt("\\U00100000")
    ('café', 'U+100000')
    """
    return "".join(c if any(ord(c) in letters for letters in _fonts().values()) else f"U+{ord(c):X}" for c in word)


def text(ax: Axes, words: Sequence[tuple[str, float]], limit: float | None = None, title: str = "") -> Axes:
    """Words on a background coloured by their signed score, the score below each; one line that fills the Axes."""
    limit = float(limit or max((abs(s) for _, s in words), default=0) or 1e-9)
    colour, norm = plt.get_cmap(SIGNED), Normalize(-limit, limit)
    widths = np.array([max(len(spelt(w)), 4) + 1 for w, _ in words], float)
    edges = np.concatenate([[0], np.cumsum(widths)]) / max(widths.sum(), 1)
    for (word, score), left, right in zip(words, edges[:-1], edges[1:]):
        face = colour(norm(score))
        ink = "white" if np.mean(face[:3]) < 0.45 else "black"
        ax.add_patch(plt.Rectangle((left, 0.42), (right - left) * 0.94, 0.36, color=face, lw=0))
        centred = {"ha": "center", "va": "center"}
        place = (left + right) / 2 - (right - left) * 0.03, 0.6
        ax.text(*place, spelt(word), color=ink, fontsize=12, parse_math=False, **centred)
        ax.text((left + right) / 2, 0.27, number(score, "+.3f"), fontsize=8, color="0.3", **centred)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_title(title, parse_math=False)
    ax.set_axis_off()
    return ax


def style(label: str, method: str) -> dict[str, str]:
    """A line's colour and dashes: the method's own colour, dashed where the label is another, for a variant of it;
    NIB's rules as in RULES."""
    variant = label.removeprefix(method).strip()
    if method == "nib" and variant in RULES:
        return RULES[variant]
    return {"color": colour(method), "ls": "--" if variant else "-"}


def line(ax: Axes, table, column: str, title: str = "", **style) -> Axes:
    """A column of a table against the table's index, with its interval as a band where there is one."""
    (drawn,) = ax.plot(table.index, table[column], **{"marker": "o", "markersize": 4, **style})
    if f"{column}_low" in table:
        ends = table[f"{column}_low"], table[f"{column}_high"]
        ax.fill_between(table.index, *ends, color=drawn.get_color(), alpha=0.2, lw=0)
    ax.set_title(title, parse_math=False)
    ax.set(xlabel=table.index.name)
    return ax


def grid(ax: Axes, marks, shown, says: Mapping[int, str]) -> Axes:
    """A table as a grid of cells: what `shown` says on the colour of `marks` (1, 0 or -1), and what each means below.

    says: mark -> its meaning. A cell of a mark begins with that mark's sign, ▲ or ▼, unless it is a tick or a cross.
    """
    signs = marks.map(lambda mark: VERDICTS.get(mark, ("",))[0])
    shown = shown.astype(str)
    shown = shown.where(shown.apply(lambda cells: cells.str.contains("[✓✗]")), (signs + " " + shown)).map(str.strip)
    look = {"cmap": ListedColormap([VERDICTS[mark][1] for mark in (-1, 0, 1)]), "vmin": -1, "vmax": 1, "cbar": False}
    look |= {"linewidths": 1, "linecolor": "0.8", "annot_kws": {"size": 8}}
    sns.heatmap(marks.astype(float), annot=shown, fmt="", ax=ax, **look)
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", rotation=0, length=0, labelsize=8)
    ax.set(xlabel="", ylabel="")
    said = {mark: meaning if meaning[0] in "✓✗" else f"{VERDICTS[mark][0]} {meaning}" for mark, meaning in says.items()}
    keys = [Patch(fc=VERDICTS[mark][1], ec="0.6", label=label.strip()) for mark, label in said.items()]
    ax.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(keys), frameon=False, fontsize=8)
    return ax


def verdicts(table, columns: Iterable[str]) -> Styler:
    """A table (or its Styler) for the eye: verdicts in the colours and with the signs of `grid`, text on the left."""

    def look(word: str) -> str:
        mark = WORTH.get(word, 0)
        ink = "#ffffff" if mark == 1 else "#000000"
        return f"background-color: {VERDICTS[mark][1]}; color: {ink}; white-space: nowrap"

    styled = getattr(table, "style", table).map(look, subset=list(columns))
    styled.format(lambda word: f"{VERDICTS[WORTH.get(word, 0)][0]} {word}".strip(), subset=list(columns))
    return styled.set_properties(**{"text-align": "left", "vertical-align": "top"})


def dots(ax: Axes, table, column: str, title: str = "", shift: float = 0.0, **style) -> Axes:
    """A column of a table as points beside its index, top down, with `low` and `high` as whiskers. shift: in rows,
    downwards.
    """
    rows = np.arange(len(table)) + shift
    error = np.maximum(0, [table[column] - table["low"], table["high"] - table[column]])
    ax.errorbar(table[column], rows, xerr=error, **{"fmt": "o", "markersize": 4, "elinewidth": 1, **style})
    ax.set_yticks(np.arange(len(table)), [str(name) for name in table.index])
    ax.set(ylim=(len(table) - 0.5, -0.5))
    ax.set_title(title, parse_math=False)
    return ax
