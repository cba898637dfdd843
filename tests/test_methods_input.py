"""The methods that start from the input: integrated gradients, LIME and KernelSHAP, adversarial gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from near import assert_near

from nibkit import data
from nibkit.methods import DEFAULT, METHODS, OPTIONAL, agi, ig, lime
from nibkit.models.towers import State


def test_the_optional_methods_are_there_and_not_in_the_default_set():
    assert OPTIONAL == ("ig", "lime", "agi") and set(OPTIONAL) <= set(METHODS) and {*DEFAULT, *OPTIONAL} == set(METHODS)
    assert not set(OPTIONAL) & set(DEFAULT)


# --- integrated gradients


@pytest.mark.parametrize("baseline", ig.BASELINES)
def test_ig_is_captums(baseline, golden_clip, golden_pair):
    pixels, ids = golden_pair[0][:2], golden_pair[1][:2]
    a = METHODS["ig"](golden_clip, pixels, ids, baseline=baseline, steps=6)
    image, text = golden_clip.image, golden_clip.text
    rows = text.rows(ids)
    words = ig.places_of_words(golden_clip, ids, rows)
    towers = (
        (lambda x, t: F.cosine_similarity(image.embed_rows(image.rows(x)), t), pixels, golden_clip.embed_text(ids)),
        (
            lambda x, t: F.cosine_similarity(text.embed_rows(State(x, rows.readout.repeat(len(x) // 2))), t),
            rows.tokens,
            golden_clip.embed_image(pixels),
        ),
    )
    starts = (
        ig.picture_baseline(golden_clip, pixels, baseline),
        ig.text_baseline(golden_clip, rows.tokens, words, baseline),
    )
    seen, read = (
        IntegratedGradients(function)
        .attribute(x, x0, additional_forward_args=t, n_steps=6, method="gausslegendre")
        .detach()
        for (function, x, t), x0 in zip(towers, starts)
    )
    assert_near(a.image, seen.sum(1).unflatten(1, (7, 32)).unflatten(3, (7, 32)).sum((2, 4)).float().numpy())
    for scores, wanted in zip(a.text, read.sum(-1).float().numpy()):
        assert_near(scores, wanted[: len(scores)])


def test_ig_of_a_linear_match_is_its_terms_at_any_number_of_steps():
    slope, x, x0 = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([[0.0, 2.0, 1.0]])

    def embed(h, pairs):  # a unit vector whose cosine with (1, 0) is slope . h
        c = h @ slope
        return torch.stack([c, (1 - c**2).sqrt()], -1)

    for steps in (1, 3):
        path = ig.straight(embed, x, x0, torch.tensor([[1.0, 0.0]]), steps, 2)
        assert torch.allclose(path.scores, torch.tensor([[0.3, 0.2, 0.1]]), atol=1e-6)
        assert float(path.change) == pytest.approx(0.6, abs=1e-6) and float(path.gap) < 1e-6


def test_ig_reports_what_its_scores_miss(golden_clip, golden_pair):
    few, many = (METHODS["ig"](golden_clip, *golden_pair, steps=n, baseline="blur") for n in (1, 24))
    assert (many.info.gap_image < 0.01 * many.info.change_image.abs() + 1e-5).all()
    assert few.info.gap_image.mean() > many.info.gap_image.mean()
    sums = many.image.sum((1, 2)), np.array([t.sum() for t in many.text])
    for part, total in zip(("image", "text"), sums):
        missed = np.abs(total - many.info[f"change_{part}"])
        np.testing.assert_allclose(missed, many.info[f"gap_{part}"], atol=2e-6)
    assert all(t[0] == 0 and t[-1] == 0 and t[1:-1].any() for t in many.text)


def test_baselines_are_what_their_names_say(golden_clip, golden_pair):
    pixels, ids = golden_pair
    rows = golden_clip.text.rows(ids)
    words = ig.places_of_words(golden_clip, ids, rows)
    assert not ig.picture_baseline(golden_clip, pixels, "mean").any()
    assert np.allclose(golden_clip.picture(ig.picture_baseline(golden_clip, pixels, "zero")[0]), 0, atol=1e-6)
    blurred = ig.picture_baseline(golden_clip, pixels, "blur")
    assert blurred.std() < 0.6 * pixels.std() and torch.allclose(blurred.mean(), pixels.mean(), atol=0.1)
    for name in ig.BASELINES:
        changed = ig.text_baseline(golden_clip, rows.tokens, words, name)
        assert torch.equal(changed[~words], rows.tokens[~words]) and not torch.equal(changed[words], rows.tokens[words])
    alike = torch.ones_like(rows.tokens)  # a text of one word, repeated, is its own blur
    assert torch.allclose(ig.text_baseline(golden_clip, alike, words, "blur"), alike, atol=1e-6)


def test_pixels_are_added_up_per_patch_where_the_grid_does_not_divide_them():
    pixels = torch.rand(2, 11, 7, dtype=torch.float64)
    patches = ig.per_patch(pixels, (3, 2))
    assert torch.allclose(patches.sum((1, 2)), pixels.sum((1, 2)))
    assert torch.allclose(patches[:, 0, 0], pixels[:, :4, :4].sum((1, 2)))


# --- LIME


def fit(match, parts, **options):
    return lime.surrogate(
        match,
        parts,
        **{"samples": 64, "kernel": "lime", "width": 0.25, "ridge": 0, "seed": 0, "at_once": 16, **options},
    )


@pytest.mark.parametrize("kernel", lime.KERNELS)
def test_a_linear_match_is_found_exactly(kernel):
    slope = torch.tensor([0.5, -0.25, 0.0, 0.125])
    coefficients, quality = fit(lambda z: 0.1 + z.float() @ slope, 4, kernel=kernel)
    np.testing.assert_allclose(coefficients, slope, atol=1e-5)
    assert quality == pytest.approx(1, abs=1e-4)


def test_shap_splits_a_product_evenly_and_gives_nothing_to_a_bystander():
    coefficients, _ = fit(lambda z: z[:, 0].float() * z[:, 1], 3, kernel="shap", samples=2000)
    np.testing.assert_allclose(coefficients, [0.5, 0.5, 0], atol=0.05)


def test_ridge_shrinks_and_a_match_that_is_not_linear_has_a_lower_quality():
    plain, shrunk = (fit(lambda z: z[:, 0].float(), 3, ridge=ridge)[0][0] for ridge in (0, 10))
    assert plain == pytest.approx(1, abs=1e-4) and 0.1 < shrunk < 0.9
    assert fit(lambda z: (z.sum(1) % 2).float(), 4)[1] < 0.7


def test_one_part_needs_no_model():
    assert fit(lambda z: 0.2 + 0.3 * z[:, 0], 1)[0] == pytest.approx([0.3]) and not len(
        fit(lambda z: 0 * z.sum(1), 0)[0]
    )


def test_shap_of_words_is_the_shapley_value(scenes):
    """Of a caption of three words by all orders, against what 400 samples find."""
    pair = data.load("cat-and-dog")[1]
    pixels, ids = scenes.preprocess(pair.image), scenes.tokenize("dog on grass")
    rows, target = scenes.text.rows(ids), scenes.embed_image(pixels)
    words = ig.places_of_words(scenes, ids, rows)
    hidden = ig.text_baseline(scenes, rows.tokens, words, "mean")

    def match(shown):
        mask = torch.tensor([[True, *(n in shown for n in range(3)), True]])[..., None]
        embedding = scenes.text.embed_rows(State(torch.where(mask, rows.tokens, hidden), rows.readout))
        return float(F.cosine_similarity(embedding, target))

    shapley = np.zeros(3)
    for order in itertools.permutations(range(3)):
        for n, word in enumerate(order):
            shapley[word] += (match(order[: n + 1]) - match(order[:n])) / math.factorial(3)
    a = METHODS["lime"](scenes, pixels, ids, kernel="shap", samples=400)
    np.testing.assert_allclose(a.text[0][1:4], shapley, atol=0.1 * np.abs(shapley).max())


def test_lime_is_seeded_and_its_draws_are_the_pairs_own(golden_clip, golden_pair):
    pixels, ids = golden_pair
    before = torch.get_rng_state()
    one, again, other = (METHODS["lime"](golden_clip, pixels, ids, samples=20, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(one.image, again.image) and not np.allclose(one.image, other.image)
    alone = METHODS["lime"](golden_clip, pixels[2:3], ids[2:3], samples=20)
    assert_near(alone.image[0], one.image[2], 1e-3)


def test_lime_by_segments_has_one_score_for_each(scenes):
    pair = data.load("cat-and-dog")[1]
    pixels, ids = scenes.preprocess(pair.image), scenes.tokenize(pair.text)
    a = METHODS["lime"](scenes, pixels, ids, samples=60, parts="slic")
    of_pixel = lime.segments(scenes, pixels[0], "slic")
    assert a.image.shape == (1, 224, 224) and 10 < of_pixel.max() < 100
    assert all(np.ptp(a.image[0][of_pixel == part]) == 0 for part in range(of_pixel.max() + 1))


def test_the_pieces_of_a_word_share_its_coefficient(scenes):
    ids = scenes.tokenize("a skateboarding cat")
    pieces = lime.pieces_of_words(scenes, ids[0], np.arange(1, len(ids[0]) - 1))
    assert [len(places) for places in pieces] == [1, len(ids[0]) - 4, 1]
    a = METHODS["lime"](scenes, scenes.preprocess(data.load("cat-and-dog")[0].image), ids, samples=20)
    assert np.ptp(a.text[0][pieces[1]]) == 0 and a.text[0][0] == a.text[0][-1] == 0


# --- AGI


def test_agi_walks_to_where_the_other_partner_matches_as_well():
    """In the plane the cosine with (1, 0) falls from 1 to that of 45 degrees, and so do the scores as steps shrink."""
    x, own, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]])
    gaps = []
    for step in (0.1, 0.01, 0.001):
        walk = agi.steepest(lambda h, n: h, x, own, other, 1000, torch.tensor(step), 4)
        assert float(walk.arrived) == 1 and float(walk.path.passes) == pytest.approx(0.5 / step, abs=1.5)
        assert float(walk.path.closed) == pytest.approx(math.sqrt(0.5), abs=step)
        gaps.append(float(walk.path.gap))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 2e-3
    assert (walk.path.scores > 0).all()  # both entries gave way


def test_agi_does_not_move_what_stays_or_is_lost_already():
    own, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]])
    walk = agi.steepest(lambda h, n: h, torch.tensor([[1.0, 0.2]]), own, other, 5, torch.tensor([0.0, 0.1]), 4)
    assert walk.path.scores[0, 0] == 0 and walk.path.scores[0, 1] > 0 and float(walk.arrived) == 0
    lost = agi.steepest(lambda h, n: h, torch.tensor([[0.1, 1.0]]), own, other, 5, torch.tensor(0.1), 4)
    assert not lost.path.scores.any() and float(lost.path.passes) == 0 and float(lost.arrived) == 1


def test_agi_needs_other_pairs_and_its_scores_depend_on_which(scenes):
    """What its examples are decides: other seeds and other pools draw others, and without any it cannot run."""
    pair, pool = data.load("cat-and-dog")[1], data.load("scenes-objects")
    inputs = scenes.preprocess(pair.image), scenes.tokenize(pair.text)
    others = scenes.preprocess([p.image for p in pool[:8]]), scenes.tokenize([p.text for p in pool[:8]])
    one, other, elsewhere = (
        METHODS["agi"](scenes, *inputs, k=2, steps=4, **o) for o in ({}, {"seed": 1}, {"others": others})
    )
    assert not np.allclose(one.image, other.image) and not np.allclose(one.image, elsewhere.image)
    with pytest.raises(ValueError, match="k=5 other pairs are asked for and 0 are there: AGI walks"):
        METHODS["agi"](scenes, *inputs, others=())
    with pytest.raises(ValueError, match="k=2 other pairs are asked for and 1 are there"):
        own_and_one = torch.cat([inputs[0], others[0][:1]]), [*inputs[1], others[1][0]]
        METHODS["agi"](scenes, *inputs, k=2, others=own_and_one)  # a pair with its own text is no other


def test_agi_draws_do_not_depend_on_the_batch(golden_clip, golden_pair):
    _, ids = golden_pair
    together, alone = (agi.drawn(golden_clip, i, None, 3, 0)[1] for i in (ids, ids[2:3]))
    assert together.shape == (4, 3, 64) and torch.allclose(together[2], alone[0], atol=1e-5)
