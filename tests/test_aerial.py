"""Drawn aerial scenes."""

import numpy as np
import pytest

from nibkit import data
from nibkit.scenes import aerial, datasets, world

SETS = [(part,) for part in aerial.PARTS] + [
    ("river", "houses"),
    ("forest", "stadium", "road"),
    ("tanks", "lake", "runway"),
]


def test_a_scene_is_a_function_of_its_seed():
    one, same, other = (aerial.draw(("river", "houses"), [0, k]) for k in (3, 3, 4))
    assert np.array_equal(one[0], same[0]) and all(np.array_equal(one[1][k], same[1][k]) for k in one[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("parts", SETS)
@pytest.mark.parametrize("seed", range(3))
def test_masks_part_the_picture_and_fit_what_is_drawn(parts, seed):
    picture, masks = aerial.draw(parts, [1, seed])
    assert (picture.mode, picture.size) == ("RGB", (224, 224))
    assert list(masks) == ["fields", *parts]
    assert (sum(m.astype(int) for m in masks.values()) == 1).all()
    assert all(m.sum() > 1000 for m in masks.values())
    mean = {name: np.asarray(picture)[m].mean(0) for name, m in masks.items()}
    assert mean["fields"].argmax() != 2  # crops are not blue
    for water in {"river", "lake"} & set(parts):
        assert mean[water][2] > mean["fields"][2] and mean[water].argmin() == 0
    for red, green in (("houses", "forest"), ("tanks", "stadium")):
        assert red not in mean or mean[red].argmax() == 0
        assert green not in mean or mean[green].argmax() == 1
    for grey in {"runway", "road"} & set(parts):
        assert np.ptp(mean[grey]) < 20 < np.ptp(mean["fields"])


def test_another_part_leaves_the_rest_as_it_is():
    (one, masks), (two, others) = (aerial.draw((part, "lake"), [7]) for part in ("road", "tanks"))
    rest = (masks["fields"] & others["fields"]) | (masks["lake"] & others["lake"])
    inside = rest.copy()
    for axis in (0, 1):  # a pixel at an edge mixes both sides
        for step in (-1, 1):
            inside &= np.roll(rest, step, axis)
    assert inside.mean() > 0.5 and np.array_equal(np.asarray(one)[inside], np.asarray(two)[inside])


def test_captions_name_what_is_there():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        text, claims = aerial.describe(("river", "houses"), rng)
        seen.add(text)
        assert {"aerial river" in claims, "aerial houses" in claims} & {True}
        assert ("a river" in text, "houses" in text, "fields" in text) == tuple(
            f"aerial {part}" in claims for part in ("river", "houses", "fields")
        )
    assert {"an aerial view of a river and houses among fields", "houses from the air"} <= seen


def test_what_a_caption_is_about_is_never_left_out():
    rng = np.random.default_rng(0)
    for _ in range(50):
        text, claims = aerial.describe(("river", "houses", "lake"), rng, about={"lake"}, partial=1)
        assert "aerial lake" in claims and "a lake" in text and len(claims - {"aerial fields"}) == 3


def test_the_set_is_drawn_when_asked_for():
    pairs = data.load("aerial")
    assert len(pairs) == 96 and pairs[0].id == "aerial/0000"
    for pair, example in zip(pairs[:12], datasets.landscapes(12)):
        assert set(pair.words.values()) | {"fields"} == set(pair.masks) == {"fields", *example.scene.parts}
        assert all(pair.text.split()[i].strip(",") == name for i, name in pair.words.items())
    assert np.array_equal(pairs[3].image, datasets.drawn("aerial")[3].image)


def test_landscapes_have_the_parts_asked_for():
    rng = np.random.default_rng(0)
    scenes = [world.landscape(rng, "tanks", 2) for _ in range(20)]
    assert all(s.parts[0] == "tanks" and len(set(s.parts)) == 2 for s in scenes)
    assert {s.parts[1] for s in scenes} > {"river", "lake"} and len({s.texture for s in scenes}) == 20
    assert {len(world.landscape(rng).parts) for _ in range(20)} == {1, 2, 3}
    assert {len(e.scene.parts) for e in datasets.landscapes(3)} == {1, 2, 3}


def test_unknown_parts_and_too_many():
    with pytest.raises(ValueError, match="part 'castle' is not in this world; there are river, runway, houses, lake"):
        aerial.draw(("castle",), [0])
    with pytest.raises(ValueError, match="parts lake, lake: give up to 3 different ones"):
        aerial.draw(("lake", "lake"), [0])
