"""The reference is an integral, the rows say how far each rule is from it, and the verdicts follow from the rows."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_nib import _bottleneck

import nibkit
from nibkit.paths import bundled
from nibkit.study import convergence

PAIRS = nibkit.data.load("scenes-captions")[convergence.TUNED :][:12]
PASSES = {"riemann": (10,), "carry": (5, 21), "exact": (10, 34)}


@pytest.fixture(scope="module")
def rows(scenes):
    some = convergence.cases(PAIRS)
    return convergence.measure(scenes, [some[0], some[12]], [9], PASSES, points=150)


def test_cases_are_own_captions_then_others():
    some = convergence.cases(PAIRS)
    own, other = some[:12], some[12:]
    assert [f"{p.id}/other" for p in own] == [p.id for p in other] and len(some) == 24
    assert all(a.text != b.text for a, b in zip(own, other))


def test_the_reference_is_the_integral():
    """F = z0^2 + z1^3: token 0 is worth z0^2, token 1 z1^3."""
    tokens = torch.tensor([[[0.5], [0.3]]], dtype=torch.float64)
    cubic = _bottleneck(lambda x: x[:, 0, 0] ** 2 + x[:, 1, 0] ** 3, tokens)
    torch.testing.assert_close(convergence.reference(cubic, "carry", 20), torch.tensor([[0.25, 0.027]]).double())


def test_every_rule_is_held_against_its_integral(rows):
    asked = rows.groupby(["rule", "of", "tol"]).passes.unique().map(lambda some: sorted(some.tolist()))
    assert asked["riemann", "exact", 0] == asked["riemann", "carry", 0] == [10]
    assert asked["carry", "carry", 0] == [5, 21] and asked["exact", "exact", 0] == [10, 34]
    assert (rows[rows.tol == convergence.TOL].certified).mean() > 0.7 and not rows[
        rows.rule == "riemann"
    ].certified.any()
    error = rows[rows.tol == 0].groupby(["rule", "of", "passes"]).error.median()
    assert (
        error["carry", "carry", 21] < error["carry", "carry", 5]
        and error["exact", "exact", 34] < error["exact", "exact", 10]
    )
    assert error["carry", "carry", 21] < error["riemann", "carry", 10] < error["riemann", "exact", 10]
    assert (rows[rows.certified].worst < 3 * 100 * convergence.TOL).all()


def test_a_curve_has_medians_with_their_intervals():
    gaps = [1.0, 2.0, 3.0, 4.0, 100.0]
    rows = pd.DataFrame(
        {"layer": 3, "side": "text", "rule": "gauss", "of": "exact", "passes": 10, "gap": gaps, "tol": 0.0}
    )
    found = convergence.curve(pd.concat([rows, rows.assign(tol=0.01, gap=0.0)]), "gap").loc[
        3, "text", "gauss", "exact", 10
    ]
    assert (found.n, found.gap, found.gap_p95) == (5, 3, pytest.approx(80.8))
    assert found.gap_low in (1, 2) and found.gap_high in (4, 100)


def test_goals_are_judged_by_the_rows():
    one = {"rule": "carry", "of": "carry", "tol": 0.0, "layer": 3, "side": "image"}
    rows = pd.DataFrame(
        [one | {"pair": f"{k}", "passes": n, "correlation": r} for k in range(3) for n, r in ((9, 0.9), (13, 0.9995))]
    )
    rows = pd.concat([rows, rows.assign(layer=9), rows.assign(pair="0/other", correlation=0.0)])
    table = convergence.goals(rows).set_index(["layer", "side"])
    assert table.passes.tolist() == [13, 9] and table.verdict.tolist() == ["PASS", "open"] and (table.n == 3).all()


@pytest.mark.parametrize(
    ("worst", "verdict"), [([0.5] * 20, "PASS"), ([0.5] * 18 + [1.1] * 2, "open"), ([0.5] * 19 + [3.5], "open")]
)
def test_certificates_are_judged_by_the_rows(worst, verdict):
    rows = pd.DataFrame({"worst": worst, "rule": "carry", "tol": convergence.TOL, "certified": True, "passes": 13})
    rows["pair"] = [f"{k}/other" if k % 2 else f"{k}" for k in range(20)]
    doubtful = rows.assign(certified=False, worst=50.0, pair="x")  # not certified: allowed to be off
    table = convergence.certificates(pd.concat([rows, doubtful]))
    assert (
        table.verdict["carry", "all"] == verdict
        and table.cases["carry", "all"] == 40
        and table.certified["carry", "all"] == 50
    )
    assert table.cases["carry", "other"] == 10 and table.largest["carry", "all"] == pytest.approx(max(worst))


def test_points_are_refused(scenes):
    with pytest.raises(ValueError, match="points=15 is not 0 or a multiple of 10"):
        convergence.measure(scenes, PAIRS, points=15)


def test_the_bundled_table_is_what_the_code_computes(rows):
    index = ["pair", "side", "rule", "of", "passes"]
    kept = (
        pd.read_csv(bundled("convergence.csv")).query("model == 'scenes' and layer == 9 and tol == 0").set_index(index)
    )
    ours = rows[rows.tol == 0].set_index(index)
    ours = ours.loc[ours.index.intersection(kept.index)]
    assert len(ours) == 24
    np.testing.assert_allclose(ours.error, kept.loc[ours.index].error, rtol=0.05, atol=0.5)
    np.testing.assert_allclose(ours.gap, kept.loc[ours.index].gap, rtol=0.05, atol=0.2)
