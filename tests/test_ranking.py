"""Tables over tidy rows, against answers known by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nibkit.metrics import METRICS
from nibkit.metrics import stats as ranking

HIGHER = {"up": True, "down": False}


def rows(**values):
    """label -> {metric: values per pair}."""
    found = []
    for label, metrics in values.items():
        for k in range(len(next(iter(metrics.values())))):
            found.append(
                {"dataset": "d", "pair": k, "label": label, "method": label}
                | {name: v[k] for name, v in metrics.items()}
            )
    return pd.DataFrame(found)


def test_mean_interval():
    got = ranking.mean_interval([1, 2, 3, np.nan])
    assert (got["n"], got["mean"]) == (3, 2) and 1 <= got["low"] < 2 < got["high"] <= 3
    assert ranking.mean_interval([5.0] * 4) == {"n": 4, "mean": 5, "low": 5, "high": 5}
    for few in ([np.nan], [3.0], []):  # one value says nothing of how far the mean may be
        assert np.isnan([ranking.mean_interval(few)[end] for end in ("low", "high")]).all()
    assert ranking.mean_interval([np.nan])["n"] == 0
    wide, narrow = (ranking.mean_interval([1, 2, 3, 4], level=level) for level in (0.99, 0.5))
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]


def test_an_interval_of_symmetric_values_is_students():
    x = np.random.default_rng(0).normal(size=15)
    x = np.concatenate([x, -x]) + 3
    want = stats.t.interval(0.95, 29, x.mean(), stats.sem(x))
    assert ranking.interval(x) == pytest.approx(want)


def test_an_interval_leans_to_where_the_values_do():
    low, high = ranking.interval([0.0] * 12 + [1.0, 1.0, 2.0, 4.0])
    assert high - 0.5 > 2 * (0.5 - low) > 0


def captions(rng, pictures):
    """Drops of five captions a picture: a part is the picture's, a part the caption's own."""
    own, shared = (rng.exponential(size=(pictures, k)) * (rng.random((pictures, k)) < 0.3) for k in (5, 1))
    return (shared + own / 2).ravel(), np.repeat(np.arange(pictures), 5)


@pytest.mark.parametrize(
    "draw, mean",
    [(lambda rng, n: (rng.exponential(size=n) * (rng.random(n) < 0.3), np.arange(n)), 0.3), (captions, 0.45)],
    ids=["drops, 70 % zeros", "five captions a picture"],
)
def test_intervals_cover(draw, mean):
    """At 48 pictures; at 16 still nine of ten. Captions taken for pictures of their own would cover less than 70 %."""
    rng = np.random.default_rng(1)

    def covered(n, grouped=True):
        ends = [
            ranking.interval(x, pictures if grouped else None) for x, pictures in (draw(rng, n) for _ in range(2000))
        ]
        return np.mean([low <= mean <= high for low, high in ends])

    assert 0.92 <= covered(48) <= 0.98 and covered(16) > 0.90
    if draw is captions:
        assert covered(48, grouped=False) < 0.7


def test_pictures_that_repeat_count_once():
    """Every row written three times leaves interval and test as they were; three times the pictures narrow both."""
    x = np.random.default_rng(4).exponential(size=20) - 0.5
    three, pictures = np.repeat(x, 3), np.repeat(np.arange(20), 3)
    assert ranking.interval(three, pictures) == pytest.approx(ranking.interval(x))
    assert ranking.paired_test(three, pictures) == (pytest.approx(ranking.paired_test(x)[0]), "Wilcoxon")
    assert np.diff(ranking.interval(three)) < 0.7 * np.diff(ranking.interval(x))
    assert ranking.paired_test(np.sign(three), pictures) == (
        pytest.approx(ranking.paired_test(np.sign(x))[0]),
        "McNemar",
    )


def test_tables_count_a_picture_once():
    """The same rows, as pairs of their own and as three captions of a third as many pictures."""
    rng = np.random.default_rng(5)
    values = {
        label: np.repeat(rng.normal(shift, 1, 12), 3) for label, shift in (("nib", 0.8), ("random", 0), ("centre", 0))
    }
    table = rows(**{label: {"up": x} for label, x in values.items()})
    shared = table.assign(picture=table.pair // 3)
    for make in (ranking.against_controls, ranking.compare):
        alone, together = make(table, {"up": True}), make(shared, {"up": True})
        assert (together.high - together.low > 1.3 * (alone.high - alone.low)).all() and (together.p > alone.p).all()
        assert list(together.n) == list(alone.n)
    assert (ranking.means(shared, ["up"]).low < ranking.means(table, ["up"]).low).all()


def test_whole_pictures_are_drawn():
    weights = ranking.resampled(list("aabc"), resamples=50)
    assert (weights[0] == 0.25).all() and np.allclose(weights.sum(1), 1) and (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] != weights[:, 2]).any()
    assert ranking.ends(np.array([9.0, *range(101)]), 0.9) == pytest.approx([5, 95])


def test_the_interval_of_a_median_covers_it():
    rng = np.random.default_rng(6)
    found = [ranking.median_interval(rng.exponential(size=24)) for _ in range(1000)]
    assert 0.94 <= np.mean([low <= np.log(2) <= high for low, high in found]) <= 0.99
    assert ranking.median_interval([3, 1, 2]) == (1, 3)


def test_relative_difference_and_spearman_by_hand():
    assert ranking.relative_difference(np.array([1.0, -4.0]), np.array([1.0, -3.0])) == 0.25
    assert ranking.relative_difference(np.zeros(2), np.zeros(2)) == 0
    a = np.random.default_rng(0).normal(size=(3, 9))
    np.testing.assert_allclose(ranking.spearman(a, a[0]), [stats.spearmanr(x, a[0]).statistic for x in a])
    assert ranking.spearman([1, 1, 1], [1, 2, 3]) == 0 and ranking.spearman([1, np.nan, 3], [1, 2, 3]) == 0


def test_means_keep_the_order_of_the_rows():
    table = ranking.means(rows(b={"up": [1, 3]}, a={"up": [5, 5]}), ["up"])
    assert list(table.index) == [("up", "b"), ("up", "a")] and list(table["mean"]) == [2, 5]


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04: times 3, 2, 1, never falling, at most 1."""
    assert list(ranking.holm([0.04, 0.01, 0.02])) == pytest.approx([0.04, 0.03, 0.04])
    assert list(ranking.holm([0.9, 0.8])) == [1, 1]
    with_gap = ranking.holm([0.04, np.nan, 0.01, 0.02, np.nan])  # a test that was not made costs the others nothing
    assert list(with_gap[[0, 2, 3]]) == pytest.approx([0.04, 0.03, 0.04]) and np.isnan(with_gap[[1, 4]]).all()
    assert np.isnan(ranking.holm([np.nan])).all() and len(ranking.holm([])) == 0


