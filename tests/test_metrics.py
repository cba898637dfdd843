"""The four confidence metrics, against the authors' figures and against cases known by hand."""

import golden
import numpy as np
import pytest
import torch
from near import array

from nibkit import metrics
from nibkit.checks import PROTOCOLS

COLUMNS = dict(zip(("vdrop", "vincr", "tdrop", "tincr"), metrics.HIGHER_IS_BETTER))


def _inputs(clip, pair, setting):
    """Full-size maps for a golden setting: our own, since the archive keeps thinned ones."""
    import nibkit

    steps, layer = map(int, setting.split("/")[1:])
    a = nibkit.METHODS["nib"](clip, *pair, layer=layer, steps=steps)
    return a.heatmap(), a.word_scores()


@pytest.mark.parametrize("setting", ["nib/10/9", "nib/5/9", "nib/20/9", "nib/10/3", "nib/10/6"])
def test_golden(golden_clip, golden_pair, setting):
    got = metrics.confidence(golden_clip, *golden_pair, *_inputs(golden_clip, golden_pair, setting))
    for k, want in enumerate(golden.metrics()[setting]):
        for name, column in COLUMNS.items():
            # percent points: 100 x a cosine that is good to 2e-6 here
            assert got.loc[k, column] == pytest.approx(want[name], abs=2e-4), (k, column)


@pytest.mark.parametrize("method", ["gradcam", "chefer", "saliency", "mfaba", "fastig", "m2ib/0.1"])
def test_golden_text_metrics_of_every_method(golden_clip, golden_pair, method):
    maps = np.ones((4, 224, 224), np.float32)
    got = metrics.confidence(golden_clip, *golden_pair, maps, golden.outputs_text(method))
    for k, want in enumerate(golden.metrics()[method]):
        assert got.text_drop[k] == pytest.approx(want["tdrop"], abs=5e-5)
        assert got.text_increase[k] == want["tincr"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_keeping_everything_changes_nothing(golden_clip, golden_pair, protocol):
    pixels, ids = golden_pair
    ones = np.ones((4, 224, 224), np.float32), [np.ones(len(i), np.float32) for i in ids]
    got = metrics.confidence(golden_clip, pixels, ids, *ones, protocol=protocol)
    np.testing.assert_allclose(got[["image_drop", "text_drop"]], 0, atol=1e-4)
    assert (got[["image_increase", "text_increase"]] == 0).all(axis=None)


def test_drop_and_increase_are_in_percent_points_of_cosine(golden_clip, golden_pair):
    """Against the embeddings themselves: an all-grey picture is what a zero map leaves."""
    pixels, ids = golden_pair
    words = [np.ones(len(i), np.float32) for i in ids]
    got = metrics.confidence(golden_clip, pixels, ids, np.zeros((4, 224, 224), np.float32), words)
    change = golden_clip.similarity(pixels, ids) - golden_clip.similarity(torch.zeros_like(pixels), ids)
    np.testing.assert_allclose(got.image_drop, 100 * array(change.clamp(min=0)), atol=1e-4)
    assert (got.image_increase == 100.0 * array(change < 0)).all()
    relative = metrics.confidence(golden_clip, pixels, ids, np.zeros((4, 224, 224), np.float32), words, relative=True)
    c0 = golden_clip.similarity(pixels, ids).clamp(min=1e-6)
    np.testing.assert_allclose(relative.image_drop, 100 * array(change.clamp(min=0) / c0), rtol=1e-3, atol=1e-3)


def test_repeated_words_multiply_only_under_the_papers_protocol(golden_clip, golden_pair):
    """"a cat and a dog": a score of 1/2 at the first "a" and 1 at the second."""
    ids = golden_clip.tokenize("a cat and a dog")
    pixels, maps = golden_pair[0][:1], np.ones((1, 224, 224), np.float32)
    def score(first, second):
        return [np.float32([1, first, 1, 1, second, 1, 1])]
    def run(s, protocol):
        return metrics.confidence(golden_clip, pixels, ids, maps, s, protocol=protocol)
    half_half, quarter = run(score(0.5, 0.5), "paper"), run(score(0.25, 1), "paper")
    assert half_half.equals(quarter)
    row = golden_clip.text.rows(ids)
    row = row._replace(tokens=row.tokens * torch.tensor([1, 0.5, 1, 1, 1, 1, 1]).to(row.tokens)[:, None])
    image = golden_clip.embed_image(pixels)
    c1 = torch.cosine_similarity(golden_clip.text.embed_rows(row), image).item()
    change = 100 * (golden_clip.similarity(pixels, ids).item() - c1)
    corrected = run(score(0.5, 1), "corrected")
    assert corrected.text_drop[0] == pytest.approx(max(0, change), abs=1e-4)
    assert corrected.text_increase[0] == 100 * (change < 0)


def test_corrected_never_scales_the_ends(golden_clip, golden_pair):
    pixels, ids = golden_pair
    maps, words = np.ones((4, 224, 224), np.float32), [np.full(len(i), 0.5, np.float32) for i in ids]
    changed = [w.copy() for w in words]
    for w in changed:
        w[[0, -1]] = 0
    def run(w):
        return metrics.confidence(golden_clip, pixels, ids, maps, w, protocol="corrected")
    assert run(words).equals(run(changed))


def test_a_text_without_words_has_no_text_metric(golden_clip, golden_pair):
    pixels, ids = golden_pair
    ids = [ids[0][[0, -1]], ids[1]]
    words = [np.ones(len(i), np.float32) for i in ids]
    got = metrics.confidence(golden_clip, pixels[:2], ids, np.ones((2, 224, 224), np.float32), words)
    assert np.isnan(got.text_drop[0]) and np.isfinite(got.image_drop[0]) and np.isfinite(got.text_drop[1])


def test_bad_inputs_are_sentences(golden_clip, golden_pair):
    pixels, ids = golden_pair
    maps, words = np.ones((4, 224, 224), np.float32), [np.ones(len(i), np.float32) for i in ids]
    with pytest.raises(ValueError, match="protocol='published' is not one of: paper, corrected"):
        metrics.confidence(golden_clip, pixels, ids, maps, words, protocol="published")
    with pytest.raises(ValueError, match=r"heatmaps are \(4, 7, 7\), not \(4, 224, 224\)"):
        metrics.confidence(golden_clip, pixels, ids, maps[:, :7, :7], words)
    with pytest.raises(ValueError, match="one score per token is needed"):
        metrics.confidence(golden_clip, pixels, ids, maps, words[::-1])
