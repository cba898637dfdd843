"""nibkit.scenes: the generator, the shipped sets, the scores and the training loop."""

import signal
import subprocess
import sys

import clip
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file

from nibkit import data
from nibkit.data.captions import words_of
from nibkit.paths import bundled
from nibkit.scenes import __main__ as command
from nibkit.scenes import datasets, drawing, grounds, score, train, world
from nibkit.scenes.world import Placed, Scene

CAT, DOG = Placed("cat", 60, 60, 80), Placed("dog", 160, 160, 80)


# --- the world ---


def test_same_seed_same_scene_and_another_seed_another():
    one, two, other = (world.random_scene(np.random.default_rng(s), 3) for s in (5, 5, 6))
    assert one == two != other
    for describe in (world.describe, datasets.describe):
        assert describe(one, np.random.default_rng(1)) == describe(two, np.random.default_rng(1))


def test_a_mask_covers_exactly_what_drawing_the_object_changes():
    with_dog, masks = world.render(Scene("night", (CAT, DOG)))
    without, _ = world.render(Scene("night", (CAT,)))
    changed = (np.asarray(with_dog) != np.asarray(without)).any(2)
    dog = masks["dog"]
    assert dog.sum() > 1000
    assert changed[dog].mean() > 0.999  # an opaque pixel may happen to have the ground's colour
    near = np.asarray(Image.fromarray(dog).convert("L").filter(ImageFilter.MaxFilter(5))) > 0
    assert not (changed & ~near).any()  # beyond the mask only the smoothed outline, two pixels at most


def test_what_is_drawn_over_belongs_to_the_upper_object():
    _, alone = world.render(Scene("sand", (CAT,)))
    above = Placed("dog", CAT.x + 20, CAT.y, 80)
    _, both = world.render(Scene("sand", (CAT, above)))
    assert not (both["cat"] & both["dog"]).any()
    assert np.array_equal(both["cat"], alone["cat"] & ~both["dog"])
    assert both["cat"].sum() < alone["cat"].sum()


def test_counterpart_takes_one_object_away():
    scene = Scene("snow", (CAT, DOG), 3)
    assert world.counterpart(scene, "cat") == Scene("snow", (DOG,), 3)


@pytest.mark.parametrize(
    "claimed, holds",
    [({"cat"}, True), ({"cat", "dog", "sand"}, True), ({"cat", "bus"}, False), ({"cat", "snow"}, False)],
)
def test_is_true(claimed, holds):
    assert world.is_true(frozenset(claimed), Scene("sand", (CAT, DOG))) is holds


def test_words_of():
    assert words_of("a cat and a dog", ["cat", "dog"]) == {1: "cat", 4: "dog"}
    assert words_of("a photo of an owl, a cat and a catalogue", world.OBJECTS) == {4: "owl", 6: "cat"}


@pytest.mark.parametrize("partial, left_out", [(0.0, 0), (1.0, 1)])
def test_captions_are_true_and_leave_out_what_partial_says(partial, left_out):
    rng = np.random.default_rng(0)
    for n in (1, 2, 3) * 20:
        scene = world.random_scene(rng, n, names=world.FIRST)
        text, claimed = datasets.describe(scene, rng, partial)
        assert world.is_true(claimed, scene)
        assert score.claims(text) == claimed, text
        assert len(claimed & set(scene.names)) == (n - left_out if n > 1 else 1)


def test_unknown_names_are_sentences():
    with pytest.raises(ValueError, match="object 'dragon' is not in this world; there are cat, dog,"):
        world.render(Scene("grass", (Placed("dragon", 50, 50, 50),)))
    with pytest.raises(ValueError, match="ground 'moon' is not in this world; there are grass, sand,"):
        world.render(Scene("moon", ()))


# --- the shipped sets ---


def test_datasets_are_the_same_byte_for_byte(tmp_path):
    def written(folder):
        for name, examples in {"objects": datasets.objects(2), "captions": datasets.captions(3)}.items():
            datasets.write(examples, tmp_path / folder / name)
        files = [f for f in (tmp_path / folder).rglob("*.*") if f.is_file()]
        return {str(f.relative_to(tmp_path / folder)): f.read_bytes() for f in files}

    once = written("once")
    assert len(once) == (1 + 2 + 2) + (1 + 3 + 3)
    grounds.ground.cache_clear()
    assert written("twice") == once


