"""Remove and retrain, on sets where it is known what the pictures' information is, and where it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nibkit.metrics.roar import CONTROL, contrastive, finetune, removed, retrieval, roar


def test_the_highest_share_goes_and_ties_go_from_the_start():
    pixels, heat = torch.ones(2, 3, 2, 2), np.array([[[0.1, 0.9], [0.5, 0.2]], [[1.0, 1.0], [1.0, 1.0]]])
    left = removed(pixels, heat, 0.5)[:, 0]
    assert left.tolist() == [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]
    assert torch.equal(removed(pixels, heat, 0.0), pixels) and not removed(pixels, heat, 1.0).any()
    assert removed(pixels, np.full((2, 2, 2), np.nan), 0.25)[0, 0].tolist() == [[0, 1], [1, 1]]


def test_the_loss_is_clips():
    pictures, texts = torch.randn(4, 8), torch.randn(4, 8)
    logits = 10 * F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T
    by_hand = [-(x.softmax(1).diagonal().log()).mean() for x in (logits, logits.T)]
    assert torch.allclose(contrastive(pictures, texts, torch.tensor(10.0)), sum(by_hand) / 2)


class Quadrants:
    """A stand-in for a Clip that sees the left half of a picture: its pixels are the embedding."""

    logit_scale, image = torch.tensor(10.0), SimpleNamespace(grid=(2, 2))

    def check(self, pixels, ids):
        pass

    def embed_image(self, pixels):
        return torch.cat([pixels[:, :, :2, :2].flatten(1), pixels[:, :, 2:, :2].flatten(1)], 1)

    def embed_text(self, ids):
        return torch.stack(ids)


@pytest.fixture
def quadrants():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(120, 3, 4, 4, generator=generator)
    clip = Quadrants()
    return clip, pixels, list(clip.embed_image(pixels))


def test_what_a_right_map_marks_is_lost_for_good_and_what_a_wrong_one_marks_is_not(quadrants):
    heat = np.zeros((120, 4, 4), np.float32)
    heat[:, :, :2] = 1
    table = roar(*quadrants, {"right": heat, "wrong": 1 - heat}, test=60, shares=(0.5,), steps=30, seeds=(0, 1, 2))
    mean = table.groupby("method")[["retrieval", "lost"]].mean()
    assert mean.retrieval["nothing"] == 1 and mean.lost["wrong"] == 0
    assert mean.retrieval["right"] == pytest.approx(1 / 60, abs=1e-9)  # all the same: the first text is found
    assert 0 < mean.lost[CONTROL] < mean.lost["right"]


def test_the_table_says_what_was_trained(quadrants):
    heat = np.random.default_rng(0).random((120, 4, 4))
    table = roar(*quadrants, {"some": heat}, test=60, shares=(0.25, 0.5), steps=2, seeds=(3,))
    assert list(table.columns) == ["kind", "method", "share", "seed", "retrieval", "lost", "seconds"]
    assert table["method"].tolist() == ["nothing", "some", "some", CONTROL, CONTROL] and set(table["seed"]) == {3}
    assert table["share"].tolist() == [0, 0.25, 0.5, 0.25, 0.5] and (table["seconds"] > 0).all()
    again = roar(*quadrants, {"some": heat}, test=60, shares=(0.25, 0.5), steps=2, seeds=(3,))
    assert table.drop(columns="seconds").equals(again.drop(columns="seconds"))


def test_mistakes_are_refused_before_work(quadrants):
    heat = np.zeros((120, 4, 4))
    with pytest.raises(ValueError, match=r"maps\['a'\] is \(120, 2, 2\), not \(120, 4, 4\)"):
        roar(*quadrants, {"a": heat[:, :2, :2]}, test=60)
    with pytest.raises(ValueError, match="shares holds 1.5; a share of removed pixels"):
        roar(*quadrants, {"a": heat}, test=60, shares=(0.5, 1.5))
    with pytest.raises(ValueError, match="kind='anew' is not one of: head, finetune"):
        roar(*quadrants, {"a": heat}, test=60, kind="anew")
    with pytest.raises(ValueError, match=r"test=119 is not in 2\.\.118"):
        roar(*quadrants, {"a": heat}, test=119)


@pytest.mark.parametrize("which", ["golden_clip", "scenes"])
def test_fine_tuning_trains_a_copy_and_draws_by_seed(which, request, golden_pair):
    clip, (pixels, _) = request.getfixturevalue(which), golden_pair
    before = {k: v.clone() for k, v in clip.model.state_dict().items()}
    target, drawn, values = torch.randn(4, clip.embed_image(pixels).shape[1]), [], []

    def loss(tower, rows):
        drawn.append(rows.tolist())
        value = 1 - F.cosine_similarity(tower.embed_rows(tower.rows(pixels)), target).mean()
        values.append(float(value.detach()))
        return value

    learnt = finetune(clip, loss, 4, steps=6, batch=2, rate=1e-3, seed=5)
    assert values[-1] < values[0] - 1e-3 and all(len(rows) == 2 for rows in drawn)
    assert all(torch.equal(before[k], v) for k, v in clip.model.state_dict().items())
    assert torch.equal(learnt.embed_text(["a cat"]), clip.embed_text(["a cat"]))
    assert not torch.equal(learnt.embed_image(pixels), clip.embed_image(pixels))
    first = list(drawn)
    drawn.clear()
    finetune(clip, loss, 4, steps=6, batch=2, rate=1e-3, seed=5)
    assert drawn == first


def test_roar_by_fine_tuning_runs_on_a_model(scenes, golden_pair):
    pixels, ids = golden_pair
    table = roar(
        scenes,
        pixels,
        ids,
        {"flat": np.ones((4, 224, 224))},
        test=2,
        kind="finetune",
        shares=(0.5,),
        steps=1,
        batch=2,
        seeds=(0,),
    )
    assert table["retrieval"].between(0, 1).all() and set(table["kind"]) == {"finetune"}
    assert retrieval(torch.eye(4), torch.eye(4)) == 1
