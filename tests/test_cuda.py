"""What only a GPU can show: NIBKIT_DEVICE=cuda asks for it."""

import warnings

import numpy as np
import pytest
import torch
from near import DEVICE

import nibkit
from nibkit import benchmark
from nibkit.metrics.stats import relative_difference
from nibkit.models import devices
from nibkit.study import speed

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="NIBKIT_DEVICE=cuda asks for it")


@pytest.fixture(scope="module")
def pairs():
    return nibkit.data.load("scenes-captions")[:4]


def test_scores_are_those_of_the_cpu():
    """float32 on both: convolutions in tf32 would be 1e-3 off."""
    quick, off = {"rise": {"masks": 100}, "m2ib": {"steps": 5}}, {}
    there, here = (nibkit.load("scenes", device=device) for device in ("cuda", "cpu"))
    data = speed.pairs(here, 4)
    moved = data[0].to(there.device), [i.to(there.device) for i in data[1]]
    for name, method in nibkit.METHODS.items():
        found = (method(*given, **quick.get(name, {})) for given in ((here, *data), (there, *moved)))
        off[name] = relative_difference(*(np.concatenate([a.image.ravel(), *a.text]) for a in found))
    turned = {"m2ib": 5e-3, "mfaba": 5e-3}  # their steps take a gradient's sign, which rounding turns
    assert off.keys() == nibkit.METHODS.keys() and all(x < turned.get(name, 1e-4) for name, x in off.items()), off


def test_a_batch_that_does_not_fit_goes_on(scenes, monkeypatch):
    monkeypatch.setattr(devices, "_said", set())
    pixels, ids = torch.randn(2, 3, 224, 224, device="cuda"), scenes.tokenize(["a cat", "a dog on grass"])
    want = nibkit.METHODS["nib"](scenes, pixels, ids, steps=2000)
    torch.cuda.empty_cache()
    free, whole = torch.cuda.mem_get_info()
    try:
        torch.cuda.set_per_process_memory_fraction((whole - free + 2 * 10**9) / whole)
        with pytest.warns(RuntimeWarning, match="did not hold"):
            got = nibkit.METHODS["nib"](scenes, pixels, ids, steps=2000, batch_size=4000)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert abs(got.image - want.image).max() < 1e-4 * abs(want.image).max()


def test_pictures_read_ahead_give_the_same_rows(scenes, pairs):
    """Three batches, so that two are read while one is explained."""
    rows = benchmark.run(scenes, pairs, ["nib", "chefer"], batch=1, progress=False)
    there = scenes.around(scenes.model)
    one = benchmark.run(there, pairs[:1], ["nib", "chefer"], batch=1, progress=False)
    assert (rows.error == "").all() and len(rows) == 8
    numbers = benchmark.METRICS
    np.testing.assert_array_equal(rows[numbers].to_numpy()[:2], one[numbers].to_numpy())


def test_convolutions_follow_the_matrices(scenes):
    before = torch.backends.cudnn.conv.fp32_precision
    with warnings.catch_warnings(), devices.same_products():
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == before
