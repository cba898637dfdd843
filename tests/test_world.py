"""The whole world: colours, sizes, counts, places; what captions claim, and twins."""

import re
from dataclasses import replace

import clip
import numpy as np
import pytest
from PIL import Image

from nibkit import data
from nibkit.scenes import datasets, drawing, language, world
from nibkit.scenes.world import Placed, Scene

RED, BLUE = (Placed("ball", x, 112, 60, colour=colour) for x, colour in ((50, "red"), (170, "blue")))
COUNTS = {"a": None, "an": None, "one": 1, "two": 2, "three": 3, "four": 4}
TWINS = [world.twin(11, i) for i in range(150)]


def noun(words: list[str]):
    """How many, and the test of an object, that "two small red balls" asks for."""
    count, *adjectives, name = words
    name = {"fish": "fish", "sheep": "sheep", "mice": "mouse", "leaves": "leaf", "snowmen": "snowman"}.get(name, name)
    if name not in world.OBJECTS:
        name = next(n for n in world.OBJECTS if name in (n + "s", n + "es", n[:-1] + "ies"))

    def fits(o):
        size = "small" if o.size <= 52 else "large" if o.size >= 104 else None
        colour = o.colour or drawing.COLOURED.get(o.name, [None])[0]
        return o.name == name and all(word in (size, colour) for word in adjectives)

    return COUNTS[count], fits


def lies(a, b, where: str) -> bool:
    dx, dy = b.x - a.x, b.y - a.y
    if where in ("right of", "below"):
        dx, dy = -dx, -dy
    along, across = (dx, dy) if where.endswith("of") else (dy, dx)
    return along > 0.35 * (a.size + b.size) and abs(across) < 0.6 * along


def holds(text: str, scene: Scene) -> bool:
    """Whether a caption is true of a scene of objects, from its words alone."""
    text = re.sub("^(a photo of|a picture of|there is|there are) ", "", text)
    for ground, phrase in world.GROUNDS.items():
        if text.endswith(phrase):
            if scene.ground != ground:
                return False
            text = text.removesuffix(f" {phrase}")
    if found := re.fullmatch("(.*?) (?:to the )?(left of|right of|above|below) (.*)", text):
        (_, first), (_, second) = noun(found[1].split()), noun(found[3].split())
        pairs = ((a, b) for a in scene.objects for b in scene.objects if a is not b)
        return any(first(a) and second(b) and lies(a, b, found[2]) for a, b in pairs)
    for part in re.split(", | and | next to | with ", text):
        count, fits = noun(part.split())
        n = sum(map(fits, scene.objects))
        if n != count if count else n == 0:
            return False
    return True


# --- what is true ---


def test_counts_and_colours_by_hand():
    two = Scene("grass", (RED, BLUE))
    for true in ("ball", "2 ball", "red ball", "1 red ball", "1 blue ball", "red ball left of blue ball", "grass"):
        assert world.is_true(frozenset([true]), two), true
    for false in (
        "1 ball",
        "3 ball",
        "2 red ball",
        "green ball",
        "blue ball left of red ball",
        "small ball",
        "sand",
        "cat",
    ):
        assert not world.is_true(frozenset([false]), two), false
    assert two.labels == ("red ball", "blue ball")
    assert Scene("grass", (RED, replace(RED, x=170))).labels == ("ball", "ball")
    assert Scene("grass", (RED, replace(RED, x=170, size=40))).labels == ("ball", "small ball")


def test_claims_hold_of_exactly_the_scenes_of_which_their_words_do():
    rng = np.random.default_rng(0)
    scenes = [s for pair in TWINS for s in pair if s.ground != "aerial"]
    told = zip(scenes[::2], scenes[1::2])
    said = [world.describe(s, rng, world.facts(s) - world.facts(other)) for s, other in told]
    said += [world.describe(s, rng) for s in scenes[::2]]
    truth = np.array([[world.is_true(claims, s) for s in scenes] for _, claims in said])
    assert np.array_equal(truth, [[holds(text, s) for s in scenes] for text, _ in said])
    own = np.arange(len(scenes))[::2]
    assert truth[np.arange(len(own)), own].all() and truth[np.arange(len(own), len(said)), own].all()
    assert not truth[np.arange(len(own)), own + 1].any()  # what is said about the change is false of the twin
    assert 0.001 < truth.mean() < 0.1


def test_a_twin_differs_by_one_change():
    kinds = set()
    for one, other in TWINS:
        assert world.facts(one) - world.facts(other) and world.facts(other) - world.facts(one)
        if one.ground == "aerial":
            assert one.texture == other.texture and sum(a != b for a, b in zip(one.parts, other.parts)) == 1
            kinds.add("part")
            continue
        a, b = ([(o.name, o.colour_word, o.size_word) for o in scene.objects] for scene in (one, other))
        same = [n for n, *_ in a] == [n for n, *_ in b]
        placed = [[(o.x, o.y) for o in scene.objects] for scene in (one, other)]
        changed = {
            "ground": one.ground != other.ground,
            "count": len(a) != len(b),
            "object": len(a) == len(b) and not same,
            "colour": same and [c for _, c, _ in a] != [c for _, c, _ in b],
            "size": same and [s for *_, s in a] != [s for *_, s in b],
            "place": a == b and placed[0] != placed[1],
        }
        assert sum(changed.values()) == 1, (one, other)
        kinds |= {kind for kind, is_so in changed.items() if is_so}
    assert kinds == {"part", "ground", "count", "object", "colour", "size", "place"}


