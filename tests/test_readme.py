"""The README's snippets print what it says, in turn as a reader would run them; its figures are its tables'."""

import re
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from nibkit.paths import bundled
from nibkit.study import convergence

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


def test_the_rules_are_as_near_as_the_readme_says():
    rows = pd.read_csv(bundled("convergence.csv")).query("model == 'scenes'")
    at = convergence.curve(rows, "correlation").correlation
    for rule, passes, least in (("carry", 21, 0.999), ("exact", 34, 0.998)):
        assert f"{least:g} in the median at {passes}" in PROSE or f"{least:g} at {passes}" in PROSE
        reached = at.xs((rule, rule, passes), level=("rule", "of", "passes"))
        assert len(reached) == 6 and (reached >= least).all()
    certificates = convergence.certificates(rows)
    assert (certificates.verdict == "PASS").all() and (certificates.cases > 0).all()


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
    worse = read("rules", "part", "layer", "metric", "label").loc[("image", 9, "ap", "nib exact")]
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
