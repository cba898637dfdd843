"""Drawn aerial scenes, and pairs from a CSV file."""

import pickle

import numpy as np
import pytest
from PIL import Image

from nibkit import data
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


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for k, (mode, suffix) in enumerate([("RGB", "png"), ("L", "png"), ("RGBA", "png"), ("RGB", "jpg")]):
        Image.new(mode, (8 + k, 8), 40 * k if mode == "L" else None).save(tmp_path / f"pictures/{k}.{suffix}")
    rows = ["image,text,split", "pictures/0.png,a field,val", 'pictures/1.png,"a river, and a field",val']
    rows += ["pictures/2.png,a house .,val", "pictures/3.jpg,ein Flußufer,val"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    return tmp_path


def test_a_csv_file_lists_its_pairs(folder):
    pairs = data.load_csv(folder / "pairs.csv")
    assert (pairs.name, len(pairs)) == ("pairs", 4)
    assert [p.text for p in pairs] == ["a field", "a river, and a field", "a house .", "ein Flußufer"]
    assert [p.id for p in pairs] == [f"pairs/{k:04d}" for k in range(4)]
    assert [(p.image.mode, p.image.width) for p in pairs] == [("RGB", 8), ("RGB", 9), ("RGB", 10), ("RGB", 11)]
    assert pairs[0].masks == {} and pairs[0].words == {}


def test_a_missing_picture_raises_only_when_opened(folder):
    (folder / "pictures/1.png").unlink()
    (folder / "pictures/2.png").write_bytes(b"<html>")
    pairs = data.load_csv(str(folder / "pairs.csv"))
    assert pairs[0].image.size == (8, 8)
    for k in (1, 2):
        with pytest.raises(data.DataError, match=f"{k}.png cannot be read as a picture"):
            _ = pairs[k].image


@pytest.mark.parametrize(
    "content, message",
    [
        ("file_path,caption\na.png,b", "has no column 'image', only file_path, caption; it needs image and text"),
        ("image,caption\na.png,b", "has no column 'text'"),
        ("", "has no column 'image', only none"),
        ("image,text\na.png,b\nc.png", "row 2 has no text; fill it in"),
        ("image,text\n,b", "row 1 has no image; fill it in"),
        ("image,text\n../a.png,b", "row 1 names '../a.png', outside the CSV's folder"),
        ("image,text\nx/../../a.png,b", "outside the CSV's folder"),
        ("image,text\n/a.png,b", "row 1 names '/a.png', outside the CSV's folder"),
        (b"image,text\n\xff\xfe,b", "cannot be read as a CSV file"),
    ],
)
def test_a_bad_csv_file_is_refused_before_work_starts(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(data.DataError, match=message):
        data.load_csv(tmp_path / "bad.csv")


def test_no_csv_file(tmp_path):
    with pytest.raises(data.DataError, match="none.csv cannot be read as a CSV file"):
        data.load_csv(tmp_path / "none.csv")
