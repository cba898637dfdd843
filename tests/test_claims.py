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


def test_statements_that_the_papers_own_tables_contradict():
    """Cells that agree, counted in the tables by hand."""
    found = claims.statements()
    assert list(found.agree) == [1, 0, 0, 0, 0, 1, 0, 0, 6, 2] and list(found.of) == [1, 1, 1, 1, 3, 3, 3, 6, 6, 2]
    assert list(found.verdict == "holds") == list(found.agree == found.of)
    said = found.set_index("statement").recomputed
    assert "RISE 54; NIB 53.1" in said['"highest Image Confidence Increase of 53.1"']
    assert said['"best ... at num_steps = 10": image drop'].endswith("conceptual captions 20, flickr8k 15, imagenet 10")
    asked = claims.questions().set_index("statement")
    m2ib = asked.loc["Does NIB keep its lead in image drop over M2IB at M2IB's best beta?"]
    assert m2ib.verdict == "no" and m2ib.agree == 0
    assert f"conceptual captions {100 * (0.9439 / 0.8738 - 1):+.1f} %" in m2ib.recomputed  # beta 0.01
    assert asked.verdict["Is target_layer = 9 best for text drop?"] == "yes"
