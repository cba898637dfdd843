"""nibkit.scenes: what a model is scored by, the training loop, and the shipped models."""

import re
import signal
import subprocess
import sys

import clip as openai
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from near import assert_near
from safetensors.torch import load_file

import nibkit
from nibkit import data
from nibkit.models import checksum
from nibkit.paths import bundled
from nibkit.scenes import encoders, score, train, world

SMALL = {"batch": 4, "fresh": 2, "pool": 8, "warmup": 2, "width": 64}


# --- the scores ---


def test_retrieval_counts_only_captions_of_one_picture():
    true = np.eye(120, dtype=bool)
    assert np.nanmean(score.retrieval(np.eye(120), true)) == 1
    assert np.nanmean(score.retrieval(-np.eye(120), true)) == 0
    true[:30] = True  # these hold of every picture, so they say nothing
    found = score.retrieval(np.diag(np.repeat([-1.0, 1.0], [30, 90])), true)
    assert np.isnan(found[:30]).all() and np.nanmin(found) == 1


def test_discrimination_by_hand():
    row, present = np.arange(4.0), np.array([[False, False, True, True], [True, False, False, True]])
    assert score.discrimination(np.stack([row, row]), present).tolist() == [1, 0.5]


@pytest.mark.parametrize(
    "claims, twin, kind",
    [
        ({"dog"}, {"cat", "1 cat"}, "object"),
        ({"red ball"}, {"blue ball", "ball"}, "colour"),
        ({"cat left of dog"}, {"dog left of cat", "cat", "dog"}, "place"),
        ({"cat above dog"}, {"dog above cat", "cat", "dog"}, "place"),
        ({"small cat"}, {"large cat", "cat"}, "size"),
        ({"2 cat", "grass"}, {"cat", "1 cat", "grass"}, "count"),
        ({"cat", "grass"}, {"cat", "sand"}, "ground"),
    ],
)
def test_kinds_of_twins(claims, twin, kind):
    assert score.kind(frozenset(claims), frozenset(twin)) == kind


def test_the_table_names_what_is_missed():
    table = pd.DataFrame(
        {
            "value": [0.5, 0.99],
            "low": [0.4, np.nan],
            "high": [0.6, np.nan],
            "n": [10, 3],
            "goal": [0.9, np.nan],
            "chance": [0.1, np.nan],
        },
        index=["a", "b"],
    )
    lines = score.markdown(table).splitlines()
    assert lines[2] == "| a | 50.0% | 40.0% to 60.0% | 10 | 90.0%, missed | 10.0% |"
    assert lines[3] == "| b | 99.0% |  | 3 |  |  |"


def test_a_card_without_the_place_is_refused():
    with pytest.raises(ValueError, match="no place for 'scores'; write <!-- scores --> and <!-- end -->"):
        score.card("nothing", {"scores": "1"})


def test_the_shipped_model_reaches_every_goal_and_its_card_says_what_it_scores(scenes):
    table = score.scores(scenes)
    missed = table[table.value < table.goal]
    assert missed.empty, missed
    card = bundled("scenes/README.md").read_text(encoding="utf-8")
    (block,) = re.findall("<!-- scores of scenes -->\n\n(.*?)\n\n<!-- end -->", card, re.DOTALL)
    ours, theirs = score.markdown(table).splitlines(), block.splitlines()
    number = re.compile(r"-?\d+\.\d%")
    for mine, said in zip(ours, theirs, strict=True):
        assert number.sub("%", mine) == number.sub("%", said)
        for a, b in zip(number.findall(mine), number.findall(said)):  # a near tie may turn with the processor
            assert abs(float(a[:-1]) - float(b[:-1])) <= 1, (mine, said)


@pytest.mark.parametrize("name, file", [("scenes", "model"), ("scenes-early", "early")])
def test_shipped_files(name, file):
    path = bundled(f"scenes/{file}.safetensors")
    assert path.stat().st_size <= 11e6
    model, weights = nibkit.load(name, device="cpu"), load_file(path)
    ids = weights["token_embedding.ids"].long()
    rows = model.text.embedding
    assert torch.equal(rows[ids], weights["token_embedding.weight"].float())
    assert int((rows.abs().sum(1) > 0).sum()) == len(ids)
    assert checksum(model) in bundled("scenes/README.md").read_text(encoding="utf-8")
    text = "a photo of a cat and two dogs" if name == "scenes" else "a photo of a cat and a dog"
    assert torch.isin(openai.tokenize([text])[0, :9], ids).all()


