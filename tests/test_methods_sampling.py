"""M2IB, RISE and MFABA against the authors' outputs, oracles and closed forms."""

import golden
import numpy as np
import pytest
import torch
from near import ROUNDING, array, assert_near

from nibkit.methods.m2ib import Stream, divergence, m2ib, noise
from nibkit.methods.mfaba import mfaba
from nibkit.methods.rise import Masks, cell, last_place, rise, sample, windows, word_masks

FEW = {"masks": 24, "text_masks": 30}
CASES = [(m2ib, {}), (rise, FEW), (mfaba, {})]
BOTH = [(m2ib, {}), *((f, {**o, "protocol": p}) for f, o in CASES[1:] for p in ("paper", "corrected"))]
def name(case):
    return case.__name__ if callable(case) else ""


def same(a, b, atol=0.0) -> bool:
    return np.allclose(a.image, b.image, rtol=0, atol=atol) and all(
        np.allclose(x, y, rtol=0, atol=atol) for x, y in zip(a.text, b.text, strict=True)
    )


@pytest.mark.parametrize(
    ("function", "options", "stored", "tolerance"),
    [
        (m2ib, {"beta": 0.1}, "m2ib/0.1", golden.TOLERANCE),
        (m2ib, {"beta": 0.01}, "m2ib/0.01", 5e-4),
        (m2ib, {"beta": 0.5}, "m2ib/0.5", golden.TOLERANCE),
        (rise, {"masks": 300}, "rise/300", golden.TOLERANCE),
        (mfaba, {}, "mfaba", golden.TOLERANCE),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_golden(golden_clip, golden_pair, function, options, stored, tolerance):
    a = function(golden_clip, *golden_pair, protocol="paper", **options)
    np.testing.assert_allclose(golden.thin(a.heatmap()), golden.outputs(f"{stored}/image"), rtol=0, atol=tolerance)
    for got, want in zip(a.word_scores(), golden.outputs_text(stored), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def test_golden_image_masks():
    rng = np.random.RandomState(0)
    opened = rng.rand(300, 8, 8) < 0.1
    shift = rng.randint(0, cell(224, 8), (300, 2))
    assert (opened == golden.outputs("rise/grid")).all() and (shift == golden.outputs("rise/shift")).all()
    masks = Masks(opened, shift, 224)[:4].numpy()
    np.testing.assert_allclose(golden.thin(masks), golden.outputs("rise/masks_first4"), rtol=0, atol=1e-6)


def test_golden_text_masks(golden_clip):
    for k in range(4):
        want = golden.outputs(f"rise/text_masks/{k}")
        got = word_masks(np.random.RandomState(0), 200, want.shape[1], 0.1, 8, golden_clip.text.width)
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-6)


def test_windows_by_hand():
    """3 cells enlarged to 4 x 2 places, unshifted and one on: centres at (j + 1/2) 3/8 - 1/2, index -1 mirrors to 1."""
    w = windows(6, 3).double()
    centre = [(j + 0.5) * 3 / 8 - 0.5 for j in range(7)]
    assert centre[0] == pytest.approx(-0.3125)
    torch.testing.assert_close(w[0, 0], torch.tensor([1 - 0.3125, 0.3125, 0.0], dtype=torch.float64))
    torch.testing.assert_close(w[0, 1], torch.tensor([1 - 0.0625, 0.0625, 0.0], dtype=torch.float64))
    assert (w[1, :5] == w[0, 1:]).all() and w.sum(2).sub(1).abs().max() < 1e-6


def test_last_place():
    assert last_place(torch.tensor([5, 7, 5, 8, 7])).tolist() == [2, 4, 2, 3, 4]


def test_rise_of_a_known_model():
    """Two masks and cosines 1 and 0: both equations by hand."""
    masks = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]])
    def show(k, m):
        return torch.eye(2)[k]
    given = (lambda k: masks[:, k], show, torch.tensor([[1.0, 0.0]]), 2)
    for rows in (1, 2):
        assert sample(*given, rows, 0.25).tolist() == [[2.0, 1.0, 0.0]]
        assert sample(*given, rows, None).tolist() == [[0.5, 0.0, 0.0]]


