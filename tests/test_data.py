"""nibkit.data: the bundled sets as sequences of pairs."""

import pickle

import numpy as np
import pytest
from PIL import Image

from nibkit import data
from nibkit.scenes import datasets, world


@pytest.mark.parametrize("name, n", [("scenes-objects", 256), ("scenes-captions", 240), ("cat-and-dog", 3)])
def test_sizes_and_stable_ids(name, n):
    pairs = data.load(name)
    assert len(pairs) == n
    assert len({p.id for p in pairs}) == n
    assert pairs[0].id == name.removeprefix("scenes-") + "/0000"


def test_it_is_a_sequence():
    pairs = data.load("scenes-objects")
    assert pairs[-1] == pairs[255] != pairs[0]
    part = pairs[2:10:3]
    assert isinstance(part, data.PairDataset) and part.name == "scenes-objects"
    assert [p.id for p in part] == ["objects/0002", "objects/0005", "objects/0008"]
    assert [p.id for p in pairs] == [pairs[i].id for i in range(256)]
    with pytest.raises(IndexError):
        pairs[256]


def test_a_pair_survives_pickling():
    pair = data.load("scenes-captions")[4]
    copy = pickle.loads(pickle.dumps(pair))
    assert copy == pair
    assert np.array_equal(copy.image, pair.image)


def test_cat_and_dog_is_one_picture_under_three_texts():
    pairs = data.load("cat-and-dog")
    assert [p.text for p in pairs] == ["a cat and a dog", "a dog", "a cat"]
    assert [p.words for p in pairs] == [{1: "cat", 4: "dog"}, {1: "dog"}, {1: "cat"}]
    picture, masks = world.render(world.CAT_AND_DOG)
    for p in pairs:
        assert np.array_equal(p.image, picture)
        assert list(p.masks) == ["cat", "dog"]
        assert all(np.array_equal(p.masks[k], masks[k]) for k in masks)


@pytest.mark.parametrize("name", ["scenes-objects", "scenes-captions"])
def test_pictures_masks_and_words_belong_together(name):
    for p in data.load(name):
        image, masks = p.image, p.masks
        assert (image.mode, image.size) == ("RGB", (224, 224))
        assert all(m.dtype == bool and m.shape == (224, 224) for m in masks.values())
        assert min(m.sum() for m in masks.values()) >= 100, f"{p.id}: an object is hidden"
        assert sum(m.astype(int) for m in masks.values()).max() == 1, f"{p.id}: masks overlap"
        assert set(p.words.values()) == set(masks), f"{p.id}: {p.text!r} and masks {list(masks)} differ"
        assert all(p.text.split()[i].strip(",") == name for i, name in p.words.items())


def test_unknown_name():
    names = "scenes-objects, scenes-captions, cat-and-dog"
    with pytest.raises(ValueError, match=f"'flickr' is not known; there are {names}"):
        data.load("flickr")


@pytest.mark.parametrize("broken", ["missing", "empty", "cut short", "text"])
def test_a_broken_picture_raises_only_when_opened(tmp_path, monkeypatch, broken):
    datasets.write(datasets.objects(2), tmp_path / "objects")
    file = tmp_path / "objects/pictures/0001.webp"
    content = file.read_bytes()
    file.unlink()
    if broken != "missing":
        file.write_bytes({"empty": b"", "cut short": content[:900], "text": b"<html>404</html>"}[broken])
    monkeypatch.setattr(data, "bundled", lambda _: tmp_path / "objects")
    pairs = data.load("scenes-objects")
    assert pairs[0].image.size == (224, 224)
    assert list(pairs[1].masks) == ["dog"]
    with pytest.raises(data.DataError, match="0001.webp cannot be read as a picture: "):
        _ = pairs[1].image


def test_a_broken_mask_raises_only_when_opened(tmp_path, monkeypatch):
    datasets.write(datasets.objects(1), tmp_path / "objects")
    (tmp_path / "objects/masks/0000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr(data, "bundled", lambda _: tmp_path / "objects")
    pair = data.load("scenes-objects")[0]
    assert isinstance(pair.image, Image.Image)
    with pytest.raises(data.DataError, match="0000.png cannot be read"):
        _ = pair.masks
