"""The README's snippets print what it says, in turn as a reader would run them; its figures are its tables'."""

import re
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from nibkit.paths import bundled

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = " ".join(README.split())


def test_the_snippets_print_their_answers():
    pytest.importorskip("quantus", reason="one snippet shows Quantus, which is optional: pip install 'nibkit[quantus]'")
    blocks, names = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL), {}
    snippets = [(code, printed) for (kind, code), (_, printed) in pairwise(blocks) if kind == "python"]
    assert len(snippets) >= 2
    for code, printed in snippets:
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, "README.md", "exec"), names)
        assert out.getvalue().strip() == printed.strip()


def test_the_exact_rules_figures_are_those_of_the_bundled_table():
    rows = pd.read_csv(bundled("convergence.csv")).query("model == 'scenes'")
    span = lambda values, digits: f"{values.min():.{digits}f} to {values.max():.{digits}f}"  # noqa: E731
    at = {key: group.groupby(["layer", "part"]) for key, group in rows.groupby(["rule", "passes"])}
    ten, twenty = at["exact", 10], at["exact", 20]
    table = {
        f"{rows.pair.nunique()} pairs of `scenes`": "10 gradient passes | 20 gradient passes",
        "gap, median (95th percentile)": " | ".join(
            f"{span(x.gap.median(), 1)} % ({span(x.gap.quantile(0.95), 1)} %)" for x in (ten, twenty)
        ),
        "scores' distance from the integral, median": " | ".join(
            f"{span(x.error.median(), 0)} %" for x in (ten, twenty)
        ),
        "correlation with it, median": " | ".join(span(x.correlation.median(), 3) for x in (ten, twenty)),
    }
    for head, cells in table.items():
        assert f"| {head} | {cells} |" in README
    assert f"its scores are {span(at['riemann', 10].error.median(), 0)} % off in the median" in PROSE
    low = ten.correlation.median() < 0.995
    assert list(low[low].index) == [(3, "image"), (9, "image"), (9, "text")]
    assert (at["oracle", 10].correlation.median()[low] < 0.995).sum() == 2


def test_the_studys_figures_are_those_of_its_tables():
    def read(name, *index):
        return pd.read_csv(ROOT / "reports/study/12_ground_truth" / f"{name}.csv").set_index(list(index))

    def spell(row, column, sign=1):
        low, mean, high = (sign * row[[column, "low", "high"]].astype(float)).sort_values()
        return f"{mean:.2f} ({low:.2f} to {high:.2f})"

    places, layers = read("truth_image", "metric", "label"), read("truth_layers", "metric", "label", "layer")
    beaten = (
        read("truth_verdicts", "metric", "label")
        .loc["pointing"]
        .groupby("label")
        .verdict.agg(lambda v: (v == "beats").all())
    )
    pointing = places.loc["pointing"]
    worse = read("rules", "layer", "metric").loc[(9, "ap")]
    faded = read("forced", "part", "label").loc["image"]
    for sentence in (
        f"{int(pointing.n.max())} named objects, one to a picture",
        f"{beaten.sum()} of {len(beaten)} methods point at the named object more often than both controls do, "
        f"`random` ({pointing['mean']['random']:.2f}) and `centre` ({pointing['mean']['centre']:.2f})",
        f"NIB does in {spell(pointing.loc['nib'], 'mean')} "
        f"and at layer 6 in {spell(layers.loc[('pointing', 'nib', 6)], 'mean')}, "
        f"`gae` in {spell(pointing.loc['gae'], 'mean')}",
        f"is below the published sum's by {spell(worse, 'gain', -1)}",
        f"NIB's map fades to {faded.ratio['nib']:.2f} of its strength "
        f"({faded.low['nib']:.2f} to {faded.high['nib']:.2f}), M2IB's grows to {spell(faded.loc['m2ib'], 'ratio')}",
    ):
        assert sentence in PROSE
    below = read("negative", "label").verdict
    assert list(below.index[below == "holds"]) == ["fastig", "xgrad"] and below["nib"] == "fails"
    beats = read("metric_failing", "metric")
    confidence = [name for name in beats.index if name.startswith("image") and ("drop" in name or "increase" in name)]
    areas = beats.both[[name for name in beats.index if name.startswith("image") and name not in confidence]]
    assert len(confidence) == 3 and (beats.both[confidence] == 0).all()
    assert f"{areas.min()} to {areas.max()} of 14 do on each form of insertion and deletion of pictures" in PROSE
    taus = read("tau", "with", "metric").loc["truth"]
    assert taus.tau[areas.index].min() > taus.tau[confidence].max()
