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
    pytest.importorskip("quantus", reason="one snippet shows Quantus, which is optional: pip install '.[quantus]'")
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
        reached = at.xs((rule, rule, passes), level=("rule", "of", "passes"))[9]
        assert len(reached) == 2 and (reached >= least).all()
    met = rows[rows.tol == convergence.TOL].groupby(["layer", "side"]).certified.mean()
    assert (met[9] == 1).all() and met[3, "text"] == met[6, "text"] == 0 < met[3, "image"] < 1
    certificates = convergence.certificates(rows)
    assert (certificates.verdict == "PASS").all() and (certificates.cases > 0).all()


def sentences_of_12() -> list[str]:
    """What the tables of notebook 12's report say, in the README's words."""

    def read(name, *index):
        return pd.read_csv(ROOT / "reports/12_ground_truth" / f"{name}.csv").set_index(list(index))

    def spell(row, column):
        return f"{row[column]:.2f} ({row.low:.2f} to {row.high:.2f})"

    pointing = read("truth_image", "metric", "label").loc["pointing"]
    faded = read("forced", "part", "label").loc["image"]
    exact = read("rules", "part", "layer", "metric", "label").loc[("image", 9, "ap", "nib exact")]
    return [
        f"{int(pointing.n.max())} named objects, one to a picture",
        f"on the named object in {spell(pointing.loc['nib'], 'mean')}, `gae`'s in {spell(pointing.loc['gae'], 'mean')}",
        f"`random`'s in {pointing['mean']['random']:.2f}, `centre`'s in {pointing['mean']['centre']:.2f}",
        f"differs from the published sum's by {exact.gain:+.2f} ({exact.low:+.2f} to {exact.high:+.2f})",
        f"NIB's map has {spell(faded.loc['nib'], 'ratio')} of its strength, M2IB's {spell(faded.loc['m2ib'], 'ratio')}",
    ]


def test_the_figures_of_12_are_those_of_its_tables():
    for sentence in sentences_of_12():
        assert sentence in PROSE
    verdicts = pd.read_csv(ROOT / "reports/12_ground_truth/metric_failing.csv").set_index("metric")
    confidence = [name for name in verdicts.index if name.startswith(("image_drop", "image_increase"))]
    assert len(confidence) == 3 and (verdicts.both[confidence] == 0).all()
    rules = pd.read_csv(ROOT / "reports/12_ground_truth/rules.csv")
    assert (rules.verdict == "open").all()
