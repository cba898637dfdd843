"""What figures draw: labels, values, colours and gaps, read back from the Axes."""

import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import PNGFormatter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from nibkit import plots
from nibkit.methods import METHODS


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


MATHS = r"a $\foo$ cat"
SHOWN = np.zeros((4, 4, 3))
FLAT = pd.DataFrame({"m": [1.0, 2], "m_low": 0.5, "m_high": 2.5, "low": 0.5, "high": 2.5}, ["nib", "rise"])


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.picture(ax, SHOWN, MATHS),
        lambda ax: plots.overlay(ax, SHOWN, SHOWN[..., 0], title=MATHS),
        lambda ax: plots.heat(ax, SHOWN, SHOWN[..., 0], MATHS),
        lambda ax: plots.text(ax, [(MATHS, 1.0)], title=MATHS),
        lambda ax: plots.line(ax, FLAT, "m", MATHS),
        lambda ax: plots.dots(ax, FLAT, "m", MATHS),
    ],
)
def test_titles_are_shown_as_written(ax, draw):
    """A $ in a caption is no mathematics: matplotlib would end the figure, or drop the signs."""
    draw(ax)
    ax.figure.canvas.draw()
    written = [text for axes in ax.figure.axes for text in (axes.title, *axes.texts) if "$" in text.get_text()]
    assert written and not any(text.get_parse_math() for text in written)


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_a_grid_colours_its_cells_by_marks_and_writes_what_is_shown(ax):
    marks = pd.DataFrame({"ap": [1, -1], "image\ndrop": [0, np.nan]}, ["nib", "rise"])
    shown = pd.DataFrame({"ap": ["+0.25", "-0.50"], "image\ndrop": ["+0.50", ""]}, ["nib", "rise"])
    plots.grid(ax, marks, shown, {1: "beats both", 0: "open", -1: "loses"})
    assert labels(ax.get_xticklabels()) == ["ap", "image\ndrop"] and labels(ax.get_yticklabels()) == ["nib", "rise"]
    cells = ax.collections[0].get_array().reshape(2, 2)
    assert cells[0].tolist() == [1, 0] and cells[1, 0] == -1
    assert np.ma.getmaskarray(cells).tolist() == [[False, False], [False, True]]  # nothing known: no colour
    assert [text.get_text() for text in ax.texts] == ["▲ +0.25", "+0.50", "▼ -0.50"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["▲ beats both", "open", "▼ loses"]


def luminance(colour) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = np.array(to_rgb(colour))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(*colours) -> float:
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


def test_verdicts_are_told_apart_without_colours_and_can_be_read(ax):
    marks = pd.DataFrame({"ap": [1, 0, -1]})
    plots.grid(ax, marks, marks.astype(str), {})
    for cell, text in zip(ax.collections[0].get_facecolors(), ax.texts):
        assert contrast(cell[:3], text.get_color()) >= 4.5
    assert contrast(plots.VERDICTS[1][1], plots.VERDICTS[-1][1]) >= 3
    shown = plots.verdicts(pd.DataFrame({"verdict": ["holds", "open", "contradicted"]}), ["verdict"]).to_html()
    assert "▲ holds" in shown and "▼ contradicted" in shown and ">open<" in shown
    for ink, mark in (("#ffffff", 1), ("#000000", -1), ("#000000", 0)):
        assert f"background-color: {plots.VERDICTS[mark][1]};\n  color: {ink}" in shown
        assert contrast(ink, plots.VERDICTS[mark][1]) >= 4.5


def test_dots_draw_values_and_whiskers_top_down(ax):
    table = pd.DataFrame(
        {"tau": [0.5, -0.25, np.nan], "low": [0.25, -0.5, np.nan], "high": [1, 0, np.nan]}, ["a", "b", "c"]
    )
    plots.dots(ax, table, "tau", "title", shift=0.25)
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert points.get_xdata().tolist()[:2] == [0.5, -0.25] and points.get_ydata().tolist() == [0.25, 1.25, 2.25]
    assert np.isnan(points.get_xdata()[2])  # a missing value leaves its row empty and keeps its label
    whiskers = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments() if len(segment)]
    assert whiskers == [[0.25, 1], [-0.5, 0]]
    assert (
        labels(ax.get_yticklabels()) == ["a", "b", "c"] and ax.get_ylim() == (2.5, -0.5) and ax.get_title() == "title"
    )


def test_a_variant_of_a_method_has_its_colour_and_another_line():
    assert plots.style("nib", "nib") == {"color": plots.colour("nib"), "ls": "-"}
    assert plots.style("nib, pooled", "nib") == {"color": plots.colour("nib"), "ls": "--"}
    rules = [plots.style(label, "nib")["color"] for label in ("nib", "nib carry", "nib exact")]
    assert len({*rules, *map(plots.colour, METHODS)}) == 2 + len(METHODS)  # bands that overlap can be told apart


def test_importing_plots_changes_no_setting():
    code = (
        "from matplotlib import rcParams; before = dict(rcParams); import nibkit.plots; assert before == dict(rcParams)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_theme_ends_where_it_is_asked_to():
    before = dict(plt.rcParams)
    with plots.themed():
        assert plt.rcParams["axes.grid"] and plt.rcParams["savefig.dpi"] == 110
    assert dict(plt.rcParams) == before


def test_letters_that_no_font_has_are_named(monkeypatch):
    """DejaVu has é and no 猫; matplotlib says nothing of a missing glyph, for none is drawn."""
    monkeypatch.setattr(plots, "FONTS", ["DejaVu Sans"])
    plots._fonts.cache_clear()
    try:
        assert [plots.spelt(word) for word in ("café", "猫", "a猫b", "")] == ["café", "U+732B", "aU+732Bb", ""]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure, ax = plt.subplots()
            plots.text(ax, [("café", 0.5), ("猫", -0.5)])
            figure.canvas.draw()
        assert [t.get_text() for t in ax.texts][::2] == ["café", "U+732B"]
    finally:
        plots._fonts.cache_clear()


def test_a_figure_is_described_by_its_titles_axes_and_legends():
    figure, axes = plt.subplots(1, 3)
    figure.suptitle("8 pairs")
    for ax, side in zip(axes, ("image", "text", "text")):
        ax.plot([0, 1], label="exact")
        ax.set(title=f"{side},\nlayer 9", xlabel="lam", ylabel="F, cosine")
    axes[0].legend()
    axes_said = "F, cosine against lam"
    said = f"Figure. 8 pairs. image, layer 9; {axes_said}; legend: exact. text, layer 9; {axes_said}."
    assert plots.alt(figure) == said
    png = PNGFormatter()
    for draw in (lambda figure: b"data", lambda figure: (b"data", {"width": 3})):
        png.for_type(Figure, draw)
        plots.keep_alt(png)
        plots.keep_alt(png)  # a second theme() changes nothing
        data, metadata = png(figure)
        assert data == b"data" and metadata["alt"] == said
    assert metadata["width"] == 3
    plt.close(figure)
