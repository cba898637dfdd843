"""Passes counted in real runs: Table 8, whole encoders, and that the counted loops compute what the methods compute."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from near import assert_near
from test_towers import siglip

import nibkit
from nibkit.paths import bundled
from nibkit.study import efficiency

TABLE_8 = pd.read_csv(bundled("paper/table8_passes.csv")).set_index("method")
QUICK = {"rise": {"masks": 40, "text_masks": 30}}


@pytest.fixture(scope="module")
def calls(golden_clip):
    """`efficiency.calls` of the golden model, each run made once."""
    return functools.cache(functools.partial(efficiency.calls, golden_clip))


@pytest.mark.parametrize("name", efficiency.PUBLISHED)
def test_the_counted_loops_compute_the_methods(name, golden_clip, golden_pair):
    assert_same(golden_clip, name, *(part[1:3] for part in golden_pair), **QUICK.get(name, {}))


@pytest.mark.parametrize("name", efficiency.PUBLISHED)
def test_on_siglip_too(name):
    """No CLS, and texts whose padding the model sees."""
    clip = siglip()
    clip, options = (
        clip.around(clip.model.double()),
        {"layer": 0} if name in ("nib", "m2ib", "gradcam") else QUICK.get(name, {}),
    )
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_same(clip, name, pixels.double(), clip.tokenize(["a dog and a cat", "owl"]), **options)


def assert_same(clip, name, pixels, ids, **options):
    want = nibkit.METHODS[name](clip, pixels, ids, protocol="paper", **options)
    for k in range(2):
        got = efficiency.published(clip, name, pixels[k : k + 1], ids[k : k + 1], **options)
        for a, b in ((got.image[0], want.image[k]), (got.text[0], want.text[k])):
            assert a.shape == b.shape
            assert_near(a, b, 2e-4)
        assert np.abs(want.image[k]).max() > 0


def test_table_8_names_the_methods_that_are_counted():
    assert set(TABLE_8.index) == set(efficiency.PUBLISHED)


@pytest.mark.parametrize("name", TABLE_8.index)
def test_table_8(name, calls):
    """RISE really makes its 6,000 masked passes."""
    assert efficiency.passes(calls(name)) == TABLE_8.loc[name].to_dict()
    if name == "nib":  # below the layer that is cut: the states of three passes, and no gradient
        assert efficiency.passes(calls(name), block_index=8) == {"forward": 3, "backward": 0}


def test_whole_encoders_of_rise(calls):
    whole = efficiency.whole_encoders(calls("rise"))
    assert whole["rows", "forward"].to_dict() == {"image": 6000, "text": 200}
    assert not whole["rows", "backward"].any()


WHOLE = {  # name, unit, options -> forwards, backwards of either tower
    ("nib", "rows"): (4.25, 2.5),
    ("nib", "calls"): (4.25, 2.5),
    ("m2ib", "calls"): (21, 20),
    ("m2ib", "rows"): (201, 200),
    ("gradcam", "rows"): (2, 2),
    ("chefer", "rows"): (2, 1 / 12),
    ("mfaba", "rows"): (20, 10),
}


@pytest.mark.parametrize("name, unit", WHOLE)
def test_whole_encoders_of_the_published_flow(name, unit, calls):
    whole = efficiency.whole_encoders(calls(name))
    for tower in ("image", "text"):
        np.testing.assert_allclose(whole.loc[tower, unit], WHOLE[name, unit])


def test_options_reach_the_loops(calls):
    """NIB at layer 6 in 4 steps: 1 + 6/12 + 4 x 6/12 forwards; block 3 sees none of the steps."""
    log = calls("nib", layer=6, steps=4)
    np.testing.assert_allclose(efficiency.whole_encoders(log)["rows"], [[3.5, 2], [3.5, 2]])
    assert efficiency.passes(log, 3) == {"forward": 3, "backward": 0}


def test_nibkit_shares(calls):
    """NIB, ours: one pass for state and target, ten steps in one batch (the last of them is the open end), and the
    closed end.
    """
    log = calls("nib", "nibkit")
    whole = efficiency.whole_encoders(log)
    np.testing.assert_allclose(whole.loc["image"], [1 + 10 / 4 + 1 / 4, 10 / 4, 1 + 1 / 4 + 1 / 4, 1 / 4])
    assert set(log.stage) == {"explanation"}


@pytest.mark.parametrize("name", sorted(set(efficiency.PUBLISHED) - {"rise"}))
def test_nibkit_never_spends_more_than_the_published_flow(name, calls):
    theirs, ours = (efficiency.whole_encoders(calls(name, *flow)) for flow in ((), ("nibkit",)))
    assert (ours <= theirs + 1e-9).all(axis=None) and (ours < theirs - 1e-9).any(axis=None)


def test_counting_leaves_the_model_alone(golden_clip):
    towers = golden_clip.image, golden_clip.text
    blocks = [list(tower.blocks) for tower in towers]
    efficiency.calls(golden_clip, "saliency")
    assert (golden_clip.image, golden_clip.text) == towers
    assert all(a is b for tower, before in zip(towers, blocks) for a, b in zip(tower.blocks, before, strict=True))


def test_refusals(golden_clip, golden_pair):
    with pytest.raises(ValueError, match="method='gae' is not one of: nib, m2ib"):
        efficiency.calls(golden_clip, "gae")
    with pytest.raises(ValueError, match="implementation='ours' is not one of: published, nibkit"):
        efficiency.calls(golden_clip, "nib", "ours")
    with pytest.raises(ValueError, match="4 pairs, but the published loops take one at a time"):
        efficiency.published(golden_clip, "nib", *golden_pair)
