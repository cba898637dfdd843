"""Every difference between paper and code is measured, and the measures are what they say."""

import numpy as np
import pytest
import torch

import nibkit
from nibkit.study import deviations

PAIRS = nibkit.data.load("scenes-captions")[:5]


@pytest.fixture(scope="module")
def bench(scenes):
    return deviations.Bench(scenes, PAIRS, rise_masks=4, few=2)


def test_every_difference_has_a_measured_size(scenes):
    table = deviations.measure(scenes, PAIRS, rise_masks=4, few=2)
    assert len(deviations.DEVIATIONS) == 8 and list(table.deviation.unique()) == list(deviations.DEVIATIONS)
    assert table[["mean", "low", "high"]].notna().all(axis=None) and (table.n >= 2).all()
    assert (table.low <= table["mean"] + 1e-9).all() and (table["mean"] <= table.high + 1e-9).all()
    sizes = table.set_index("measure")["mean"]
    assert sizes.filter(like="hooks").item() == 0 and sizes.filter(like="not numbers").item() == 0


def test_the_batch_target_is_the_own_picture_in_a_batch_of_one(bench):
    alone = deviations._texts_against_batches(bench, 1)
    own = bench.explain("nib", rule="riemann", steps=10).text
    for a, b in zip(alone, own):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(deviations._texts_against_batches(bench, 5), own))


def test_words_without_effect_by_hand(bench):
    found = dict(deviations.text_metric(bench))
    behind = next(iter(found.values()))
    inner = [i[1:-1].tolist() for i in bench.ids]
    assert behind == pytest.approx([100 * (len(i) - 1 - i.index(max(i))) / len(i) for i in inner])


def test_a_hook_would_be_seen():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    assert sum(deviations.hooks(model)) == 0
    model[0].register_forward_hook(lambda *args: None)
    assert deviations.hooks(model) == [0, 1, 0]


def test_other_data_are_refused(scenes):
    with pytest.raises(ValueError, match="pair 'objects/0000' is not of scenes-captions"):
        deviations.measure(scenes, nibkit.data.load("scenes-objects")[:2])
    with pytest.raises(ValueError, match="1 pairs, few=4, rise_masks=100: at least 2, 1 and 1 are needed"):
        deviations.measure(scenes, PAIRS[:1])