def test_twins_and_samples_are_functions_of_seed_and_number():
    assert world.twin(11, 3) == TWINS[3] != world.twin(12, 3)
    one, again, other = (world.sample(seed, 5, 3) for seed in (0, 0, 1))
    for a, b, c in zip(one, again, other):
        assert np.array_equal(a.picture, b.picture) and a[1:] == b[1:]
        assert not np.array_equal(a.picture, c.picture)


# --- what is drawn ---


@pytest.mark.parametrize("k", range(0, 150, 5))
def test_objects_are_in_sight_apart_and_where_they_are_said_to_be(k):
    for scene in TWINS[k]:
        picture, masks = world.render(scene)
        assert np.array_equal(picture, world.picture(scene))
        assert sum(m.astype(int) for m in masks.values()).max() == 1
        if scene.ground == "aerial":
            continue
        assert list(masks) == list(dict.fromkeys(scene.labels))
        for o in scene.objects:
            _, alone = world.render(replace(scene, objects=(o,)))
            label = scene.labels[scene.objects.index(o)]
            assert (masks[label] & alone[o.name]).sum() > 0.75 * alone[o.name].sum() > 100
        for fact in world.facts(scene):
            found = re.fullmatch("(.*) (left of|above) (.*)", fact)
            if found and scene.labels.count(found[1]) == scene.labels.count(found[3]) == 1:
                (y, x), (v, u) = (np.argwhere(masks[found[i]]).mean(0) for i in (1, 3))
                assert u - x > abs(v - y) if found[2] == "left of" else v - y > abs(u - x)


@pytest.mark.parametrize("name", drawing.COLOURED)
def test_a_coloured_sprite_has_its_colour(name):
    natural = np.asarray(drawing.sprite(name), float)
    for colour in drawing.COLOURS:
        sprite = np.asarray(drawing.sprite(name, colour), float)
        assert np.array_equal(sprite[..., 3], natural[..., 3])
        body = (np.abs(sprite - natural).max(2) > 12) & (sprite[..., 3] > 200)
        near = {other: np.abs(np.median(sprite[body], 0)[:3] - value).max() for other, value in drawing.COLOURS.items()}
        if body.mean() > 0.05:  # else that is its own colour
            assert min(near, key=near.get) == colour, (name, colour, near)
        else:
            assert colour == drawing.COLOURED[name][0]


def test_two_of_one_name_have_masks_of_their_own():
    scene = Scene("sand", (RED, BLUE))
    picture, masks = world.render(scene)
    red, blue = (np.asarray(picture)[masks[f"{colour} ball"]].astype(float).mean(0) for colour in ("red", "blue"))
    assert red.argmax() == 0 and blue.argmax() == 2
    text, claims = world.describe(scene, np.random.default_rng(0), {"red ball left of blue ball"})
    assert claims >= {"red ball left of blue ball"} and set(world.words(text, scene).values()) == set(masks)


def test_unknown_colours_are_sentences():
    with pytest.raises(ValueError, match="colour 'mauve' is not in this world; there are red, yellow,"):
        drawing.sprite("car", "mauve")
    with pytest.raises(ValueError, match="a cat takes no colour; these do: car, umbrella,"):
        drawing.sprite("cat", "red")


# --- captions ---


def test_plurals():
    one = ["cat", "bus", "butterfly", "key", "small mouse", "fish", "leaf", "dress"]
    many = ["cats", "buses", "butterflies", "keys", "small mice", "fish", "leaves", "dresses"]
    assert [language.plural(name) for name in one] == many


def test_captions_are_short_and_of_known_words_whose_objects_have_masks():
    known, longest = set(clip.tokenize(world.WORDS).flatten().tolist()), 0
    for i in range(200):
        for sample in world.sample(3, i, 3):
            ids = clip.tokenize(sample.texts)
            longest = max(longest, int(ids.argmax(1).max()) + 1)
            assert set(ids.flatten().tolist()) <= known
            assert len(sample.facts) <= world.FACTS and all(c <= sample.facts for c in sample.claims)
            assert sample.picture.shape == (224, 224, 3) and sample.picture.dtype == np.uint8
    assert 20 < longest <= 24


def test_words_name_the_masks_of_what_they_claim():
    pairs = data.load("scenes-world")
    assert len(pairs) == 240 and pairs[1].id == "scenes-world/0001"
    for pair, example in list(zip(pairs, datasets.whole_world()))[:60]:
        said = pair.text.split()
        assert set(pair.words.values()) <= set(example.scene.labels)
        for place, label in pair.words.items():
            word = said[place].strip(",")
            named = [o for o, own in zip(example.scene.objects, example.scene.labels) if own == label]
            o = named[0]
            assert word in {language.plural(o.name), o.name, o.colour_word, o.size_word}
        names = {w for w in (word.strip(",") for word in said) if w in language.SINGULAR}
        assert {said[place].strip(",") for place in pair.words} >= names
    assert set(pairs[0].masks) == set(datasets.whole_world(1)[0].scene.labels)
    assert isinstance(pairs[0].image, Image.Image)


def test_every_item_of_the_whole_world_is_false_of_its_twin():
    examples = datasets.whole_world(80)
    assert [e.text for e in datasets.whole_world(10)] == [e.text for e in examples[:10]]
    for one, other in zip(examples[::2], examples[1::2]):
        for e, twin in ((one, other), (other, one)):
            assert world.is_true(e.claims, e.scene) and not world.is_true(e.claims, twin.scene)
            assert e.scene.texture in datasets.TEXTURES
