"""What the panel shows of an answer, as HTML; and the same as one figure for a report.

For the panel nothing but pixels is drawn, and all text is the browser's: legible at any width, read aloud too, and a
tenth of a figure's time.
"""

import base64
import html
import io
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from PIL import Image

from .. import plots
from ..attribution import Attribution
from ..methods import METHODS
from ..plots import number

LINE = 66  # letters of a figure's line of words
SEEN = "what the model sees"
MEANINGS = {  # of the facts
    "F(Z)": "cosine of picture and text",
    "F(0)": "the same with the bottleneck closed",
    "F(0+)": "the same just before it is closed",
    "F(0+) − F(0)": "the change at the very end of closing",
    "completeness gap": "how far the scores’ sum is off",
}


class Result(NamedTuple):
    """What is shown of one question: the words with their scores, F(Z), and the cosine without each object.

    picture: (H, W, 3) in [0, 1], what the model sees. of: whose the picture's scores are, "patch" or "pixel".
    """

    method: str
    picture: np.ndarray
    of: str
    attribution: Attribution
    words: list[tuple[str, float]]
    cosine: float
    without: dict[str, float]

    @property
    def scores(self) -> np.ndarray:
        """(H, W), signed."""
        return self.attribution.signed_map()[0]

    @property
    def range(self) -> str:
        """Of the raw scores."""
        return " to ".join(number(end, "+.3g") for end in (self.scores.min(), self.scores.max()))

    def unit(self, of: str) -> str:
        """Of the scores of a "patch", a "pixel", a "word"."""
        unit = METHODS[self.method].unit
        return f"{unit} / {of}" if unit else "no unit"


class Look(NamedTuple):
    """How a map is shown: signed or as a heat map, and the overlay's opacity."""

    signed: bool
    strength: float

    def ends(self, scores: np.ndarray) -> tuple[float, float]:
        """The scores at the colour bar's ends."""
        limit = np.abs(scores).max() or 1e-9
        return (-limit, limit) if self.signed else (scores.min(), scores.max())

    def bar(self) -> np.ndarray:
        """The colour bar, (n, 3): what scores make of middle grey or, as a heat map, of white."""
        if self.signed:
            return self._over(0.5, colormaps[plots.SIGNED](np.linspace(0, 1, 33)))
        return np.linspace([1 - self.strength] * 3, [1] * 3, 33)

    def paint(self, result: Result) -> np.ndarray:
        """The map, (H, W, 3) in [0, 1], as `plots.overlay` and `plots.heat` paint theirs."""
        if not self.signed:
            return result.picture * (1 - self.strength + self.strength * result.attribution.heatmap()[0][..., None])
        share = Normalize(*self.ends(result.scores))(result.scores)
        return self._over((result.picture.mean(-1, keepdims=True) + 0.3) / 1.6, colormaps[plots.SIGNED](share))

    def _over(self, grey: np.ndarray | float, colours: np.ndarray) -> np.ndarray:
        return (1 - self.strength) * grey + self.strength * colours[..., :3]