def test_rise_corrected_never_hides_the_ends(golden_clip, golden_pair):
    pixels, ids = golden_pair
    a = rise(golden_clip, *golden_pair, protocol="corrected", **FEW)
    assert all(t[0] == 0 == t[-1] and (t[1:-1] != 0).all() for t in a.text)
    bare = rise(golden_clip, pixels[:1], [ids[0][[0, -1]]], protocol="corrected", **FEW)
    assert bare.text[0].tolist() == [0, 0]


def test_divergence_is_torchs():
    """The closed form against torch.distributions, and finite where 1 - sigmoid(alpha) rounds to 0 in float32."""
    alpha, h = torch.linspace(-6, 12, 40, dtype=torch.float64), torch.linspace(-3, 3, 40, dtype=torch.float64)
    gate = torch.distributions.Normal(alpha.sigmoid() * h, 1 - alpha.sigmoid())
    want = torch.distributions.kl_divergence(gate, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(alpha, h), want)
    assert divergence(torch.tensor(40.0), torch.tensor(0.0)).item() == pytest.approx(40 - 0.5)


def test_m2ib_noise_is_the_published_stream():
    [first] = next(noise(Stream(0, 10, 10), [50, 50], 64, torch.device("cpu")))
    # torch turns the same uniform numbers into normal ones with the processor's own log and cosine
    np.testing.assert_allclose(first[:1].numpy(), golden.outputs("m2ib/first_noise_image"), rtol=0, atol=1e-5)
    want = [torch.randn(2, n, 8, generator=torch.Generator().manual_seed(3)) for n in (5, 3)]
    got = next(noise(Stream(3, 10, 2), [5, 3], 8, torch.device("cpu")))
    assert (got[0] == want[0]).all() and (got[1, :, :3] == want[1]).all() and (got[1, :, 3:] == 0).all()


def test_m2ib_before_any_update_is_the_divergence_of_the_open_gate(golden_clip, golden_pair):
    a = m2ib(golden_clip, *golden_pair, steps=1)
    h = golden_clip.text.state(golden_pair[1][:1], 10).tokens[0]
    want = divergence(torch.full_like(h, 5.0), h).sum(1)
    np.testing.assert_allclose(a.text[0], array(want), rtol=1e-5)
    assert (a.info.passes == 0).all()


def test_mfaba_repeated_tokens(golden_clip, golden_pair):
    """Text 3 says some words twice: one score under "paper", two under "corrected"."""
    ids = golden_pair[1][3]
    again = [(k, j) for k in range(len(ids)) for j in range(k) if ids[k] == ids[j]]
    assert again
    paper, corrected = (mfaba(golden_clip, *golden_pair, protocol=p).text[3] for p in ("paper", "corrected"))
    assert all(paper[k] == pytest.approx(paper[j], rel=1e-5) for k, j in again)
    assert all(abs(corrected[k] / corrected[j] - 1) > 1e-3 for k, j in again)


def test_mfaba_one_step_is_the_gradient(golden_clip, golden_pair):
    pixels, ids = golden_pair
    rows = golden_clip.image.rows(pixels).tokens.detach().requires_grad_()
    state = golden_clip.image.rows(pixels)._replace(tokens=rows)
    cosine = torch.cosine_similarity(golden_clip.image.embed_rows(state), golden_clip.embed_text(ids))
    (gradient,) = torch.autograd.grad(cosine.sum(), rows)
    a = mfaba(golden_clip, pixels, ids, steps=1, step_size=0.5)
    np.testing.assert_allclose(a.image.reshape(4, -1), 0.5 * array(gradient.abs().sum(2)[:, 1:]), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("function", "options"), BOTH, ids=name)
def test_batches_do_not_leak(golden_clip, golden_pair, function, options):
    """A pair's scores are the same alone, in ragged company, and at any batch_size."""
    pixels, ids = golden_pair
    together, thin = (function(golden_clip, pixels, ids, batch_size=n, **options) for n in (25, 1))
    assert [len(t) for t in together.text] == [len(i) for i in ids]
    assert same(together, thin, atol=2e-5 * abs(together.image).max() + ROUNDING)
    for k in range(4):
        alone = function(golden_clip, pixels[k : k + 1], ids[k : k + 1], **options)
        scale = abs(alone.image).max()
        np.testing.assert_allclose(together.image[k] / scale, alone.image[0] / scale, rtol=0, atol=2e-5)
        assert_near(together.text[k], alone.text[0], 2e-5)