@pytest.mark.parametrize("build", [datasets.objects, datasets.captions])
def test_an_item_depends_on_the_seed_and_not_on_how_many_there_are(build):
    assert build(7)[:4] == build(4)
    assert build(4, seed=99)[0] != build(4)[0]


@pytest.mark.parametrize("name", datasets.SETS)
def test_shipped_files_are_what_the_generator_gives(name):
    folder = bundled("scenes") / name
    examples = datasets.SETS[name]()
    rows = (folder / "captions.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + len(examples)
    stems = sorted({e.stem for e in examples})
    assert sorted(f.name for f in (folder / "pictures").iterdir()) == [f"{s}.webp" for s in stems]
    assert sorted(f.name for f in (folder / "masks").iterdir()) == [f"{s}.png" for s in stems]
    for e in examples:
        picture, masks = world.render(e.scene)
        shipped = np.asarray(Image.open(folder / "pictures" / f"{e.stem}.webp").convert("RGB"), int)
        off = np.abs(shipped - np.asarray(picture, int))
        # numpy's float32 sine differs in the last bit between processors: at most a grey level, in few places
        assert off.max() <= 1 and (off > 0).mean() < 0.001, e.stem
        labels = np.asarray(Image.open(folder / "masks" / f"{e.stem}.png"))
        assert list(masks) == list(e.scene.names)
        assert all(np.array_equal(labels == k, m) for k, m in enumerate(masks.values(), 1)), e.stem


def test_the_sets_are_balanced_distinct_and_held_out():
    singles, many = datasets.objects(), datasets.captions()
    assert [e.scene.names[0] for e in singles] == list(world.FIRST) * 8
    assert [len(e.scene.names) for e in many] == [1, 2, 3] * 80
    assert len({e.text for e in many}) == len(many)
    assert all(e.claims >= set(e.scene.names) for e in many)
    assert all(
        e.claims == score.claims(e.text) <= world.facts(e.scene) for e in singles + many + datasets.cat_and_dog()
    )
    assert min(e.scene.texture for e in singles + many) >= 2000


@pytest.mark.skipif(not command.FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")
def test_the_artwork_comes_from_the_font(tmp_path):
    datasets.extract_sprites(command.FONT, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {f"{name}.png" for name in world.OBJECTS}
    for name in world.OBJECTS:
        drawn = Image.open(tmp_path / f"{name}.png").convert("RGBA")
        assert np.array_equal(drawn, drawing.sprite(name)), name


def test_a_missing_font_is_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["sprites", "--font", str(tmp_path / "none.ttf")])
    assert stopped.value.code == 2
    assert "none.ttf; install Debian's package fonts-noto-color-emoji" in capsys.readouterr().err


# --- the scores ---


def test_claims_reads_names_and_ground():
    assert score.claims("there is an owl, a bus and a tree at night") == {"owl", "bus", "tree", "night"}
    assert score.claims("a photo of a cat") == {"cat"}


def test_zero_shot_by_hand():
    similarity = np.eye(len(world.FIRST))[[0, 1, 1]]
    assert score.zero_shot(similarity, ["cat", "dog", "horse"]) == pytest.approx(2 / 3)


def test_retrieval_counts_only_captions_of_one_picture():
    true = np.eye(120, dtype=bool)
    assert score.retrieval(np.eye(120), true) == (1, 100)
    assert score.retrieval(-np.eye(120), true) == (0, 100)
    true[:30] = True  # these hold of every picture, so they say nothing
    similarity = np.eye(120)
    similarity[:30] *= -1
    found, counted = score.retrieval(similarity, true)
    assert found == 1 and 70 <= counted <= 80
    similarity[30:75] *= -1  # half of the others miss
    assert score.retrieval(similarity, true)[0] == pytest.approx(0.5, abs=0.03)


def test_discrimination_by_hand():
    row = np.arange(32.0)  # "cat" lowest, "clock" highest
    assert score.discrimination(row[None], [["camera", "clock"]]) == 1
    assert score.discrimination(row[None], [["cat", "clock"]]) == 0.5


def test_scores_of_a_known_model_and_its_card(tmp_path, monkeypatch):
    """An untrained model with an encoder that reads the truth scores 1 everywhere."""
    torch.manual_seed(0)
    train.export(train.new_model(), tmp_path / "model.safetensors")
    model = score.load_openai(tmp_path / "model.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training

    names = [*world.FIRST, *world.GROUNDS]

    def vector(content):
        return torch.tensor([float(name in content) for name in names])

    def embed_images(model, pairs):
        contents = score.picture_contents(pairs.name.removeprefix("scenes-"))
        return torch.stack([vector({*objects, ground}) for objects, ground in contents])

    def embed_texts(model, texts):
        return torch.stack([vector(score.claims(t)) for t in texts])

    with monkeypatch.context() as patch:
        patch.setattr(score, "_embed_images", embed_images)
        patch.setattr(score, "_embed_texts", embed_texts)
        measured = score.scores(model)
    assert measured["zero_shot"] == measured["two_objects"] == 1
    assert measured["zero_shot_pictures"] == 256 and measured["two_objects_pictures"] == 80
    assert measured["retrieval"] == 1 and 50 < measured["retrieval_captions"] <= 100
    card = score.card(tmp_path / "model.safetensors", measured | {"zero_shot": 0.4321})
    assert "| 43.2% | 256 pictures | 3.1% |" in card
    assert all(name in card for name in world.FIRST)


def test_the_shipped_model_reaches_its_goals_and_its_card_says_what_it_scores():
    path = bundled("scenes/model.safetensors")
    measured = score.scores(score.load_openai(path))
    assert measured["zero_shot"] >= 0.97 and measured["retrieval"] >= 0.80
    assert bundled("scenes/README.md").read_text(encoding="utf-8") == score.card(path, measured)
    assert path.stat().st_size <= 25e6


def test_embeddings_are_the_librarys_own():
    torch.manual_seed(0)
    model, pairs = train.new_model().eval(), data.load("scenes-captions")[:3]
    texts = [p.text for p in pairs]
    images, words = score._embed_images(model, pairs, batch=2), score._embed_texts(model, texts)
    pixels = train.normalise(np.stack([np.asarray(p.image) for p in pairs]))
    torch.testing.assert_close(images, torch.nn.functional.normalize(model.visual(pixels)))
    fresh = train.new_model().eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(words, torch.nn.functional.normalize(fresh.encode_text(clip.tokenize(texts))))


# --- training ---

TRAIN = """
import os, signal, sys, torch
from pathlib import Path
from nibkit.scenes import train
torch.set_num_threads(1)
die = sys.argv[2] == "die"
train.zero_shot = lambda model: os.kill(os.getpid(), signal.SIGKILL) if die else 0.0  # called after each checkpoint
train.train(Path(sys.argv[1]), train.Recipe(steps=2, finish=1, batch=4, warmup=2), workers=0, every=2)
"""


def run_training(folder, how):
    command = [sys.executable, "-c", TRAIN, str(folder), how]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_training_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path):
    assert run_training(tmp_path / "killed", "die").returncode == -signal.SIGKILL
    saved = torch.load(tmp_path / "killed/checkpoint.pt", weights_only=True)
    assert saved["step"] == 2 and not (tmp_path / "killed/model.safetensors").exists()
    resumed, whole = run_training(tmp_path / "killed", "live"), run_training(tmp_path / "whole", "live")
    assert (resumed.returncode, whole.returncode) == (0, 0), resumed.stderr + whole.stderr
    assert "step 2 " not in resumed.stdout and "step 2 " in whole.stdout
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("killed", "whole"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    # the steps after the kill did something, and what is kept is the mean of the two finishes' ends
    ends = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)["ends"]
    assert len(ends) == 2 and not torch.equal(ends[1]["visual.proj"], saved["model"]["visual.proj"])
    assert torch.equal(one["visual.proj"], ((ends[0]["visual.proj"] + ends[1]["visual.proj"]) / 2).half())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    recipe = train.Recipe(steps=5)
    torch.save({"recipe": vars(recipe)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="belongs to the recipe .*'steps': 5.*; choose another folder or delete it"):
        train.train(tmp_path, train.Recipe(steps=7))
