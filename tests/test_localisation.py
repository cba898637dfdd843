"""Ground truth: maps and word scores with answers known by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nibkit
from nibkit import benchmark, data
from nibkit.metrics import Batch, localisation

TARGET = np.zeros((8, 8), bool)
TARGET[2:4, 4:8] = True  # 8 of 64 pixels


@pytest.mark.parametrize(
    "scores, pointing, mass, iou, ap",
    [
        (TARGET * 1.0, 1, 1, 1, 1),
        (TARGET * 5.0 - 3, 1, 1, 1, 1),  # below 0 elsewhere
        (1.0 - TARGET, 0, 0, 0, 8 / 64),  # inverted: the target's pixels come last, all at once
        (TARGET * -1.0, 0, 0, 0, 8 / 64),
        (np.ones((8, 8)), 8 / 64, 8 / 64, 0, 8 / 64),  # flat
        (np.zeros((8, 8)), 8 / 64, 0, 0, 8 / 64),
        # the upper half marked: all 8 of the target in 32 equal pixels
        (np.repeat([1.0, 0.0], 32).reshape(8, 8), 8 / 32, 8 / 32, 8 / 32, 8 / 32),
    ],
)
def test_a_map_with_a_known_answer(scores, pointing, mass, iou, ap):
    want = {"pointing": pointing, "mass": mass, "iou": iou, "ap": ap}
    assert localisation.image_truth(scores, TARGET) == pytest.approx(want)


@pytest.mark.parametrize("mask", [TARGET & False, TARGET[:4], TARGET.astype(float)], ids=["empty", "small", "floats"])
def test_a_mask_that_asks_nothing_is_refused(mask):
    with pytest.raises(
        ValueError, match=r"the mask is .* pixels in it; give a boolean one of the map's size, \(8, 8\)"
    ):
        localisation.image_truth(np.ones((8, 8)), mask)


def test_average_precision_by_hand():
    """Ranks 1 and 3 of four: (1/1 + 2/3) / 2; with a tie of ranks 1 and 2: (1/2 * 1 + 2/3 * 1) / 2."""
    target = np.array([[True, False, True, False]])
    assert localisation.average_precision(np.array([[4.0, 3, 2, 1]]), target) == pytest.approx((1 + 2 / 3) / 2)
    assert localisation.average_precision(np.array([[4.0, 4, 2, 1]]), target) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_mean_scores_are_parts_of_the_largest_magnitude():
    others = np.zeros((8, 8), bool)
    others[6:] = True
    got = localisation.signed_truth(np.where(TARGET, 2.0, np.where(others, -4.0, 0.5)), TARGET, others)
    assert got == {"named": 0.5, "other": -1, "ground": 0.125}
    assert np.isnan(localisation.signed_truth(np.ones((8, 8)), TARGET, ~TARGET)["ground"])
    assert localisation.signed_truth(np.zeros((8, 8)), TARGET, others) == {"named": 0, "other": 0, "ground": 0}


@pytest.mark.parametrize(
    "scores, first, rank",
    [
        ([0, 0, 9, 0, 5], 1, (0.25 + 0.25 + 0.25) / 3),  # "a" 0, "and" 0, "a" 0 share ranks 0, 1, 2 of 0 .. 4
        ([9, 1, 0, 2, 3], 0, (1 + 0.25 + 0.5) / 3),
        ([1, 1, 1, 1, 1], 2 / 5, 0.5),
    ],
)
def test_words(scores, first, rank):
    words = ["a", "and", "cat", "a", "dog"]
    got = localisation.text_truth(list(zip(words, scores)), {"cat", "dog"})
    assert got == pytest.approx({"word_share": 2 / 5, "word_first": first, "function_rank": rank})


def test_words_without_a_truth():
    assert np.isnan(list(localisation.text_truth([("a", 1.0), ("tram", 2.0)], {"cat"}).values())).all()
    assert np.isnan(list(localisation.text_truth([("cat", 1.0)], {"cat"}).values())).all()


def test_queries_ask_for_every_object():
    asked = localisation.queries(data.load("cat-and-dog")[:1])
    assert [(p.id, p.text, p.words) for p in asked] == [
        ("cat-and-dog/0000/cat", "a photo of a cat", {4: "cat"}),
        ("cat-and-dog/0000/dog", "a photo of a dog", {4: "dog"}),
    ]
    assert all(list(p.masks) == ["cat", "dog"] for p in asked)


def test_queries_show_each_picture_once_before_any_comes_again():
    asked = localisation.queries(data.load("scenes-captions")[:60], several=True)
    pictures = [p.id.rpartition("/")[0] for p in asked]
    turn = len(set(pictures))
    assert turn < len(asked) and len(set(pictures[:turn])) == turn
    assert {list(p.masks).index(p.id.rpartition("/")[2]) for p in asked[:turn]} == {
        0,
        1,
        2,
    }  # not always the one named first


def test_pictures_of_one_object():
    """Asked for several objects, there is nothing to ask; else nothing is known of others, and the table says so."""
    alone = [pair for pair in data.load("scenes-captions") if len(pair.masks) == 1][:2]
    with pytest.raises(ValueError, match="no picture has masks of two objects; take several=False"):
        localisation.queries(alone, several=True)
    assert len(localisation.queries(alone)) == 2
    below = localisation.negative(
        pd.DataFrame(
            {"dataset": "d", "pair": [0, 1], "label": ["nib"] * 2, "other": [np.nan] * 2, "ground": [0.1, 0.2]}
        )
    )
    assert below.n["nib"] == 0 and below.verdict["nib"] == "open"


def test_a_mismatched_text_names_nothing_of_the_picture():
    pairs = data.load("scenes-captions")[:30]
    wrong = localisation.mismatched(pairs)
    assert [p.id for p in wrong] == [p.id for p in pairs]
    texts = {p.text: set(p.words.values()) for p in pairs}
    assert all(texts[p.text] and not texts[p.text] & set(p.masks) for p in wrong)
    with pytest.raises(ValueError, match="names only what is not in 'cat-and-dog/0000'"):
        localisation.mismatched(data.load("cat-and-dog"))


@pytest.fixture(scope="module")
def batch(scenes):
    pairs = data.load("scenes-objects")[:4]
    return pairs, scenes.preprocess([p.image for p in pairs]), scenes.tokenize([p.text for p in pairs])


def test_a_batch_against_its_own_masks(scenes, batch):
    """Maps that are the masks themselves; word scores that mark the last word."""
    pairs, pixels, ids = batch
    maps = np.stack([np.any([*p.masks.values()], 0) for p in pairs]).astype(np.float32)
    text = [np.eye(len(i), dtype=np.float32)[-2] for i in ids]
    got = localisation.truth(scenes, Batch(pairs, pixels, ids), nibkit.Attribution(maps, text, 224))
    assert list(got) == list(localisation.COLUMNS)
    assert (got[[*localisation.IMAGE, "named", "word_first"]] == 1).all(axis=None)
    assert got.other.isna().all() and (got.ground == 0).all()
    np.testing.assert_allclose(got.area, maps.mean((1, 2)))
    np.testing.assert_allclose(got.cosine, scenes.similarity(pixels, ids).cpu(), atol=1e-6)
    np.testing.assert_allclose(got.energy_image, maps.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(got.energy_text, [1 / (len(i) - 2) for i in ids], rtol=1e-6)
    shuffled = [localisation.image_truth(maps[k], maps[(k + 2) % 4] > 0) for k in range(4)]
    assert list(got.iou_shuffled) == pytest.approx([s["iou"] for s in shuffled])
    alone = localisation.truth(
        scenes, Batch(pairs[:1], pixels[:1], ids[:1]), nibkit.Attribution(maps[:1], text[:1], 224)
    )
    assert alone.pointing[0] == 1 and np.isnan(alone.pointing_shuffled[0])


def test_maps_are_judged_at_the_masks_own_size(scenes, batch):
    """A mask of 448 x 600 pixels, seen as its middle 448 x 448; the map is patches."""
    pairs, pixels, ids = batch
    mask = np.zeros((448, 600), bool)
    mask[:64, 76:140] = True  # the first patch of the part that is seen
    pair = replace(pairs[0], read_masks=lambda: {"object": mask}, words={})
    patches = np.zeros((1, 7, 7), np.float32)
    patches[0, 0, 0] = 1
    a = nibkit.Attribution(patches, [np.zeros(len(ids[0]), np.float32)], 224)
    got = localisation.truth(scenes, Batch([pair], pixels[:1], ids[:1]), a)
    assert got.area[0] == 64 * 64 / 448**2
    assert got.pointing[0] == 1 and got.mass[0] > 0.5
    assert np.isnan(got.word_first[0])


def test_a_pair_without_truth_is_a_row_with_its_reason(scenes):
    pairs = data.load("scenes-objects")[:2]
    hidden = np.zeros((224, 400), bool)
    hidden[:, :50] = True
    items = [replace(pairs[0], read_masks=lambda: {"cat": hidden}), pairs[1]]
    rows = benchmark.run(scenes, items, ["random"], metrics=[localisation.truth], progress=False)
    assert "objects/0000 has no mask with a pixel in the part that the model sees" in rows.error[0]
    assert np.isnan(rows.pointing[0]) and rows.error[1] == "" and 0 <= rows.pointing[1] <= 1


def test_maps_that_fade_and_maps_that_are_forced():
    """Energy a third under the wrong text, the same energy, and energy that the cosine has nothing to do with."""
    n = 40
    noise = np.random.default_rng(0).normal(0, 0.1, (3, n))

    def rows(scale, cosine):
        labels = {"fades": scale, "forced": 1.0}
        return pd.concat(
            pd.DataFrame(
                {"dataset": "d", "pair": range(n), "label": label, "cosine": cosine + noise[2]}
                | {f"energy_{part}": factor * np.exp(noise[int(scale < 1)]) for part in ("image", "text")}
            )
            for label, factor in labels.items()
        )

    table = localisation.forced(rows(1.0, 0.6), rows(1 / 3, 0.0)).set_index(["label", "part"])
    assert (table.n == n).all()
    assert table.ratio["fades", "image"] == pytest.approx(np.exp((noise[1] - noise[0]).mean()) / 3)
    assert (
        table.verdict["fades", "text"] == "fades"
        and table.high["fades", "text"] < 0.4
        and table.rho["fades", "image"] > 0.7
    )
    assert (
        table.verdict["forced", "image"] == "open"
        and table.low["forced", "image"] < 1 < table.high["forced", "image"] * 1.1
    )
    turned = localisation.forced(rows(1 / 3, 0.0), rows(1.0, 0.6)).set_index(["label", "part"])
    assert turned.verdict["fades", "image"] == "grows" and turned.low["fades", "image"] > 2


def test_an_energy_that_never_changes_has_no_rank_correlation(recwarn):
    """`centre`: the same map under any text."""
    energy = dict.fromkeys(("energy_image", "energy_text"), 2.0)
    constant = pd.DataFrame({"dataset": "d", "pair": range(9), "label": "centre", "cosine": np.arange(9.0)} | energy)
    table = localisation.forced(constant, constant.assign(cosine=-1.0))
    assert table.rho.isna().all() and (table.ratio == 1).all() and (table.verdict == "open").all() and not list(recwarn)


def test_verdicts_on_the_negative_property():

    def rows(label, other, ground):
        return pd.DataFrame(
            {"dataset": "d", "pair": range(len(other)), "label": label, "other": other, "ground": ground}
        )

    swing = np.linspace(-1, 1, 21)
    table = localisation.negative(
        pd.concat(
            [
                rows("holds", -0.5 + swing / 9, swing / 9),
                rows("habit", -0.5 + swing / 9, -0.5 - swing / 9),
                rows("fails", 0.5 + swing / 9, 1.0),
                rows("open", swing, 2.0),
                rows("holds", [np.nan], 0.0),  # a picture without other objects
            ]
        )
    )
    assert (table.verdict == table.index).all() and (table.n == 21).all()
    assert table.other["holds"] == pytest.approx(-0.5) and table.below_ground["habit"] == pytest.approx(0)
    assert table.low["holds"] < -0.5 < table.high["holds"]


@pytest.fixture
def masked_csv(tmp_path):
    """A cup left and a teddy bear right in one picture, a cup in another, a free caption, and a broken mask."""
    left, right = np.zeros((2, 48, 64), np.uint8)
    left[:, 8:20], right[:, 40:60] = 255, 255
    for name, array in {"left": left, "right": right, "small": left[:5, :5]}.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    for name, colour in {"one": "red", "two": "green", "three": "blue", "four": "white"}.items():
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{name}.jpg")
    rows = [
        "one.jpg,a photo of a cup,left.png",
        "one.jpg,a photo of a teddy bear,right.png",
        "two.jpg,a photo of a cup,left.png",
    ]
    rows += ["three.jpg,some cups,left.png", "four.jpg,a photo of an egg,small.png"]
    (tmp_path / "masks.csv").write_text("image,text,mask\n" + "\n".join(rows) + "\n")
    return data.load(tmp_path / "masks.csv"), left > 0, right > 0


def test_masks_of_one_picture_come_together(masked_csv):
    pairs, left, right = masked_csv
    asked = localisation.queries(pairs)
    assert [(p.id, p.text, p.words) for p in asked] == [
        ("masks/0000/cup", "a photo of a cup", {4: "cup"}),
        ("masks/0002/cup", "a photo of a cup", {4: "cup"}),
        ("masks/0003", "some cups", {}),
        ("masks/0004", "a photo of an egg", {}),
        ("masks/0000/teddy bear", "a photo of a teddy bear", {4: "teddy bear", 5: "teddy bear"}),
    ]
    assert asked[0].image.getpixel((0, 0))[0] > 200 and list(asked[0].masks) == ["cup", "teddy bear"]
    np.testing.assert_array_equal(asked[4].masks["teddy bear"], right)
    np.testing.assert_array_equal(asked[1].masks["cup"], left)
    several = localisation.queries(pairs, several=True)  # the unreadable one is kept, to be reported
    assert [p.id for p in several] == ["masks/0000/cup", "masks/0004", "masks/0000/teddy bear"]
    wrong = localisation.mismatched(asked)
    assert [p.text for p in wrong] == ["some cups"] * 2 + ["a photo of an egg", "a photo of a teddy bear", "some cups"]


def test_rows_of_a_csv_with_masks(scenes, masked_csv):
    """The middle 48 of 64 columns are seen; of these `centre` marks the middle. A mask of another size is a reason."""
    pairs, left, right = masked_csv
    rows = benchmark.run(scenes, localisation.queries(pairs), ["centre"], metrics=[localisation.truth], progress=False)
    cup, alone, some, small, bear = rows.to_dict("records")
    assert [x["area"] for x in (cup, bear, alone)] == pytest.approx(
        [12 / 48, 16 / 48, 12 / 48]
    )  # the right mask is cut at column 56
    assert bear["named"] > cup["named"] == pytest.approx(bear["other"], abs=1e-6) and np.isnan(alone["other"])
    assert [x["word_share"] for x in (cup, bear, alone)] == pytest.approx([1 / 5, 2 / 6, 1 / 5]) and np.isnan(
        some["word_share"]
    )
    assert "small.png is 5 x 5, its picture 64 x 48" in small["error"] and not any(
        x["error"] for x in (cup, alone, some, bear)
    )


def test_several_objects_of_one_name_are_one_mask(tmp_path):
    """Two dogs and a cat in one picture, and a picture of the same bytes in another shape."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (48, 64), "red").save(tmp_path / "high.png")
    rows = [
        "wide.png,a photo of a dog,0 0 8 8",
        "wide.png,a photo of a cat,60 40 64 48",
        "wide.png,a photo of a dog,4 0 24 8",
    ]
    rows += ["high.png,a photo of a dog,0 0 2 2"]
    (tmp_path / "boxes.csv").write_text("image,text,boxes\n" + "\n".join(rows) + "\n")
    wide, high = localisation.gathered(data.load(tmp_path / "boxes.csv"))
    assert {name: int(mask.sum()) for name, mask in wide.masks.items()} == {"dog": 24 * 8, "cat": 4 * 8}
    assert wide.masks["dog"][:8, :24].all() and {name: int(mask.sum()) for name, mask in high.masks.items()} == {
        "dog": 4
    }


def test_a_broken_picture_or_a_repeated_id_is_no_pair_less(scenes):
    """Masks that do not need the picture can be read where it cannot."""

    def broken():
        raise data.DataError("gone.png cannot be read")

    mask = {"object": np.ones((224, 224), bool)}
    good = replace(data.load("cat-and-dog")[0], text="a photo of a cat", read_masks=lambda: mask, words={})
    gone = replace(good, id="gone", read_image=broken)
    assert [p.id for p in localisation.gathered([gone, good])] == ["gone", good.id]
    rows = benchmark.run(
        scenes, localisation.queries([gone, good]), ["centre"], metrics=[localisation.truth], progress=False
    )
    assert list(rows.error) == ["DataError: gone.png cannot be read", ""]
    free = replace(good, text="some cats")
    assert [p.text for p in localisation.gathered([free, free])] == ["some cats"] * 2
