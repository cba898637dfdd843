"""COCOA: contrastive corpus attribution, against what the authors' code computes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nibkit.study.cocoa import cocoa

CORPUS, FOIL = ["a cat", "a photo of a cat"], ["a dog", "a bus", "a tree"]

# Integrated gradients of the authors' ContrastiveCorpusSimilarity (suinleelab/cl-explainability at 0487e01), called
# as in their CLIP example: 50 steps from the blurred picture. First golden picture, added up per patch, 1e-5 cosine.
AUTHORS = """
8.469 60.136 153.915 -169.558 9.665 46.251 -29.213
38.979 -36.362 143.025 -136.558 193.138 173.613 -37.863
-35.980 -177.306 140.235 193.789 -136.822 -126.995 -43.039
41.669 -44.557 54.109 -45.893 66.509 107.087 46.646
-71.744 67.518 38.255 -30.115 -32.755 -48.055 -124.590
139.167 11.376 -29.611 -29.953 -43.068 -19.455 130.450
4.288 27.703 -52.316 71.571 179.061 67.695 -10.405
"""


@pytest.fixture(scope="module")
def pairs(golden_pair):
    pixels, ids = golden_pair
    return pixels[:2], ids[:2]


def test_the_scores_are_those_of_the_authors_code(golden_clip, pairs):
    path = cocoa(golden_clip, pairs[0], CORPUS, FOIL, steps=50)
    wanted = 1e-5 * np.array(AUTHORS.split(), float)
    np.testing.assert_allclose(path.scores[0], wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())
    ends = [[0.00578865, -0.02087884], [-0.0012324, -0.02385528]]  # S(x), S(x0) of both pictures
    np.testing.assert_allclose(torch.stack([path.opened, path.closed]), ends, rtol=0, atol=1e-6)


def test_cocoa_adds_up_to_the_change_of_contrastive_corpus_similarity(golden_clip, pairs):
    pixels, corpus, foil = pairs[0], ["a cat", "a photo of a cat"], ["a dog", "a bus", "a tree"]
    path = cocoa(golden_clip, pixels, corpus, foil)
    image = F.normalize(golden_clip.embed_image(pixels), dim=-1)
    cosines = [image @ F.normalize(golden_clip.embed_text(texts), dim=-1).T for texts in (corpus, foil)]
    assert torch.allclose(path.opened, cosines[0].mean(1) - cosines[1].mean(1), atol=1e-6)
    assert path.scores.shape == (2, 49) and path.change.abs().min() > 1e-5
    assert (path.gap / path.change.abs()).max() < 0.01
    coarse = cocoa(golden_clip, pixels, corpus, foil, steps=1)
    assert (coarse.gap > path.gap).all()


def test_cocoa_turns_its_sign_when_corpus_and_foil_change_places(golden_clip, pairs):
    cat, dog = ["a cat"], ["a dog"]
    one, other = (cocoa(golden_clip, pairs[0], *sets, steps=4) for sets in ((cat, dog), (dog, cat)))
    assert torch.allclose(one.scores, -other.scores, atol=1e-7) and one.scores.abs().max() > 1e-5


def test_cocoa_needs_two_sets_of_texts(golden_clip, pairs):
    with pytest.raises(ValueError, match=r"foil=\[\] is not a list of at least one text"):
        cocoa(golden_clip, pairs[0], ["a cat"], [])
    with pytest.raises(ValueError, match="corpus='a cat' is not a list"):
        cocoa(golden_clip, pairs[0], "a cat", ["a dog"])
