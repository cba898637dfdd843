"""Regions and boxes of a heat map, on maps whose answer is known by hand; scores as a file and as a table."""

import numpy as np
import pandas as pd
import pytest

import nibkit
from nibkit.attribution import boxes, otsu, words


def test_otsu_cuts_between_two_levels():
    heat = np.full((5, 5), 0.2)
    heat[1:3, 2:5] = 0.9
    assert np.array_equal(otsu(heat), heat == 0.9)


def test_boxes_are_half_open_and_the_largest_region_comes_first():
    heat = np.zeros((8, 10))
    heat[0, 0] = heat[1, 1] = 1  # one region: they touch at a corner
    heat[4:7, 3:9] = 1
    assert boxes(heat) == [(3, 4, 9, 7), (0, 0, 2, 2)]
    (x0, y0, x1, y1), *_ = boxes(heat)
    assert heat[y0:y1, x0:x1].sum() == 18


def test_order_is_by_pixels_not_by_the_box():
    heat = np.zeros((9, 9))
    heat[0, :5] = heat[:5, 0] = 1  # an L of 9 pixels in a box of 25
    heat[6:9, 4:8] = 1  # 12 pixels in a box of 12
    assert boxes(heat) == [(4, 6, 8, 9), (0, 0, 5, 5)]


def test_what_speaks_against_the_text_moves_no_box():
    scores = np.zeros((6, 6))
    scores[1, 1], scores[4, 4], scores[2, 4] = 3, 1.1, 0.9  # 0.9 is no third of 3
    assert boxes(scores) == [(1, 1, 2, 2), (4, 4, 5, 5)]
    scores[5] = -100
    assert boxes(scores) == [(1, 1, 2, 2), (4, 4, 5, 5)] and boxes(-np.abs(scores)) == []


def test_a_flat_map_marks_nothing():
    for level in (0.0, 1.0):
        assert not otsu(np.full((4, 4), level)).any() and boxes(np.full((4, 4), level)) == []


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 7, 7\) is not \(H, W\)"):
        otsu(np.zeros((2, 7, 7)))
    with pytest.raises(ValueError, match="holds 1 values that are not finite"):
        boxes(np.array([[0, np.nan]]))


@pytest.fixture(scope="module")
def made(scenes):
    pair = nibkit.data.load("cat-and-dog")[0]
    return nibkit.explain(scenes, pair.image, ["a cat", "a skateboarding dog"], layer=(9, 10))


def test_a_saved_attribution_comes_back_to_the_last_bit(made, scenes, tmp_path):
    made.about["names"] = ["a.png", "b \ud83d.png"]
    made.save(tmp_path / "a.npz", scenes)
    back = nibkit.Attribution.load(tmp_path / "a.npz")
    assert np.array_equal(back.image, made.image) and back.image.dtype == np.float32 and back.size == made.size
    assert len(back.text) == 2 and all(np.array_equal(*texts) for texts in zip(back.text, made.text))
    pd.testing.assert_frame_equal(back.info, made.info, check_exact=True)
    assert back.about == made.about | {"weights": nibkit.models.checksum(scenes)}
    assert back.about["texts"] == ["a cat", "a skateboarding dog"] and back.about["model"] == "scenes"
    assert back.about["method"] == "nib" and back.about["options"]["layer"] == [9, 10]
    assert back.words(1) == words(scenes, scenes.tokenize(["a skateboarding dog"])[0], made.text[1])
    with pytest.raises(ValueError, match="of ViT-Z, not of scenes"):
        nibkit.Attribution(made.image, made.text, 224, about={"model": "ViT-Z"}).save(tmp_path / "b.npz", scenes)


def test_scores_that_nobody_explained_are_kept_too(tmp_path):
    bare = nibkit.Attribution(np.eye(2, dtype=np.float32)[None], [np.float32([1, 2])], 8)
    bare.save(tmp_path / "bare")
    back = nibkit.Attribution.load(tmp_path / "bare")
    assert np.array_equal(back.image, bare.image) and np.array_equal(back.text[0], bare.text[0]) and back.about == {}
    assert list(bare.to_dataframe(words=False).score) == [1, 0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="tokens of these scores are not known"):
        bare.to_dataframe()


def test_what_is_no_saved_attribution_is_refused(made, tmp_path):
    made.save(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("a cat")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    parts = dict(np.load(tmp_path / "good.npz"))
    np.savez(tmp_path / "short.npz", **parts | {"text": parts["text"][:-1]})
    np.savez(tmp_path / "newer.npz", **parts | {"head": np.array('{"form": "nibkit attribution 9"}')})
    for name in ("cut.npz", "empty.npz", "text.npz", "other.npz", "array.npy", "short.npz", "newer.npz"):
        with pytest.raises(ValueError, match=rf"{name} is not a file of Attribution.save, or is broken \("):
            nibkit.Attribution.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        nibkit.Attribution.load(tmp_path / "nowhere.npz")


def test_a_table_has_a_row_for_each_patch_and_word(made):
    table = made.to_dataframe()
    assert list(table.groupby(["pair", "side"]).size()) == [49, 2, 49, 3]
    assert list(table.query("pair == 1 and side == 'text'").word) == ["a", "skateboarding", "dog"]
    one = table.query("pair == 1 and side == 'image' and row == 2 and column == 5").iloc[0]
    assert one.score == made.image[1, 2, 5] and one.text == "a skateboarding dog"
    whole = made.to_dataframe(words=False).query("side == 'text'")
    assert list(whole[whole.pair == 0].word) == made.about["tokens"][0]
    assert np.array_equal(whole[whole.pair == 1].score, made.text[1])