def test_the_recipe_on_the_card_is_the_script_s():
    assert f"`{train.Recipe()}`" in bundled("scenes/README.md").read_text(encoding="utf-8")


# --- training ---


def test_the_towers_in_training_are_the_librarys_own():
    torch.manual_seed(0)
    model, pairs = train.new_model(64).eval(), data.load("scenes-captions")[:3]
    pixels = train.normalise(torch.from_numpy(np.stack([np.asarray(p.image) for p in pairs])))
    ids = openai.tokenize([p.text for p in pairs])
    with torch.no_grad():
        assert_near(train.encode_image(model, pixels, 9)[0], model.encode_image(pixels))
        assert_near(train.encode_text(model, ids[:, : train.LENGTH], 9)[0], model.encode_text(ids))


def test_shares_of_attention_by_hand():
    """One head, keys of 0: every token gives every token it sees the same."""
    block = train.new_model(64).transformer.resblocks[0]
    with torch.no_grad():
        block.attn.in_proj_weight.zero_()
        block.attn.in_proj_bias.zero_()
        x = torch.randn(1, 4, 64)
        _, given = encoders._block(x, encoders._weights(block), 1, False)
        _, causal = encoders._block(x, encoders._weights(block), 1, True)
    assert_near(given, torch.tensor([[3 / 4, 2 / 4, 2 / 4, 2 / 4]]))  # itself and the first are not others
    assert_near(causal, torch.tensor([[0, 0, 1 / 3, 2 / 4]]))


def test_claims_hold_of_pictures_with_all_of_them():
    claims, facts = (
        torch.tensor([[1, 2, -1], [3, -1, -1]]),
        torch.tensor([[1, 2, 5, -2], [1, 3, -2, -2], [2, 3, 1, -2]]),
    )
    assert train.holds(claims, facts).tolist() == [[1, 0], [0, 1], [1, 1]]


def test_a_batch_says_what_is_true_of_what():
    item = train.Twins(train.Recipe(fresh=6))[0]
    found = train.holds(item["claims"].flatten(0, 1)[:, 0], item["facts"].flatten(0, 1)).bool()
    scenes = [s for k in range(6) for s in world.sample(0, k, train.CAPTIONS)]
    assert found.tolist() == [[s.claims[0] <= other.facts for s in scenes] for other in scenes]
    assert item["pictures"].shape == (6, 2, 224, 224, 3) and item["ids"].shape == (6, 2, train.CAPTIONS, train.LENGTH)


def test_loss_of_a_perfect_model_is_zero():
    images = F.one_hot(torch.tensor([0, 1, 2])).float()
    texts = F.one_hot(torch.tensor([0, 1, 2])).float()
    assert float(train.contrastive_loss(images, texts, torch.tensor(100.0), torch.eye(3))) < 1e-6


TRAIN = f"""
import os, signal, sys, torch
from pathlib import Path
from nibkit.scenes import train
torch.set_num_threads(1)
die = sys.argv[2] == "die"
train.zero_shot = lambda model: os.kill(os.getpid(), signal.SIGKILL) if die else 0.0  # called after each checkpoint
train.train(Path(sys.argv[1]), train.Recipe(steps=6, **{SMALL}), workers=0, every=3)
"""


def run_training(folder, how):
    command = [sys.executable, "-c", TRAIN, str(folder), how]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_training_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path):
    assert run_training(tmp_path / "killed", "die").returncode == -signal.SIGKILL
    saved = torch.load(tmp_path / "killed/checkpoint.pt", weights_only=True)
    assert saved["step"] == 3 and not (tmp_path / "killed/model.safetensors").exists()
    resumed, whole = run_training(tmp_path / "killed", "live"), run_training(tmp_path / "whole", "live")
    assert (resumed.returncode, whole.returncode) == (0, 0), resumed.stderr + whole.stderr
    assert "step 3 " not in resumed.stdout and "step 3 " in whole.stdout
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("killed", "whole"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(
        one["visual.proj"], saved["model"]["visual.proj"].half()
    )  # the steps after the kill did something
    model = nibkit.load(str(tmp_path / "whole/model.safetensors"), device="cpu")
    assert_near(model.text.embedding[320], two["token_embedding.weight"][two["token_embedding.ids"] == 320][0].float())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    recipe = train.Recipe(steps=5, **SMALL)
    torch.save({"recipe": vars(recipe)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is of the recipe .*'steps': 5.*; choose another folder or delete it"):
        train.train(tmp_path, train.Recipe(steps=7, **SMALL))
