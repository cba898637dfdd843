"""Drawn aerial scenes."""

import pickle

import numpy as np
import pytest

from nibkit.scenes import aerial


def test_a_scene_is_a_function_of_its_seed():
    one, same, other = (aerial.draw(("river", "houses"), [0, k]) for k in (3, 3, 4))
    assert np.array_equal(one[0], same[0]) and all(np.array_equal(one[1][k], same[1][k]) for k in one[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("parts", aerial.SETS)
@pytest.mark.parametrize("seed", range(3))
def test_masks_part_the_picture_and_fit_what_is_drawn(parts, seed):
    picture, masks = aerial.draw(parts, [1, seed])
    assert (picture.mode, picture.size) == ("RGB", (224, 224))
    assert set(masks) == {"fields", *parts}
    assert (sum(m.astype(int) for m in masks.values()) == 1).all()
    assert all(m.sum() > 1000 for m in masks.values())
    mean = {name: np.asarray(picture)[m].mean(0) for name, m in masks.items()}
    assert mean["fields"].argmax() != 2  # crops are not blue
    if "river" in parts:
        assert mean["river"][2] > mean["fields"][2] and mean["river"].argmin() == 0
    if "houses" in parts:
        assert mean["houses"].argmax() == 0
    if "runway" in parts:
        assert np.ptp(mean["runway"]) < 12 < np.ptp(mean["fields"])


def test_captions_name_what_is_there():
    texts = [aerial.describe(parts) for parts in aerial.SETS]
    assert texts[2] == "an aerial view of houses among fields"
    assert texts[5] == "an aerial view of a river, a runway and houses among fields"
    for pair in aerial.dataset(6):
        assert set(pair.words.values()) == set(pair.masks)
        assert all(pair.text.split()[i].strip(",") == name for i, name in pair.words.items())


def test_the_set_draws_the_same_pairs_whatever_its_length():
    long, short = aerial.dataset(9), aerial.dataset(7)
    assert [p.id for p in long[:7]] == [p.id for p in short] and long[6].text == long[0].text
    assert np.array_equal(long[6].image, pickle.loads(pickle.dumps(short[6])).image)
    assert not np.array_equal(long[6].image, long[0].image)


def test_unknown_part():
    with pytest.raises(ValueError, match="part 'castle' is not in this world; there are fields, river, runway, houses"):
        aerial.draw(("castle",), [0])


# --- pairs from a CSV file
