"""nibkit.scenes: the generator and the shipped sets."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nibkit.data.captions import words_of
from nibkit.paths import bundled
from nibkit.scenes import __main__ as command
from nibkit.scenes import datasets, drawing, grounds, world
from nibkit.scenes.world import Placed, Scene


def claims(text: str) -> frozenset[str]:
    """What a caption of the shipped sets says is there: object names, and the ground if it ends with one."""
    grounds = [name for name, phrase in world.GROUNDS.items() if text.endswith(phrase)]
    return frozenset([*words_of(text, world.FIRST).values(), *grounds])


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
        assert claims(text) == claimed, text
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
        e.claims == claims(e.text) <= world.facts(e.scene) for e in singles + many + datasets.cat_and_dog()
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
