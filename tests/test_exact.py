"""The exact rule against integrals known by hand, its certificate, and how fast it converges on scenes."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_nib import _bottleneck

import nibkit
from nibkit.methods.nib import LOOSE, Bottleneck, exact_rule, panels, settle
from nibkit.paths import bundled
from nibkit.study import convergence

PAIRS = nibkit.data.load("scenes-captions")[convergence.TUNED :][:3]


def layers(heights, scales) -> Bottleneck:
    """f = sum_k heights_k x_k / sqrt(x_k^2 + scales_k^2): token k moves where lam is about scales_k, and its integral is its
    own term at lam = 1."""
    heights, scales = (torch.tensor(x, dtype=torch.float64) for x in (heights, scales))
    function = lambda x: (heights * x[..., 0] / (x[..., 0] ** 2 + scales**2).sqrt()).sum(1)  # noqa: E731
    return _bottleneck(function, torch.ones(1, len(heights), 1, dtype=torch.float64))


@pytest.mark.parametrize("scales", [(1e-5, 1e-3, 0.1), (1e-4, 1e-4, 1e-4), (0.3, 1e-2, 3e-6)])
def test_every_boundary_layer_is_credited_to_its_token(scales):
    heights = (0.4, -0.2, 0.3)
    path = exact_rule(layers(heights, scales), 1e-3, 64)
    np.testing.assert_allclose(path.scores[0], heights / np.sqrt(1 + np.square(scales)), atol=3e-3)
    assert path.within(1e-3).all()


def test_error_bounds_every_token():
    """Even where the rule is cut short, and however small the gap then is."""
    heights, scales = (0.4, -0.3, 0.3), (1e-5, 3e-4, 0.05)
    truth = torch.tensor(heights) / torch.tensor(scales).square().add(1).sqrt()
    for passes in range(7, 30):
        path = exact_rule(layers(heights, scales), 0, passes)
        assert (path.scores[0] - truth).abs().max() <= path.error.item() and path.passes.item() == passes


def test_errors_that_cancel_do_not_stop_it():
    """Two layers that go unseen between the first nodes, of opposite sign: for some height the scores add up by luck."""
    tol, lucky = 0.02, None
    for height in np.linspace(0.2, 0.4, 81):
        bottleneck = layers((0.2, 0.3, -height), (2.0, 1.1e-4, 4e-3))
        first = exact_rule(bottleneck, 0, 7)
        allowed = tol * first.change.abs()
        if first.gap <= allowed and first.error > LOOSE * allowed:
            lucky = bottleneck
    assert lucky is not None
    path = exact_rule(lucky, tol, 64)
    assert path.passes.item() > 7 and path.within(tol).all()


def test_pairs_are_integrated_each_as_if_alone():
    tokens = torch.tensor([[[1.0], [0.5]], [[1e-3], [0.2]], [[0.03], [2.0]]], dtype=torch.float64)
    function = lambda x: 0.3 * x[:, 0, 0] / (x[:, 0, 0] ** 2 + 1e-6).sqrt() + 0.2 * (3 * x[:, 1, 0]).sin()  # noqa: E731
    together = exact_rule(_bottleneck(function, tokens), 1e-3, 48)
    assert len(set(together.passes.tolist())) > 1
    for k in range(len(tokens)):
        alone = exact_rule(_bottleneck(function, tokens[k : k + 1]), 1e-3, 48)
        assert alone.passes[0] == together.passes[k]
        torch.testing.assert_close(alone.scores[0], together.scores[k], atol=1e-12, rtol=0)


@pytest.mark.parametrize("max_passes", [1, 0, -3, 2.5, True, "8", None])
def test_max_passes_must_be_a_number_that_makes_sense(max_passes):
    with pytest.raises(ValueError, match=f"max_passes={max_passes!r} is not a whole number >= 2"):
        exact_rule(layers((0.4,), (0.1,)), 0.01, max_passes)


@pytest.mark.parametrize("max_passes", [2, 3, 6, 8, 10])
def test_exactly_so_many_passes_are_spent(max_passes):
    assert exact_rule(layers((0.4,), (1e-3,)), 0, max_passes).passes.item() == max_passes


def test_a_residue_goes_to_the_tokens_in_doubt():
    u = np.array([[0.0], [1.0], [3.0], [4.0]])
    straight, bent = 2 + 3 * u, np.array([[0.0], [0.0], [1.0], [9.0]])
    parts, others = panels(u, np.stack([straight, bent, 0 * u], -1))
    np.testing.assert_allclose(parts[:, 0, 2], 0, atol=1e-15)
    lacks = np.array([[0.0], [0.1], [0.2]])
    settled = settle(parts, others, lacks)
    moved = settled - parts
    assert (moved[0] == 0).all() and (moved[:, 0, 2] == 0).all()
    assert (moved[1:, 0, 1] > 10 * np.abs(moved[1:, 0, 0])).all()
    assert (moved.sum(2) <= lacks).all() and (moved.sum(2)[1:] > 0.7 * lacks[1:]).all()
    agreed = np.zeros_like(others)
    np.testing.assert_array_equal(settle(parts, agreed, lacks), parts)  # no doubt: the residue stands, and shows in the gap


def test_the_reference_is_exact_for_boundary_layers():
    scales = (1e-5, 1e-3, 0.1)
    scores = convergence.reference(layers((0.4, -0.2, 0.3), scales), 480).scores[0]
    np.testing.assert_allclose(scores, (0.4, -0.2, 0.3) / np.sqrt(1 + np.square(scales)), atol=1e-8)


@pytest.fixture(scope="module")
def rows(scenes):
    return convergence.measure(scenes, PAIRS, [9], {"riemann": (10, 20), "exact": (10, 20)}, points=150)


def test_exact_converges_on_scenes_and_the_sum_does_not(rows):
    found, gaps = (convergence.curve(rows, column)[column][9] for column in ("error", "gap"))
    for part in ("image", "text"):
        assert found[part, "exact", 20] < 8 and gaps[part, "exact", 20] < 2
        assert found[part, "exact", 20] < found[part, "exact", 10] < found[part, "riemann", 20]
        assert gaps[part, "reference", 150] < 0.1


def test_a_gap_alone_says_nothing_about_the_map(rows):
    wide = rows.set_index(["pair", "part", "rule"])
    shuffled, ours = (wide.xs(rule, level="rule") for rule in ("shuffled", "exact"))
    np.testing.assert_allclose(shuffled.gap, ours[ours.passes == 20].gap, atol=1e-3)
    assert shuffled.correlation.median() < 0.5 < 0.99 < ours[ours.passes == 20].correlation.median()


def test_a_curve_has_medians_with_their_intervals():
    gaps = [1.0, 2.0, 3.0, 4.0, 100.0]
    rows = pd.DataFrame({"layer": 3, "part": "text", "rule": "gauss", "passes": 10, "gap": gaps})
    found = convergence.curve(rows, "gap").loc[3, "text", "gauss", 10]
    assert (found.n, found.gap, found.gap_p95) == (5, 3, pytest.approx(80.8))
    assert found.gap_low in (1, 2) and found.gap_high in (4, 100)


def test_goals_are_judged_by_the_rows():
    rows = pd.DataFrame({"pair": list("abcd") * 2, "layer": 9, "part": "image", "rule": "exact", "passes": [10] * 4 + [20] * 4})
    rows["gap"], rows["correlation"] = [9.0] * 4 + [0.5, 0.9, 0.9, 30.0], [0.996] * 4 + [0.1] * 4
    table = convergence.goals(rows).set_index("goal")
    assert table.verdict.to_dict() == {"median gap at 20": "PASS", "95 % gap at 20": "open", "median correlation at 10": "PASS"}
    assert (table.n == 4).all() and table.oracle.isna().all() and table.reached["median gap at 20"] == pytest.approx(0.9)


def test_the_oracle_puts_nodes_where_the_curves_bend():
    """Two narrow layers: nodes placed by the true curves find them, equal steps and two more do not."""
    heights, scales = (0.4, -0.3), (1e-3, 1.3e-3)
    bottleneck = layers(heights, scales)
    truth = convergence.reference(bottleneck, 480)
    far = lambda path: (path.scores - truth.scores).abs().max().item()  # noqa: E731
    nine, twelve = (far(convergence.oracle(bottleneck, truth, n)) for n in (9, 12))
    assert twelve < nine < 0.5 * far(exact_rule(bottleneck, 0, 9))


def test_the_oracle_is_no_worse_than_the_rule(rows):
    wide = rows.pivot_table(index="part", columns=["rule", "passes"], values="error", aggfunc="median")
    assert (wide["oracle", 10] < wide["exact", 10]).all()


def test_points_are_refused(scenes):
    with pytest.raises(ValueError, match="points=15 is not 0 or a multiple of 10"):
        convergence.measure(scenes, PAIRS, points=15)


def test_the_bundled_table_is_what_the_code_computes(rows):
    kept = pd.read_csv(bundled("convergence.csv")).query("model == 'scenes' and layer == 9")
    kept = kept.set_index(["pair", "part", "rule", "passes"])
    ours = rows[rows.rule.isin(["riemann", "exact", "oracle"])].set_index(["pair", "part", "rule", "passes"])
    np.testing.assert_allclose(ours.error, kept.loc[ours.index].error, rtol=0.05, atol=0.5)
    np.testing.assert_allclose(ours.gap, kept.loc[ours.index].gap, rtol=0.05, atol=0.2)
