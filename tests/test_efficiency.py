"""Passes counted in real runs: Table 8, whole encoders, and that the counted loops compute what the methods compute."""

import numpy as np
import pandas as pd
import pytest
import torch

import nibkit
from nibkit import efficiency
from nibkit.paths import bundled

TABLE_8 = pd.read_csv(bundled("paper/table8_passes.csv")).set_index("method")
QUICK = {"rise": {"masks": 40, "text_masks": 30}}


@pytest.mark.parametrize("name", efficiency.PUBLISHED)
def test_the_counted_loops_compute_the_methods(name, golden_clip, golden_pair):
    pixels, ids = golden_pair
    options = QUICK.get(name, {})
    want = nibkit.METHODS[name](golden_clip, pixels, ids, protocol="paper", **options)
    for k in (1, 3):
        got = efficiency.published(golden_clip, name, pixels[k : k + 1], ids[k : k + 1], **options)
        for a, b in ((got.image[0], want.image[k]), (got.text[0], want.text[k])):
            assert a.shape == b.shape and np.abs(b).max() > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * np.abs(b).max())


@pytest.fixture(scope="module")
def logs(golden_clip):
    """Every call of one pair by every method, in both implementations."""
    return {
        (which, name): efficiency.calls(golden_clip, name, which)
        for which in efficiency.IMPLEMENTATIONS
        for name in efficiency.PUBLISHED
        if (which, name) != ("nibkit", "rise")
    }


@pytest.mark.parametrize("name", TABLE_8.index)
def test_table_8(name, logs):
    assert efficiency.passes(logs["published", name]) == TABLE_8.loc[name].to_dict()


def test_table_8_names_the_methods_that_are_counted():
    assert set(TABLE_8.index) == set(efficiency.PUBLISHED)