@pytest.mark.parametrize(("function", "options"), BOTH, ids=name)
def test_what_follows_the_readout_has_no_effect(golden_clip, golden_pair, function, options):
    pixels, ids = golden_pair[0][:1], golden_pair[1][0]
    plain, longer = (function(golden_clip, pixels, [i], **options).text[0] for i in (ids, torch.cat([ids, ids[1:4]])))
    assert_near(longer[: len(ids)], plain, 2e-5)
    assert longer[len(ids) :].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("function", "options"), CASES, ids=name)
def test_nothing_is_left_behind(golden_clip, golden_pair, function, options):
    """Same seed, same map, and the model and both global generators as they were."""
    model, pixels, ids = golden_clip.model, *golden_pair
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    before = golden_clip.embed_image(pixels), golden_clip.embed_text(ids), torch.get_rng_state()
    drawn = np.random.get_state()[1].copy(), np.random.get_state()[2]
    one, two = (function(golden_clip, pixels, ids, seed=5, **options) for _ in range(2))
    assert same(one, two)
    after = golden_clip.embed_image(pixels), golden_clip.embed_text(ids), torch.get_rng_state()
    assert all(torch.equal(x, y) for x, y in zip(before, after))
    assert (drawn[0] == np.random.get_state()[1]).all() and drawn[1] == np.random.get_state()[2]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not model.training and not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert not pixels.requires_grad


ALIVE = {
    m2ib: [{"layer": 8}, {"steps": 9}, {"beta": 0.2}, {"lr": 0.5}, {"samples": 9}, {"seed": 1}],
    rise: [{"probability": 0.3}, {"grid": 7}, {"seed": 1}, {"protocol": "corrected"}],
    mfaba: [{"steps": 9}, {"step_size": 0.02}],
}


@pytest.mark.parametrize(("function", "options"), CASES, ids=name)
def test_every_knob_is_alive(golden_clip, golden_pair, function, options):
    pixels, ids = golden_pair[0][3:], golden_pair[1][3:]
    base = function(golden_clip, pixels, ids, **options)
    for knob in ALIVE[function]:
        other = function(golden_clip, pixels, ids, **{**options, **knob})
        assert abs(other.image - base.image).max() > 1e-3 * abs(base.image).max(), knob
        assert abs(other.text[0] - base.text[0]).max() > 1e-3 * abs(base.text[0]).max(), knob


def test_the_number_of_masks_is_alive(golden_clip, golden_pair):
    pixels, ids = golden_pair[0][:1], golden_pair[1][:1]
    more = {}, {"masks": 25}, {"text_masks": 31}
    base, images, texts = (rise(golden_clip, pixels, ids, **{**FEW, **o}) for o in more)
    assert not np.allclose(base.image, images.image) and (base.text[0] == images.text[0]).all()
    assert not np.allclose(base.text[0], texts.text[0]) and (base.image == texts.image).all()


def test_shapes_and_passes(golden_clip, golden_pair):
    for function, options, shape, passes in [
        (m2ib, {"steps": 3, "samples": 2}, (4, 7, 7), 4),
        (rise, {"masks": 5, "text_masks": 6}, (4, 224, 224), 6),
        (mfaba, {"steps": 2}, (4, 7, 7), 2),
    ]:
        a = function(golden_clip, *golden_pair, **options)
        assert a.image.shape == shape and a.image.dtype == np.float32 == a.text[0].dtype
        assert (a.info.passes == passes).all() and (a.info.seconds > 0).all() and len(a.info) == 4


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (m2ib, {"layer": 11}, "layer=11 is the last block of the image tower"),
        (m2ib, {"layer": 12}, "layer=12 is not in 0..11 of this 12-block image tower"),
        (rise, {"masks": 0}, "masks=0 is not a whole number >= 1"),
        (rise, {"probability": 0.0}, "probability=0.0 is not > 0 and <= 1"),
        (mfaba, {"steps": 0}, "steps=0 is not a whole number >= 1"),
    ],
)
def test_bad_options_are_refused(golden_clip, golden_pair, function, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        function(golden_clip, *golden_pair, **options)
