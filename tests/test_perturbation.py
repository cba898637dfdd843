"""Insertion and deletion, with fillings and orders known by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from near import array

import nibkit
from nibkit import data
from nibkit.metrics import Batch, perturbation
from nibkit.models.towers import State


def areas(clip, pixels, ids, a, **options):
    return perturbation.areas(**options)(clip, Batch((), pixels, ids), a)


def rng():
    return np.random.default_rng(0)


def test_what_is_kept():
    scores = np.array([0.1, 0.4, 0.3, 0.2])
    assert perturbation.kept(scores, 0.5, "insertion", rng()).tolist() == [False, True, True, False]
    assert perturbation.kept(scores, 0.5, "deletion", rng()).tolist() == [True, False, False, True]
    assert perturbation.kept(scores, 0, "insertion", rng()).sum() == 0
    assert perturbation.kept(scores, 1, "deletion", rng()).sum() == 0
    with_nan = perturbation.kept(np.array([[np.nan, -1], [1, 2]]), 0.75, "insertion", rng())
    assert with_nan.tolist() == [[True, False], [True, True]]


def test_equal_scores_are_in_a_random_order():
    kept = [perturbation.kept(np.zeros(40), 0.5, "insertion", np.random.default_rng(k)) for k in range(200)]
    share = np.mean(kept, 0)
    assert (np.sum(kept, 1) == 20).all() and share.min() > 0.35 and share.max() < 0.65


def test_imputation_by_hand():
    """One hole in the middle of 3 x 3: sides weigh 1/6, corners 1/12."""
    picture = np.array([[[1.0, 2, 3], [4, 99, 6], [7, 8, 9]]])
    stays = np.ones((3, 3), bool)
    stays[1, 1] = False
    filled = perturbation.impute(picture, stays)
    assert filled[0, 1, 1] == pytest.approx((2 + 4 + 6 + 8) / 6 + (1 + 3 + 7 + 9) / 12)
    assert (filled[0][stays] == picture[0][stays]).all() and picture[0, 1, 1] == 99
    corner = np.ones((3, 3), bool)
    corner[0, 0] = False  # three neighbours are left: 2 and 4 at the sides, 99 at the corner
    assert perturbation.impute(picture, corner)[0, 0, 0] == pytest.approx((2 / 6 + 4 / 6 + 99 / 12) / (5 / 12))
    assert (perturbation.impute(picture, np.ones((3, 3), bool)) == picture).all()
    assert (perturbation.impute(picture, np.zeros((3, 3), bool)) == 0).all()


def test_imputation_of_a_flat_picture_leaves_it_flat():
    picture = np.full((3, 12, 12), 0.7)
    stays = rng().random((12, 12)) < 0.3
    np.testing.assert_allclose(perturbation.impute(picture, stays), picture)


def test_imputation_is_quantus_without_its_noise():
    functions = pytest.importorskip("quantus.functions.perturb_func")
    picture = rng().random((3, 10, 10))
    stays = rng().random((10, 10)) < 0.5
    want = functions.noisy_linear_imputation(picture, np.flatnonzero(~stays), noise=0)
    np.testing.assert_allclose(perturbation.impute(picture, stays), want, atol=1e-10)


@pytest.fixture(scope="module")
def batch(scenes):
    pairs = data.load("scenes-objects")[:3]
    return scenes.preprocess([p.image for p in pairs]), scenes.tokenize([p.text for p in pairs])


def perfect(pixels, ids):
    """Scores from the masks and from the last word."""
    maps = np.stack([np.any([*p.masks.values()], 0) for p in data.load("scenes-objects")[:3]]).astype(np.float32)
    return nibkit.Attribution(maps, [np.eye(len(i), dtype=np.float32)[-2] for i in ids], 224)


def inverted(a):
    return nibkit.Attribution(-a.image, [-t for t in a.text], a.size)


def test_a_perfect_map_beats_its_inverse_everywhere(scenes, batch):
    a = perfect(*batch)
    good, bad = (areas(scenes, *batch, x) for x in (a, inverted(a)))
    assert list(good) == list(perturbation.higher_is_better()) and len(good) == 3
    for column, higher in perturbation.higher_is_better().items():
        assert ((good[column] - bad[column]) * (1 if higher else -1) > 0).all(), column


def test_one_point_by_hand(scenes, batch):
    """Half of the cells, filled with 0; and half of the inner tokens, filled with the mean row."""
    pixels, ids = batch
    half = np.zeros((3, 224, 224), np.float32)
    half[:, :112] = 1
    words = [np.arange(len(i), dtype=np.float32)[::-1].copy() for i in ids]  # the first words are the best
    got = perturbation.curves(scenes, Batch((), pixels, ids), nibkit.Attribution(half, words, 224), points=1)
    kept = pixels.clone()
    kept[:, :, 112:] = 0
    for kind, shown in (("insertion", kept), ("deletion", pixels - kept)):
        np.testing.assert_allclose(got[f"image_{kind}_mean"][:, 0], array(scenes.similarity(shown, ids)), atol=1e-5)
    row = scenes.text.rows(ids[:1]).tokens.clone()
    known = scenes.text.embedding[scenes.text.embedding.any(1)]
    inner = row.shape[1] - 2
    row[0, 1 : 1 + round(inner / 2)] = known.mean(0)
    with torch.no_grad():
        changed = scenes.text.embed_rows(State(row, torch.tensor([inner + 1]).to(row.device)))
        want = F.cosine_similarity(changed, scenes.embed_image(pixels[:1]))
    assert got["text_deletion_mean"][0, 0] == pytest.approx(want.item(), abs=1e-5)


def test_a_pairs_numbers_do_not_depend_on_its_batch(scenes, batch):
    pixels, ids = batch
    a = perfect(pixels, ids)
    together = areas(scenes, pixels, ids, a, points=2, batch_size=5)
    ones = [nibkit.Attribution(a.image[k : k + 1], [a.text[k]], 224) for k in range(3)]
    alone = [areas(scenes, pixels[k : k + 1], [ids[k]], one, points=2) for k, one in enumerate(ones)]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True), atol=1e-3, rtol=0)


def test_every_knob_is_alive(scenes, batch):
    a = nibkit.METHODS["centre"](scenes, *batch)  # all words equal: their order is drawn
    base = areas(scenes, *batch, a, points=2)
    assert (base != areas(scenes, *batch, a, points=3)).any(axis=None)
    seeded = areas(scenes, *batch, a, points=2, seed=1)
    assert (base != seeded).text_insertion_mean.any() and (base != seeded).image_deletion_linear.all()
    columns = [base[f"image_deletion_{name}"] for name in perturbation.BASELINES]
    assert not any(np.allclose(x, y) for x, y in zip(columns, [*columns[1:], columns[0]]))
    assert base.equals(areas(scenes, *batch, a, points=2))  # and nothing else moves it
    only = areas(scenes, *batch, a, parts=["text"], baselines=["blur"], points=2)
    assert list(only) == ["text_insertion_blur", "text_deletion_blur"]


def test_a_text_without_words_has_no_curve(scenes, batch):
    pixels, ids = batch
    ids = [ids[0][[0, -1]], ids[1]]
    a = nibkit.Attribution(np.ones((2, 7, 7), np.float32), [np.ones(len(i), np.float32) for i in ids], 224)
    got = areas(scenes, pixels[:2], ids, a, points=1)
    assert got.filter(like="text").iloc[0].isna().all()
    assert got.filter(like="image").notna().all(axis=None) and got.iloc[1].notna().all()


def test_bad_settings_are_sentences(scenes, batch):
    a = perfect(*batch)
    with pytest.raises(ValueError, match="baseline='grey' is not one of: mean, blur, linear"):
        areas(scenes, *batch, a, baselines=["grey"])
    with pytest.raises(ValueError, match="part='sound' is not one of: image, text"):
        areas(scenes, *batch, a, parts=["sound"])
    with pytest.raises(ValueError, match="points=0 is not a whole number >= 1"):
        areas(scenes, *batch, a, points=0)
