"""Ablations: plans, the paper's tables joined, and trends on planted rows."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import nibkit
from nibkit import benchmark, data
from nibkit.benchmark.plan import identities
from nibkit.metrics import METRICS
from nibkit.study import ablation


def planted(means, n=40, noise=0.0, setting="layer", name="nib"):
    """Rows of n pairs whose every metric has mean means[value] at each value of the setting, up to noise."""
    rng = np.random.default_rng(0)
    rows = []
    for value, mean in means.items():
        for k in range(n):
            row = {"dataset": "noise", "pair": f"noise/{k}", "label": f"{name} {setting}={value:g}", setting: value}
            row |= {metric: mean + noise * rng.normal() for metric in METRICS}
            rows.append(row | {"seconds": 1.0, "passes": 1.0})
    return pd.DataFrame(rows)


def paper_like(means, setting="layer"):
    return pd.DataFrame(dict.fromkeys(METRICS, pd.Series(means))).rename_axis(setting)


def test_plan_and_back():
    plan = ablation.plan("m2ib", "beta", [0.01, 0.1], lr=2.0)
    assert list(plan) == ["m2ib beta=0.01", "m2ib beta=0.1"]
    assert plan["m2ib beta=0.1"] == ("m2ib", {"lr": 2.0, "beta": 0.1})
    who = identities(plan | {"m2ib": ("m2ib", {}), "nib, 3 steps": ("nib", {"steps": 3})})
    assert [who[label]["beta"] for label in (*plan, "m2ib")] == [0.01, 0.1, 0.1] and np.isnan(
        who["nib, 3 steps"]["beta"]
    )
    assert who["m2ib"] == {"method": "m2ib", "lr": 1, "beta": 0.1, "steps": 10}


def test_summary_by_setting():
    rows = pd.concat([planted({3: 1.0, 10: 5.0}, setting="steps"), planted({1: 9.0}, setting="beta")])
    summary = benchmark.summary(rows, by="steps")
    assert summary.index.name == "steps"
    assert summary.image_drop.to_dict() == {3: 1.0, 10: 5.0}


@pytest.mark.parametrize("role", ["conceptual_captions", "imagenet", "flickr8k"])
@pytest.mark.parametrize(
    "setting, values",
    [
        ("steps", [3, 5, 8, 10, 13, 15, 18, 20]),
        ("layer", [2, 3, 4, 5, 6, 7, 8, 9]),
        ("beta", [*np.arange(1, 11) / 100, *np.arange(2, 10) / 10]),
    ],
)
def test_paper_tables_joined(role, setting, values):
    table = ablation.paper(setting, role)
    plan = ablation.plan("m2ib" if setting == "beta" else "nib", setting, values)
    assert table.index.tolist() == [who[setting] for who in identities(plan).values()]  # matched to the last bit
    assert table.index.tolist() == pytest.approx(values)
    assert table.index.name == setting
    assert list(table) == METRICS
    assert table.notna().all(axis=None)


def test_paper_figures():
    """One figure of each table, as printed in the paper; layer 6 is in two tables."""
    assert ablation.paper("steps", "flickr8k").text_drop[20] == 0.8326
    assert ablation.paper("steps", "scenes-captions").text_drop[18] == 0.7381
    assert ablation.paper("layer", "imagenet").image_increase[3] == 57
    assert ablation.paper("layer", "scenes-objects").text_drop[5] == 3.496
    assert ablation.paper("layer", "conceptual_captions").image_drop[6] == 0.8514
    assert ablation.paper("beta", "conceptual_captions").text_increase[0.03] == 46.35


def test_the_default_settings_meet_table_2():
    """NIB at 10 steps and layer 9 is the same run in three tables of the paper."""
    for role in ("conceptual_captions", "imagenet", "flickr8k"):
        at = ablation.paper("steps", role).loc[10]
        pd.testing.assert_series_equal(at, ablation.paper("layer", role).loc[9], check_names=False)


def test_of_other_data_the_paper_has_settings_and_no_figures():
    theirs = ablation.paper("beta", "mine")
    assert list(theirs.index) == list(ablation.paper("beta", "flickr8k").index) and theirs.isna().all(axis=None)
    theirs = ablation.paper("layer", "mine")
    found = ablation.trend(planted({k: float(k) for k in theirs.index}), theirs)
    assert (found.verdict == "open").all() and found.best_paper.isna().all() and (found.best_ours >= 1).all()


def test_trend():
    ours = {1: 6.0, 2: 5.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 1.0, 7: 0.0}
    theirs = {1: 0.1, 2: 0.5, 3: 0.7, 4: 0.8, 5: 0.9, 6: 1.5, 9: 5.0}
    found = ablation.trend(planted(ours, noise=0.01), paper_like(theirs))
    assert list(found.index) == METRICS
    assert (found.settings == 6).all() and (found.n == 40).all()
    assert found.rho.to_numpy() == pytest.approx(-1) and (found.verdict == "against").all()
    assert found.p.to_numpy() == pytest.approx(2 / 720) and found.p_holm.to_numpy() == pytest.approx(8 / 720)
    assert found.best_ours.to_dict() == {"image_drop": 6, "image_increase": 1, "text_drop": 6, "text_increase": 1}
    assert found.best_paper.to_dict() == {"image_drop": 1, "image_increase": 6, "text_drop": 1, "text_increase": 6}
    assert (ablation.trend(planted(ours, noise=0.01), -paper_like(theirs)).verdict == "with").all()


def test_one_setting_that_stands_out_is_no_trend():
    """The pairs agree, so the bootstrap's interval is without 0; but one of eight settings is the first by chance."""
    ours = {k: float(k > 0) for k in range(8)}
    found = ablation.trend(planted(ours), paper_like({k: float(k) for k in range(8)}))
    assert (found.low > 0).all() and (found.p == 2 / 8).all() and (found.verdict == "open").all()


