"""What figures draw: labels, values, colours and gaps, read back from the Axes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nibkit import plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def verdicts(*rows):
    return pd.DataFrame(rows, columns=["metric", "method", "control", "gain", "verdict"])


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_scoreboard_shows_the_smaller_gain_and_the_worse_verdict(ax):
    table = verdicts(
        ("ap", "nib", "random", 0.5, "beats"), ("ap", "nib", "centre", 0.25, "beats"),
        ("ap", "rise", "random", 0.125, "open"), ("ap", "rise", "centre", -0.5, "loses"),
        ("image_drop", "nib", "random", 0.75, "beats"), ("image_drop", "nib", "centre", 0.5, "open"),
    )  # fmt: skip
    plots.scoreboard(ax, table)
    assert labels(ax.get_xticklabels()) == ["ap", "image\ndrop"] and labels(ax.get_yticklabels()) == ["nib", "rise"]
    cells = ax.collections[0].get_array().reshape(2, 2)
    assert cells[0].tolist() == [1, 0] and cells[1, 0] == -1
    assert np.ma.getmaskarray(cells).tolist() == [[False, False], [False, True]]  # rise has no image_drop: no colour
    assert [text.get_text() for text in ax.texts] == ["+0.25", "+0.50", "-0.50"]


def test_scoreboard_of_large_gains_has_one_decimal(ax):
    plots.scoreboard(ax, verdicts(("drop", "nib", "random", 12.345, "beats"), ("drop", "nib", "centre", 34.5, "beats")))
    assert [text.get_text() for text in ax.texts] == ["+12.3"]


def test_dots_draw_values_and_whiskers_top_down(ax):
    table = pd.DataFrame({"tau": [0.5, -0.25, np.nan], "low": [0.25, -0.5, np.nan], "high": [1, 0, np.nan]}, ["a", "b", "c"])
    plots.dots(ax, table, "tau", "title", shift=0.25)
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert points.get_xdata().tolist()[:2] == [0.5, -0.25] and points.get_ydata().tolist() == [0.25, 1.25, 2.25]
    assert np.isnan(points.get_xdata()[2])  # a missing value leaves its row empty and keeps its label
    whiskers = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments() if len(segment)]
    assert whiskers == [[0.25, 1], [-0.5, 0]]
    assert labels(ax.get_yticklabels()) == ["a", "b", "c"] and ax.get_ylim() == (2.5, -0.5) and ax.get_title() == "title"


def test_ranks_draw_a_line_per_method(ax):
    table = pd.DataFrame({"drop": [1, 2.5, 2.5], "drop_corrected": [3, 1.5, 1.5]}, ["nib", "nib exact", "rise"])
    plots.ranks(ax, table)
    assert [line.get_ydata().tolist() for line in ax.lines] == table.to_numpy().tolist()
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "-"]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() == plots.colour("nib")
    assert {(text.get_text(), text.get_position()[1]) for text in ax.texts} == {("nib", 3), ("nib exact, rise", 1.5)}
    assert labels(ax.get_xticklabels()) == ["drop", "drop corrected"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # rank 1 on top


def test_a_panel_per_metric_and_a_line_per_label():
    index = pd.MultiIndex.from_product([["ap", "mass"], ["nib", "nib exact", "gae"], [9, 3]], names=["metric", "method", "layer"])
    table = pd.DataFrame({"mean": np.arange(12.0), "low": np.arange(12.0) - 1, "high": np.arange(12.0) + 1}, index)
    _, axes = plt.subplots(1, 2)
    plots.by_layer(axes, table, ["nib", "nib exact", "gae"])
    assert [ax.get_title() for ax in axes] == ["ap", "mass"]
    lines = axes[1].get_lines()
    assert [(line.get_label(), line.get_linestyle(), list(line.get_ydata())) for line in lines] == [
        ("nib", "-", [7, 6]), ("nib exact", "--", [9, 8]), ("gae", "-", [11, 10]),
    ]  # fmt: skip
    assert lines[0].get_color() == lines[1].get_color() and len(axes[1].collections) == 2  # NIB's bands only


def test_a_pair_shares_one_scale_among_maps_and_one_among_words():
    figure = plt.figure()
    maps = {"paper": np.full((4, 4), 0.25), "exact": np.full((4, 4), -0.5)}
    words = {"paper": [("a", 0.125), ("cat", 1.0)], "exact": [("a", -2.0), ("cat", 1.0)]}
    plots.pair(figure, np.zeros((4, 4, 3)), maps, words, "one")
    assert [ax.get_title() or ax.get_title("left") for ax in figure.axes if not ax.get_label()] == ["one", *maps, *words]
    drawn = [ax.images[-1] for ax in figure.axes if len(ax.images) == 2]
    assert [image.get_clim() for image in drawn] == [(-0.5, 0.5)] * 2
    colours = [[patch.get_facecolor() for patch in ax.patches] for ax in figure.axes if len(ax.patches) == 2]
    assert colours[0][1] == colours[1][1] and colours[0][0] != colours[1][0]  # "cat": one score, one colour
    plt.close(figure)