def test_paired_tests():
    assert ranking.paired_test(np.zeros(5)) == (1, "McNemar")
    assert ranking.paired_test(np.array([1, 1, 1, 1, 0, -1])) == (
        pytest.approx(stats.binomtest(4, 5).pvalue),
        "McNemar",
    )
    x = np.array([0.5, 1.5, -0.25, 3, 2])
    assert ranking.paired_test(x) == (stats.wilcoxon(x).pvalue, "Wilcoxon")


def test_against_controls():
    rng = np.random.default_rng(0)
    n, noise = 40, iter(rng.normal(0, 0.1, (6, 40)))
    table = ranking.against_controls(
        rows(
            good={"up": 1 + next(noise), "down": -1 + next(noise)},
            bad={"up": -1 + next(noise), "down": next(noise)},
            random={"up": next(noise), "down": next(noise)},
            centre={"up": np.zeros(n), "down": np.zeros(n)},
        ),
        HIGHER,
    )
    verdict = table.set_index(["metric", "label", "control"]).sort_index()
    assert len(table) == 8 and (table.n == n).all()
    assert (verdict.loc[(slice(None), "good"), "verdict"] == "beats").all()
    assert (verdict.loc[("up", "bad"), "verdict"] == "loses").all()
    assert (verdict.loc[("down", "bad"), "verdict"] == "open").all()
    assert verdict.gain["down", "good", "centre"] == pytest.approx(1, abs=0.1)  # lower is better: turned round
    assert (table.p_holm >= table.p).all()
    table = ranking.failing(table)
    assert list(table.index) == ["up", "down"] and list(table.both) == [1, 1] and list(table.methods) == [2, 2]
    with pytest.raises(ValueError, match="control 'centre' has no rows; there are: random"):
        ranking.against_controls(rows(random={"up": [1]}), {"up": True})


def test_many_tests_make_one_harder():
    """The same gain, alone and among many metrics that show nothing."""
    rng = np.random.default_rng(1)
    gain = rng.normal(0.35, 1, 60)
    idle = {f"idle{k}": rng.normal(0, 1, 60) for k in range(30)}
    table = rows(method={"gain": gain, **idle}, none={name: np.zeros(60) for name in ("gain", *idle)})
    alone = ranking.against_controls(table, {"gain": True}, controls=["none"])
    among = ranking.against_controls(table, dict.fromkeys(("gain", *idle), True), controls=["none"])
    assert alone.verdict[0] == "beats" and among.verdict[0] == "open" and among.p[0] == alone.p[0]


def confidence(**methods):
    """Rows of the paper's metrics from (drop, increase) per pair; None is a failure."""
    table = {}
    for name, values in methods.items():
        drop, up = np.array([value or (np.nan, np.nan) for value in values]).T
        table[name] = {"image_drop": drop, "image_increase": up, "text_drop": 2 * drop, "text_increase": up}
    return rows(**table)