def test_a_trend_of_settings_that_the_pairs_do_not_share_is_open():
    """Our means rise with the paper's, because of one pair."""
    rows = planted(dict.fromkeys(range(8), 0.0), noise=0.1)
    for k in range(8):
        rows.loc[(rows.pair == "noise/39") & (rows.layer == k), METRICS] = 100.0 * k
    found = ablation.trend(rows, paper_like({k: float(k) for k in range(8)}))
    assert (found.p_holm < 0.05).all() and (found.low < 0).all() and (found.verdict == "open").all()


def test_trend_is_scipys_and_open_under_noise():
    rng = np.random.default_rng(1)
    theirs = paper_like(dict(enumerate(rng.normal(size=8))))
    rows = planted(dict.fromkeys(range(8), 0.0), noise=1.0)
    found = ablation.trend(rows, theirs)
    means = benchmark.summary(rows, by="layer")
    for metric in METRICS:
        assert found.rho[metric] == pytest.approx(stats.spearmanr(means[metric], theirs[metric]).statistic)
    assert ((found.low < 0) & (found.high > 0) & (found.verdict == "open")).all()


def test_trend_without_an_order():
    """Equal means have no order: no correlation, rather than nan."""
    found = ablation.trend(planted(dict.fromkeys(range(4), 2.0)), paper_like({k: float(k) for k in range(4)}))
    assert (found[["rho", "low", "high"]] == 0).all(axis=None)
    assert (found.p == 1).all() and (found.verdict == "open").all()


def test_trend_leaves_out_pairs_with_a_gap():
    """A pair that failed at one setting would shift that setting's mean against the others'."""
    rows = planted({1: 1.0, 2: 2.0, 3: 3.0})
    rows.loc[rows.pair == "noise/0", METRICS] = 1000.0
    rows.loc[(rows.pair == "noise/0") & (rows.layer == 3), METRICS] = np.nan
    found = ablation.trend(rows, paper_like({1: 1.0, 2: 2.0, 3: 3.0}))
    assert (found.n == 39).all() and found.rho.to_numpy() == pytest.approx(1)


def test_trend_errors():
    with pytest.raises(ValueError, match=r"layer=\[2, 3\] are in both tables; a trend needs 3"):
        ablation.trend(planted({2: 1.0, 3: 1.0}), paper_like({2: 1.0, 3: 1.0, 4: 1.0}))
    with pytest.raises(ValueError, match="no pair was measured at each"):
        ablation.trend(planted({1: 1.0, 2: 2.0, 3: np.nan}), paper_like({1: 1.0, 2: 2.0, 3: 3.0}))


def test_against_integral(scenes):
    """Each integral adds up and agrees with itself; Riemann's gap to the whole one is the one that nib reports."""
    some = data.load("scenes-objects")[:3]
    found = ablation.against_integral(scenes, some, [2, 40], batch=2)
    integrals, sums = found[found.rule == found.of], found[found.rule == "riemann"]
    assert len(integrals) == 12 and len(sums) == 24
    assert (integrals.gap <= 1).all()
    assert integrals.correlation.to_numpy() == pytest.approx(1)
    assert set(sums.passes) == {2, 40}
    finer = sums[sums.part == "image"].pivot_table(index="of", columns="passes", values="correlation", aggfunc="median")
    assert finer.loc["carry", 40] > finer.loc["exact", 40]
    nib = nibkit.explain(scenes, [p.image for p in some], [p.text for p in some], rule="riemann", steps=2)
    got = sums[(sums.passes == 2) & (sums.part == "text") & (sums.of == "exact")]
    assert got.pair.tolist() == [p.id for p in some]
    assert got.gap.to_numpy() == pytest.approx(100 * nib.info.gap_text / nib.info.change_text.abs(), rel=1e-3)
    assert (got.correlation < 0.9999).all()