def image(pixels: np.ndarray, alt: str) -> str:
    """HTML of a picture (H, W, 3) in [0, 1], as wide as its place; it replaces the last one without a flicker."""
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels + 0.5).clip(0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    data, (height, width) = base64.b64encode(buffer.getvalue()).decode(), pixels.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/png;base64,{data}" {size} decoding="sync" alt="{html.escape(alt)}">'


def pictures(result: Result, look: Look) -> str:
    """HTML of picture and map, with a colour bar, its unit, and what the colours say."""
    scores, unit = result.scores, result.unit(result.of)
    down, across = np.unravel_index(scores.argmax(), scores.shape)
    peak = f"the highest {across / scores.shape[1]:.0%} across and {down / scores.shape[0]:.0%} down"
    alt = f"map of the scores of {result.method}, {result.range} {unit}; {peak}"
    low, high = (number(end, "+.3g") for end in look.ends(scores))
    colours = "red speaks for the text, blue against it" if look.signed else "bright is high, dark is low"
    tints = ", ".join(map(to_hex, look.bar()))
    return (
        '<div class="nibkit-pictures">'
        f"<figure>{image(result.picture, SEEN)}<figcaption>{SEEN}</figcaption></figure>"
        f"<figure>{image(look.paint(result), alt)}"
        f'<div class="nibkit-bar" style="background: linear-gradient(to right, {tints})"></div>'
        f'<div class="nibkit-ends"><span>{low}</span><span>{unit}</span><span>{high}</span></div>'
        f"<figcaption>{result.method}: {colours}; raw scores {result.range}</figcaption></figure></div>"
    )


def spoken(result: Result) -> str:
    """HTML of the words on a background coloured by their scores, which stand below them."""
    limit = max((abs(score) for _, score in result.words), default=0) or 1e-9
    colour, norm, spans = colormaps[plots.SIGNED], Normalize(-limit, limit), []
    for word, score in result.words:
        face = colour(norm(score))
        ink = "white" if sum(face[:3]) / 3 < 0.45 else "black"
        style = f"background: {to_hex(face)}; color: {ink}"
        spans.append(f'<span style="{style}">{html.escape(word)} <small>{number(score, "+.4f")}</small></span>')
    aloud = f'<div class="nibkit-aloud">cosine {number(result.cosine, ".4f")}, words: </div>'
    return f'{aloud}<div class="nibkit-words">{"".join(spans)}<em>{result.unit("word")}</em></div>'


def facts(result: Result) -> list[tuple[str, ...]]:
    """Rows of name, picture's value, text's value."""
    info, cosine = result.attribution.info.iloc[0], number(result.cosine, ".4f")
    rows = [("", "picture", "text"), ("F(Z)", cosine, cosine)]
    if "rule_image" in info:  # of NIB, whose scores are to add up to a change of F
        sides, rule = ("image", "text"), info.rule_image
        start = "F(0+)" if rule == "carry" else "F(0)"
        of = "F(0+) − F(0)" if rule == "norm" else f"F(Z) − {start}"
        changes = [info[f"change_{side}"] for side in sides]
        ends = changes if rule == "norm" else [result.cosine - change for change in changes]
        rows.append((of if rule == "norm" else start, *(number(end, ".4f") for end in ends)))
        gaps = zip((info[f"gap_{side}"] for side in sides), changes)
        rows.append(
            ("completeness gap", *(f"{gap:.4f} ({gap / abs(change or 1e-9):.0%} of {of})" for gap, change in gaps))
        )
        if notes := result.attribution.notes():
            rows.append(("note", *(notes.get(side, "") for side in sides)))
    for name, without in result.without.items():
        values = number(without, ".4f"), number(without - result.cosine, "+.4f")
        rows.append((f"F(Z) without the {name}", "{} ({})".format(*values), ""))
    return [*rows, ("cost", f"{info.passes:g} passes, {1000 * info.seconds:.0f} ms", "")]


def table(rows: list[tuple[str, ...]]) -> str:
    """HTML; the first row and the first column are heads, what a name means stands below it."""
    named = [(f"{name}<small>{MEANINGS[name]}</small>" if name in MEANINGS else name, *rest) for name, *rest in rows]
    tags = [["th" if 0 in (i, k) else "td" for k in range(len(row))] for i, row in enumerate(named)]
    lines = ["".join(f"<{t}>{cell}</{t}>" for t, cell in zip(*both)) for both in zip(tags, named)]
    return f'<table class="nibkit-facts">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


@plots.themed()
def page(result: Result, look: Look) -> Figure:
    """A figure for a report: picture and map, below them the words in lines and the facts in rows."""
    lines, told = [[]], facts(result)
    for word in result.words:
        if sum(len(w) + 3 for w, _ in [*lines[-1], word]) > LINE:
            lines.append([])
        lines[-1].append(word)
    limit = max((abs(score) for _, score in result.words), default=0)
    below = 0.65 * len(lines) + 0.2 * len(told) + 0.15  # inches, as all that follow
    width, height, side = 7.6, 3.55 + below, 3.25
    fig = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(fig)
    left, right = (
        fig.add_axes((x / width, (below + 0.03) / height, wide * side / width, side / height))
        for x, wide in ((0.03, 1), (side + 0.15, 1.07))
    )
    plots.picture(left, result.picture)
    how = {"unit": result.unit(result.of), "strength": look.strength}
    if look.signed:
        plots.overlay(right, result.picture, result.scores, **how)
    else:
        ends = [number(end, "+.3g") for end in look.ends(result.scores)]
        plots.heat(right, result.picture, result.attribution.heatmap()[0], ends=ends, **how)
    left.set_title(SEEN, fontsize=9, color="0.4")
    right.set_title(f"{result.method}, raw scores {result.range}", fontsize=9, color="0.4")
    for k, line in enumerate(lines):
        share = min(1, max(0.25, sum(len(w) + 3 for w, _ in line) / LINE))
        ax = fig.add_axes((0.03 / width, (below - 0.65 * (k + 1)) / height, 0.98 * share, 0.6 / height))
        plots.text(ax, line, limit)
    for k, row in enumerate(reversed(told)):
        for x, cell in zip((0.03, 1.9, 4.75), row):
            grey = "0.4" if x < 1 or row is told[0] else "0"
            fig.text(x / width, (0.2 * k + 0.1) / height, cell, fontsize=9, color=grey)
    return fig
