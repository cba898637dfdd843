"""FALCON, exemplars and LICO on answers known by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nibkit import data
from nibkit.study import lico as lico_module
from nibkit.study.exemplars import exemplars
from nibkit.study.falcon import clearest, describe, falcon
from nibkit.study.lico import lico, manifold, moved, transport


def plain(table):
    """A stand-in for a Clip whose pictures are their embeddings, and whose texts are looked up."""
    return SimpleNamespace(
        embed_image=lambda x: x, embed_text=lambda texts: torch.tensor([table[t] for t in texts], dtype=torch.float32)
    )


# --- FALCON


def test_pictures_are_described_by_the_words_of_their_nearest_captions():
    clip = plain({"A red bus.": [1, 0], "a cat": [0, 1], "a dog, too": [-1, 0]})
    pictures = torch.tensor([[2.0, 0.1], [0.1, 3.0]])
    assert describe(clip, pictures, ["A red bus.", "a cat", "a dog, too"], 1) == [{"a", "red", "bus"}, {"a", "cat"}]
    assert describe(clip, pictures, ["A red bus.", "a cat"], 9)[0] == {"a", "red", "bus", "cat"}
    with pytest.raises(ValueError, match=r"captions=\[\] is not a list"):
        describe(clip, pictures, [])


def test_the_word_that_top_pictures_have_and_bottom_ones_lack_comes_first():
    words = [{"a", "cat"}, {"a", "cat", "grass"}, {"a", "dog"}, {"a", "dog", "grass"}]
    table = falcon(words, torch.tensor([3.0, 2.0, 1.0, 0.0]), top=2, bottom=2)
    assert table["word"].tolist() == ["cat", "a", "grass", "dog"]
    assert table["separation"].tolist() == [1, 0, 0, -1] and table["top"].tolist() == [1, 1, 0.5, 0]
    turned = falcon(words, -torch.tensor([3.0, 2.0, 1.0, 0.0]), top=2, bottom=2)
    assert turned["word"][0] == "dog"


def test_the_clearest_feature_comes_first():
    words = [{"cat"}, {"cat"}, {"dog"}, {"dog"}]
    embeddings = torch.tensor([[0.0, 0, 9], [9, 0, 8], [1, 8, 1], [8, 9, 0]])  # the third tells cats from dogs
    table = clearest(words, embeddings, top=2, bottom=2)
    assert table["feature"].tolist() == [1, 2, 0] and table["word"][:2].tolist() == ["dog", "cat"]


def test_a_single_pair_cannot_be_explained():
    with pytest.raises(ValueError, match="1 pictures and 1 activations: FALCON explains a feature by what its 8 top"):
        falcon([{"a"}], torch.ones(1))


# --- exemplars


def test_exemplars_are_the_nearest_and_their_agreement_is_the_confidence():
    angle = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 1.7])
    train = 5 * torch.stack([angle.cos(), angle.sin()], -1)  # lengths do not count
    texts = ["cat", "cat", "dog", "bus", "bus", "bus"]
    asked = torch.tensor([[math.cos(0.06), math.sin(0.06)], [math.cos(1.6), math.sin(1.6)], [-1.0, 0.0]])
    table = exemplars(plain({}), asked, train, texts, k=3)
    assert table["answer"].tolist() == ["cat", "bus", ""] and table["declined"].tolist() == [False, False, True]
    assert table["agreement"].tolist() == pytest.approx([2 / 3, 1, 1])
    assert table["exemplars"].tolist() == [(1, 0, 2), (4, 3, 5), (5, 4, 3)]
    assert table["distance"][0] == pytest.approx(2 * math.sin(0.02), abs=1e-6)
    assert table["limit"][0] == pytest.approx(2 * math.sin(0.05), abs=1e-6)  # neighbours are 0.1 apart


def test_exemplars_need_training_pairs():
    with pytest.raises(ValueError, match="0 training pictures and 0 texts: exemplars are training pairs, and k=5"):
        exemplars(plain({}), torch.ones(1, 2), torch.ones(0, 2), [])
    with pytest.raises(ValueError, match="3 training pictures and 2 texts"):
        exemplars(plain({}), torch.ones(1, 2), torch.ones(3, 2), ["a", "b"], k=1)


# --- LICO


def test_two_batches_that_lie_alike_match_and_others_do_not():
    corners = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0]])
    turned = corners @ torch.tensor([[0.0, 1], [-1, 0]])
    assert float(manifold(corners, 3 * turned)) == pytest.approx(0, abs=1e-6)
    # three items all at one place: each neighbourhood is even. KL from those of the corners, by hand
    distances = np.array([[0, math.sqrt(2), 2], [math.sqrt(2), 0, math.sqrt(2)], [2, math.sqrt(2), 0]])
    near = np.exp(-distances) / np.exp(-distances).sum(1, keepdims=True)
    wanted = (near * np.log(near * 3)).sum() / 3
    assert float(manifold(torch.ones(3, 2), corners)) == pytest.approx(wanted, abs=1e-5)


def test_transport_by_hand():
    one, two = torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 0], [0, 1.0]])
    assert float(transport(two, one)) == pytest.approx(0.5)  # half of the weight is at right angles
    assert float(transport(two, two.flip(0), 0.01)) == pytest.approx(0, abs=1e-4)  # each goes to its own
    assert float(transport(two, two, 100.0)) == pytest.approx(0.5, abs=1e-2)  # much entropy: all to all
    patches = two.clone().requires_grad_()
    transport(patches, -one).backward()
    assert patches.grad.abs().max() > 0.1


@pytest.fixture(scope="module")
def trained(scenes):
    pairs = data.load("scenes-objects")[:12]
    pixels, labels = scenes.preprocess([p.image for p in pairs]), [p.text for p in pairs]
    before = {k: v.clone() for k, v in scenes.model.state_dict().items()}
    found = [lico(scenes, pixels, labels, steps=6, batch=6, seed=seed) for seed in (0, 0, 1)]
    return pairs, pixels, before, found


def test_lico_trains_a_copy_of_the_image_encoder_alone(scenes, trained):
    _, _, before, [(clip, losses), *_] = trained
    assert all(torch.equal(before[k], v) for k, v in scenes.model.state_dict().items())
    changed = {k for k, v in clip.model.state_dict().items() if not torch.equal(before[k], v)}
    assert changed and all(k.startswith("visual.") for k in changed)
    assert not any(p.requires_grad for p in clip.model.parameters()) and not clip.model.training
    assert list(losses.columns) == ["naming", "manifold", "transport"] and len(losses) == 6
    assert np.isfinite(losses.to_numpy()).all() and (losses["transport"] > 0).all()


def test_the_loss_falls_on_the_batch_it_is_trained_on(scenes, trained):
    _, pixels, _, _ = trained
    _, losses = lico(scenes, pixels[:4], ["a cat", "a dog", "a bus", "a tree"], steps=8, batch=4)
    total = losses.sum(1)
    assert total.iloc[-1] < 0.9 * total.iloc[0]


def test_how_far_the_model_has_moved(scenes, trained):
    pairs, pixels, _, [(one, _), (again, _), (other, _)] = trained
    ids = scenes.tokenize([p.text for p in pairs])
    same, far = moved(one, again, pixels, ids), moved(scenes, one, pixels, ids)
    assert same == {"weights": 0, "embeddings": pytest.approx(1, abs=1e-5), "maps": pytest.approx(1)}
    assert far["weights"] > 0 and far["embeddings"] < 1 - 1e-5 and far["maps"] < 1 - 1e-5
    assert moved(one, other, pixels, ids)["weights"] > 0


def test_lico_needs_labels_of_two_classes(scenes, trained):
    with pytest.raises(ValueError, match="12 pictures with 0 labels of 0 classes: LICO trains a classifier"):
        lico(scenes, trained[1], [])
    with pytest.raises(ValueError, match="of 1 classes"):
        lico(scenes, trained[1], ["a cat"] * 12)


def test_features_are_what_the_encoders_put_out(golden_clip, golden_pair):
    for tower, inputs in zip((golden_clip.image, golden_clip.text), golden_pair):
        embeddings, tokens, _ = lico_module._features(tower, inputs)
        assert torch.allclose(embeddings, tower.encode(inputs), atol=1e-5) and tokens.shape[::2] == embeddings.shape
    assert not torch.allclose(F.normalize(tokens[:, 0]), F.normalize(tokens[:, 1]), atol=1e-3)
