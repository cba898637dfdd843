"""What the panel shows: picture and map, words, facts; as HTML, as PNG, as one figure for a report."""

import html
import io
from typing import NamedTuple

from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from ..attribution import Attribution
from ..methods import METHODS

LINE = 66  # letters of a figure's line of words

STYLE = """<style>
.nibkit-words { display: flex; flex-wrap: wrap; gap: 4px; padding: 2px 0 6px; }
.nibkit-words span { text-align: center; border-radius: 4px; padding: 3px 8px 1px; font-size: 15px; line-height: 1.25; }
.nibkit-words small { display: block; font-size: 10px; opacity: .8; font-variant-numeric: tabular-nums; }
.nibkit-facts { border-collapse: collapse; font-size: 13px; line-height: 1.5; font-variant-numeric: tabular-nums; }
.nibkit-facts td, .nibkit-facts th { padding: 1px 18px 1px 0; text-align: left; font-weight: normal; }
.nibkit-facts th { opacity: .65; }
.nibkit-busy { opacity: .35; transition: opacity .2s .4s; }
.nibkit-note { opacity: .65; padding: 2px 0; font-size: 13px; }
.nibkit-error { border-left: 4px solid #c0392b; background: #c0392b1a; padding: 6px 12px; font-size: 14px; }
</style>"""


class Result(NamedTuple):
    """What is shown of one question: the words with their scores, F(Z), and the cosine without each object."""

    pixels: Tensor
    attribution: Attribution
    words: list[tuple[str, float]]
    cosine: float
    without: dict[str, float]


class Look(NamedTuple):
    """How it is shown: whose scores, signed or as a heat map, and the overlay's opacity."""

    method: str
    signed: bool
    strength: float

    def unit(self, of: str) -> str:
        """Of the scores of a "patch", a "pixel", a "word"."""
        unit = METHODS[self.method].unit
        return f"{unit} / {of}" if unit else "no unit"


@plots.themed()
def draw(clip, result: Result, look: Look, below: float = 0.0) -> Figure:
    """Picture and map, with `below` inches left free under them."""
    width, height = 7.6, 3.55 + below
    fig = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(fig)
    bottom, side = (below + 0.03) / height, 3.25  # inches
    left = fig.add_axes((0.03 / width, bottom, side / width, side / height))
    right = fig.add_axes(((side + 0.15) / width, bottom, 1.07 * side / width, side / height))
    shown, a = clip.picture(result.pixels[0]), result.attribution
    scores, unit = a.signed_map()[0], look.unit("patch" if a.image.shape[1:] == clip.image.grid else "pixel")
    ends = [f"{end:+.3g}" for end in (scores.min(), scores.max())]
    plots.picture(left, shown)
    if look.signed:
        plots.overlay(right, shown, scores, unit=unit, strength=look.strength)
    else:
        plots.heat(right, shown, a.heatmap()[0], ends=ends, unit=unit, strength=look.strength)
    left.set_title("what the model sees", fontsize=9, color="0.4")
    right.set_title(f"{look.method}, raw scores {' to '.join(ends)}", fontsize=9, color="0.4")
    return fig


@plots.themed()
def page(clip, result: Result, look: Look, facts: list[tuple[str, ...]]) -> Figure:
    """`draw`, and below it the words in lines and the facts in rows."""
    lines = [[]]
    for word in result.words:
        if sum(len(w) + 3 for w, _ in [*lines[-1], word]) > LINE:
            lines.append([])
        lines[-1].append(word)
    limit = max((abs(score) for _, score in result.words), default=0)
    below = 0.65 * len(lines) + 0.2 * len(facts) + 0.15
    fig = draw(clip, result, look, below)
    width, height = fig.get_size_inches()
    for k, line in enumerate(lines):
        share = min(1, max(0.25, sum(len(w) + 3 for w, _ in line) / LINE))
        ax = fig.add_axes((0.03 / width, (below - 0.65 * (k + 1)) / height, 0.98 * share, 0.6 / height))
        plots.text(ax, line, limit)
    for k, row in enumerate(reversed(facts)):
        for x, cell in zip((0.03, 1.9, 4.6), row):
            grey = "0.4" if x < 1 or row is facts[0] else "0"
            fig.text(x / width, (0.2 * k + 0.1) / height, cell, fontsize=9, color=grey)
    return fig


def spoken(words: list[tuple[str, float]], unit: str) -> str:
    """HTML of words on a background coloured by their scores, which stand below them."""
    limit = max((abs(score) for _, score in words), default=0) or 1e-9
    colour, norm, spans = colormaps[plots.SIGNED], Normalize(-limit, limit), []
    for word, score in words:
        face = colour(norm(score))
        ink = "white" if sum(face[:3]) / 3 < 0.45 else "black"
        style = f"background: {to_hex(face)}; color: {ink}"
        spans.append(f'<span style="{style}">{html.escape(word)}<small>{score:+.4f}</small></span>')
    return f'<div class="nibkit-words" title="{unit}">{"".join(spans)}</div>'


def facts(result: Result) -> list[tuple[str, ...]]:
    """Rows of name, picture's value, text's value."""
    info = result.attribution.info.iloc[0]
    rows = [("", "picture", "text"), ("F(Z)", f"{result.cosine:.4f}", f"{result.cosine:.4f}")]
    if "rule_image" in info:  # of NIB, whose scores are to add up to a change of F
        sides, rule = ("image", "text"), info.rule_image
        start = "F(0+)" if rule == "carry" else "F(0)"
        of = "F(0+) − F(0)" if rule == "norm" else f"F(Z) − {start}"
        changes = [info[f"change_{side}"] for side in sides]
        ends = changes if rule == "norm" else [result.cosine - change for change in changes]
        rows.append((of if rule == "norm" else start, *(f"{end:.4f}" for end in ends)))
        gaps = zip((info[f"gap_{side}"] for side in sides), changes)
        rows.append(
            ("completeness gap", *(f"{gap:.4f} ({gap / abs(change or 1e-9):.0%} of {of})" for gap, change in gaps))
        )
        if notes := result.attribution.notes():
            rows.append(("note", *(notes.get(side, "") for side in sides)))
    for name, cosine in result.without.items():
        rows.append((f"F(Z) without the {name}", f"{cosine:.4f} ({cosine - result.cosine:+.4f})", ""))
    return [*rows, ("cost", f"{info.passes:g} passes, {1000 * info.seconds:.0f} ms", "")]


def table(rows: list[tuple[str, ...]]) -> str:
    """HTML; the first row and the first column are heads."""
    tags = [["th" if 0 in (i, k) else "td" for k in range(len(row))] for i, row in enumerate(rows)]
    lines = ["".join(f"<{t}>{cell}</{t}>" for t, cell in zip(*both)) for both in zip(tags, rows)]
    return f'<table class="nibkit-facts">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, at the figure's own size and dpi."""
    buffer = io.BytesIO()
    with rc_context({"savefig.bbox": None}):  # a tight box would draw everything twice
        figure.savefig(buffer, format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()
