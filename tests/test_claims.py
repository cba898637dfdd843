"""The paper's claims against its own tables, by figures that can be checked with a pocket calculator."""

import pytest

from nibkit.benchmark import paper
from nibkit.study import claims


def test_gains_over_the_best_baseline():
    gain = claims.gains()
    assert gain.loc["image_drop", "conceptual_captions"] == pytest.approx(100 * (1 - 0.9439 / 1.1171))  # M2IB is next
    assert gain.loc["image_increase", "imagenet"] == pytest.approx(100 * (53.1 / 54 - 1))  # RISE is ahead
    assert gain.loc["image_drop", "mean"] == pytest.approx(9.03, abs=0.01)
    assert gain.loc["text_drop", "mean"] == pytest.approx(57.59, abs=0.01)


def test_speed():
    fast = claims.speedups()
    m2ib = [1.5817 / 0.6621, 2.4481 / 0.7995, 2.1995 / 0.7397]
    assert fast["m2ib"] == pytest.approx(100 * (sum(m2ib) / 3 - 1)) and fast.index[0] == "chefer"


def test_spread_of_an_ablation():
    drop = claims.spread("table3_num_steps").loc["imagenet", "text_drop"]
    assert drop == pytest.approx(100 * (0.4957 - 0.3164) / ((0.3164 + 0.4193 + 0.4563 + 0.4957) / 4))


def test_real_data_have_their_place_in_the_papers_tables():
    for dataset, role in [
        ("tiny-imagenet", "imagenet"),
        ("flickr8k", "flickr8k"),
        ("conceptual_captions", "conceptual_captions"),
    ]:
        assert set(paper.table("table2_benchmark", dataset).dataset) == {role}
        assert dataset in paper.PAPER_PAIRS