def test_compare_finds_a_planted_difference():
    noise = np.random.default_rng(0).normal(size=60)
    nib = [(3 + e, 100.0 * (k < 45)) for k, e in enumerate(noise)]
    near = [(4 + 2 * e, 100.0 * (k < 30)) for k, e in enumerate(noise)]  # the best other
    far = [(9 + e, 0.0) for e in noise]
    got = ranking.compare(confidence(far=far, nib=nib, near=near + [None]))
    assert list(got.index) == METRICS and (got.best_other == "near").all() and (got.n == 60).all() and got.better.all()
    assert got.difference["image_drop"] == pytest.approx(np.mean(-1 - noise))
    assert got.low["image_drop"] < got.difference["image_drop"] < got.high["image_drop"] < 0
    assert got.p["image_drop"] == pytest.approx(stats.wilcoxon(1 + noise).pvalue)
    assert got.test["image_drop"] == "Wilcoxon"
    assert got.difference["image_increase"] == 25 and got.test["image_increase"] == "McNemar"
    assert got.p["image_increase"] == pytest.approx(2 * 0.5**15)  # 15 pairs gained, none lost
    assert list(got.p_holm) == list(ranking.holm(got.p)) and got.p_holm["image_increase"] > got.p["image_increase"]
    back = ranking.compare(confidence(nib=near, other=nib))
    assert not back.better.any() and back.difference["image_increase"] == -25
    assert back.p["image_increase"] == got.p["image_increase"]


def test_a_rival_that_failed_on_all_but_an_easy_pair_is_not_the_best():
    nib, good = [(0.5, 0.0)] + [(3.0, 0.0)] * 19, [(0.9, 0.0)] + [(3.1, 0.0)] * 19
    got = ranking.compare(confidence(nib=nib, good=good, lucky=[(0.8, 0.0)] + [None] * 19))
    assert got.best_other["image_drop"] == "good" and got.n["image_drop"] == 20


def test_compare_of_equals_and_of_one():
    same = ranking.compare(confidence(nib=[(1.0, 0.0)] * 5, copy=[(1.0, 0.0)] * 5))
    assert (same.p == 1).all() and (same.difference == 0).all() and not same.better.any()
    with pytest.raises(ValueError, match="'nib' and another label must have measured rows; there are: nib"):
        ranking.compare(confidence(nib=[(1.0, 0.0)], copy=[None]))


def test_rank_correlation_is_scipys_with_an_exact_p():
    """Of the 24 orders of four numbers one is theirs and one its reverse; of eight numbers with one that stands out,
    two of eight places are ends."""
    assert ranking.rank_correlation([1, 2, 3, 4], [2, 4, 6, 9]) == (1, pytest.approx(2 / 24))
    assert ranking.rank_correlation([4, 3, 2, 1], [2, 4, 6, 9]) == (-1, pytest.approx(2 / 24))
    assert ranking.rank_correlation([0] + [1] * 7, range(8)) == (pytest.approx(3**-0.5), 2 / 8)
    assert ranking.rank_correlation([1, 1, 1], [1, 2, 3]) == ranking.rank_correlation([5], [5]) == (0, 1)
    assert ranking.rank_correlation([1, 2, np.nan], [1, 2, 3]) == (0, 1)
    a, b = np.random.default_rng(3).normal(size=(2, 18))
    rho, p = ranking.rank_correlation(a + b, b)
    want = stats.spearmanr(a + b, b)
    assert rho == pytest.approx(want.statistic) and p == pytest.approx(want.pvalue, abs=0.01)


def test_tau():
    """Four methods; `down` ranks them as `up` does when lower values are better."""
    values = {name: {"up": [k, k], "down": [-k, -k], "same": [k, k], "flat": [1, 1]} for k, name in enumerate("abcd")}
    table = rows(**values)
    assert ranking.tau(table, "up", "down", HIGHER)["tau"] == 1
    reverse = ranking.tau(table, "up", "same", {"up": True, "same": False})
    assert (reverse["tau"], reverse["low"], reverse["high"], reverse["n"], reverse["methods"]) == (-1, -1, -1, 2, 4)
    assert np.isnan(ranking.tau(table, "up", "flat", {"up": True, "flat": True})["tau"])


def test_tau_is_scipys_with_an_interval_around_it():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 3, (6, 2, 30))
    table = rows(**{name: {"up": k + noise[k, 0], "down": -k + noise[k, 1]} for k, name in enumerate("abcdef")})
    got = ranking.tau(table, "up", "down", HIGHER)
    means = table.groupby("label")[["up", "down"]].mean()
    assert got["tau"] == pytest.approx(stats.kendalltau(means.up, -means.down).statistic)
    assert got["low"] <= got["tau"] <= got["high"] and got["low"] < got["high"]
    table.loc[0, "up"] = np.nan
    assert ranking.tau(table, "up", "down", HIGHER)["n"] == 29


def test_a_column_as_a_line_of_text():
    table = pd.DataFrame({"gain": [0.5, -1.0], "low": [0.25, -2.0], "high": [0.75, 0.0]}, ["nib", "gae"])
    assert ranking.listed(table, "gain", "+.1f") == "nib +0.5 (+0.2 to +0.8), gae -1.0 (-2.0 to +0.0)"
