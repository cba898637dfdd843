"""Late evidence and direct effect: properties of a model, without any attribution method."""

import numpy as np
import pandas as pd
import pytest
import torch

import nibkit
from nibkit.models.towers import State
from nibkit.scenes import evidence


def test_replaced_tokens_are_the_mean_of_the_others_and_nothing_else_moves():
    state = State(torch.tensor([[[9.0], [1], [2], [4]]]), torch.tensor([0]))
    got = evidence._replaced(state, torch.tensor([0, 1, 0, 0]) > 0, torch.tensor([0, 0, 1, 1]) > 0)
    assert got.tokens.flatten().tolist() == [9, 3, 2, 4]
    assert state.tokens.flatten().tolist() == [9, 1, 2, 4]


def test_summary_by_hand():
    rows = [
        {"tower": "image", "layer": layer, "pair": pair, "name": name, "fall": fall, "right": right}
        for layer, falls in ((0, (0.4, 0.2, 0.4, 0.2)), (9, (0.1, 0.2, 0.1, 0.2)))
        for pair, name, fall, right in zip("aabb", "xyxy", falls, (True, True, True, layer == 0))
    ]
    table = evidence.summary(pd.DataFrame(rows))
    assert table.loc[("image", 0), ["n", "mean", "share", "right"]].tolist() == pytest.approx([2, 0.3, 1, 1])
    assert table.loc[("image", 9), ["n", "mean", "share", "right"]].tolist() == pytest.approx([2, 0.15, 0.5, 0.75])


@pytest.mark.parametrize("name, late", [("scenes", True), ("scenes-early", False)])
def test_where_the_evidence_of_the_bundled_models_is(name, late):
    clip = nibkit.load(name, device="cpu")
    table = evidence.summary(evidence.late_evidence(clip, evidence.two_objects(8), layers=(0, 9)))
    assert (table.n == 8).all()
    for tower in ("image", "text"):
        assert table.loc[(tower, 0), "low"] > 0.05
        share = table.loc[(tower, 9), "share"]
        assert share > 0.65 if late else share < 0.5


def test_direct_effect_is_none_where_nothing_is_ablated_or_all_pictures_are_one(scenes):
    pairs = nibkit.data.load("scenes-objects")[:32]
    found = evidence.direct_effect(scenes, pairs, kept=12)
    assert found["ablated"] == found["whole"] > 0.9
    same = evidence.direct_effect(scenes, [pairs[0]] * 3, kept=0)  # the mean over one picture is the picture's own
    assert same["ablated"] == same["whole"]
    none = evidence.direct_effect(scenes, pairs, kept=0)
    assert none["ablated"] < found["whole"] - 0.3  # without any attention the picture is hardly read
    assert np.isfinite(none["ablated"])
