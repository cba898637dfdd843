"""nibkit.data: the bundled sets, the layouts on disk, the hub, and what becomes of broken pictures."""

import csv
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from nibkit import data, models
from nibkit.data import check
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


# --- layouts on disk ---------------------------------------------------------------------------------------------


def picture(path, colour=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)


def write_csv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def reds(pairs):
    return [p.image.getpixel((0, 0))[0] for p in pairs]


def test_conceptual_captions_as_the_authors_have_it(tmp_path):
    for k in range(2):
        picture(tmp_path / f"cc_images/{k}.png", 50 * k)
    rows = ["caption", "file_path"], ["a man", "cc_images/1.png"], ["ein Flußufer, <b>", "cc_images/0.png"]
    pairs = data.load(str(write_csv(tmp_path / "cc.csv", *rows)))
    assert (pairs.name, len(pairs), pairs[1].id) == ("conceptual_captions", 2, "conceptual_captions/0001")
    assert [p.text for p in pairs] == ["a man", "ein Flußufer, <b>"]
    assert reds(pairs) == [50, 0]
    assert pairs[0].masks == {} and pairs[0].words == {} and pairs[0].captions == ()


@pytest.mark.parametrize("place", ["images", "", "Flicker8k_Dataset"])
def test_flickr8k_as_the_authors_have_it(tmp_path, place):
    picture(tmp_path / place / "1.png", 9)
    prefix = "images/" if place == "images" else ""  # the list may say so, or not
    content = [{"image": f"{prefix}1.png", "caption": ["a dog .", "a cat ."]}, {"image": "2.png", "caption": "a cow"}]
    (tmp_path / "en_val.json").write_text(json.dumps(content))
    pairs = data.load(tmp_path)
    assert (pairs.name, len(pairs)) == ("flickr8k", 2)
    assert (pairs[0].text, pairs[0].captions) == ("a dog .", ("a dog .", "a cat ."))
    assert (pairs[1].text, pairs[1].captions) == ("a cow", ())
    assert reds(pairs[:1]) == [9]


def tiny_imagenet(folder, sorted_into_folders):
    classes = {"n02": range(7), "n01": [12, 9, 10]}
    (folder / "val/images").mkdir(parents=True)
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tox\nn03\tunused\n")
    notes = []
    for wnid, numbers in classes.items():
        for n in numbers:
            where = f"val/{wnid}/images" if sorted_into_folders else "val/images"
            picture(folder / where / f"val_{n}.JPEG", n)
            notes.append(f"val_{n}.JPEG\t{wnid}\t0\t0\t62\t62")
    if not sorted_into_folders:
        (folder / "val/val_annotations.txt").write_text("\n".join(notes) + "\n")


@pytest.mark.parametrize("sorted_into_folders", [False, True])
def test_tiny_imagenet_takes_the_first_five_of_each_class(tmp_path, sorted_into_folders):
    tiny_imagenet(tmp_path / "tiny-imagenet-200", sorted_into_folders)
    pairs = data.load(tmp_path / "tiny-imagenet-200")
    assert pairs.name == "tiny-imagenet"
    assert [p.id.split("_")[1] for p in pairs] == ["10", "12", "9", "0", "1", "2", "3", "4"]
    assert [p.text for p in pairs] == ["a photo of a goldfish, Carassius auratus"] * 3 + ["a photo of a ox"] * 5
    assert pairs[0].image.size == (8, 6)


def test_check_has_a_row_for_each_pair_of_a_repeated_id(tmp_path):
    tiny_imagenet(tmp_path, False)
    notes = tmp_path / "val/val_annotations.txt"
    lines = notes.read_text().splitlines()
    notes.write_text("\n".join([*lines, lines[8]]))  # n01's val_9
    Image.new("RGB", (4, 3)).save(tmp_path / "val/images/val_1.JPEG")
    pairs = data.load(tmp_path)
    table = check.check(pairs)
    assert list(table.index) == [p.id for p in pairs] and len(pairs) == 9
    assert list(table.problem != "") == [False, False, True, True] + [False] * 5
    assert list(table.width) == [8] * 5 + [4] + [8] * 3
    said = check.report("tiny", table).splitlines()
    assert said[:2] == [
        "tiny: 9 pairs, 7 can be scored",
        "pictures: 9 readable, 0 unreadable; from 4 x 3 to 8 x 6 pixels",
    ]
    assert said[-1] == f"  tiny-imagenet/val_9: {check.REPEATED}" and "a run refuses the whole set" in check.REPEATED
    drawn = np.asarray(check.sheet(pairs, table)).astype(int)[165:227]  # under the first eight thumbnails
    red = (drawn[..., 0] - drawn[..., 2] > 60).reshape(62, 8, 160).any(axis=(0, 2))
    assert list(red) == [False, False, True, True] + [False] * 4


def test_tiny_imagenet_without_a_word_or_without_val(tmp_path):
    tiny_imagenet(tmp_path, False)
    (tmp_path / "words.txt").write_text("n01\tgoldfish\n")
    with pytest.raises(data.DataError, match="words.txt has no line for n02"):
        data.load(tmp_path)
    (tmp_path / "val/val_annotations.txt").unlink()
    with pytest.raises(data.DataError, match="neither val/val_annotations.txt nor pictures"):
        data.load(tmp_path)


def test_karpathys_form_takes_the_test_part(tmp_path):
    picture(tmp_path / "val2014/b.png", 7)
    def say(*texts):
        return [{"raw": text, "tokens": text.split()} for text in texts]
    images = [
        {"filename": "a.png", "split": "train", "sentences": say("x")},
        {"filename": "b.png", "filepath": "val2014", "split": "test", "sentences": say("A dog.", "A cat.")},
    ]
    file = tmp_path / "dataset_coco.json"
    file.write_text(json.dumps({"dataset": "coco", "images": images}))
    pairs = data.load(file)
    assert (pairs.name, len(pairs), pairs[0].id) == ("coco", 1, "coco/0000")
    assert pairs[0].captions == ("A dog.", "A cat.") and reds(pairs) == [7]


def test_a_folder_with_captions_csv_is_named_after_itself(tmp_path):
    picture(tmp_path / "holiday/1.png", 5)
    write_csv(tmp_path / "holiday/captions.csv", ["image", "text", "split"], ["1.png", "a beach", "val"])
    for path in (tmp_path / "holiday", tmp_path / "holiday/captions.csv"):
        pairs = data.load(path)
        assert (pairs.name, pairs[0].id, pairs[0].text) == ("holiday", "holiday/0000", "a beach")


def test_masks_and_boxes_of_a_csv(tmp_path):
    picture(tmp_path / "1.png")
    labels = np.zeros((6, 8), np.uint8)
    labels[0, :3], labels[5] = 1, 2
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.fromarray(labels > 0).save(tmp_path / "bit.png")
    Image.new("L", (3, 3)).save(tmp_path / "small.png")
    rows = [["image", "text", "mask", "objects", "boxes"]]
    rows += [["1.png", "a cat and a dog", "labels.png", "cat dog", ""], ["1.png", "a cat", "bit.png", "", ""]]
    rows += [["1.png", "a cat", "", "", "[[0, 0, 2, 1], [7.0, 4, 8, 6]]"], ["1.png", "a cat", "", "", "0 0 9 1"]]
    rows += [
        ["1.png", "a cat", "", "", "1 2 3"],
        ["1.png", "a cat", "small.png", "", ""],
        ["1.png", "a cat", "", "", ""],
    ]
    pairs = data.load(write_csv(tmp_path / "pairs.csv", *rows))
    assert pairs[0].words == {1: "cat", 4: "dog"}
    assert {name: int(mask.sum()) for name, mask in pairs[0].masks.items()} == {"cat": 3, "dog": 8}
    twins = data.load(write_csv(tmp_path / "twins.csv", rows[0], ["1.png", "a dog", "labels.png", "dog dog", ""]))
    assert {name: int(mask.sum()) for name, mask in twins[0].masks.items()} == {"dog": 3 + 8}
    assert np.array_equal(pairs[1].masks["object"], labels > 0)
    boxed = pairs[2].masks["object"]
    assert boxed.sum() == 4 and boxed[0, :2].all() and boxed[4:, 7].all()
    for k, message in [
        (3, "row 4: the box 0 0 9 1 is not inside its picture of 8 x 6"),
        (4, "four numbers each"),
        (5, "3 x 3"),
    ]:
        with pytest.raises(data.DataError, match=message):
            _ = pairs[k].masks
    assert pairs[6].masks == {}


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("a.csv", "file,caption\na.png,b", "has no column for a picture, image or file_path or .*, only file, caption"),
        ("a.csv", "image,words\na.png,b", "has no column for a text, text or caption or .*, only image, words"),
        ("a.csv", "", "only none"),
        ("a.csv", "image,text\nok.png,b\n../a.png,b", "row 2 names '../a.png', outside its own folder"),
        ("a.csv", "image,text\nx/../../a.png,b", "outside its own folder"),
        ("a.csv", "image,text\n/a.png,b", "row 1 names '/a.png', outside"),
        ("a.csv", "image,text,mask\na.png,b,../m.png", "row 1 names '../m.png', outside"),
        ("a.csv", b"image,text\n\x81,b", "line 2 is neither UTF-8 nor Windows' cp1252; save it as UTF-8"),
        (
            "a.csv",
            "image,text\nok.png,b\na.png,a cat, a dog",
            'row 2 has 3 cells, the head 2; put captions with commas in "quotes"',
        ),
        ("a.csv", "image,text,text\na.png,b,c", "has 2 columns of one name, text, text; leave one of each"),
        (
            "a.csv",
            'image,text\na.png,"a cat\nb.png,a dog\n',
            "behind line 1: unexpected end of data; close every quote",
        ),
        ("a.json", '[{"image": "../a.png", "caption": "b"}]', "entry 1 names '../a.png', outside"),
        (
            "a.json",
            '{"images": [{"filename": "a.png", "filepath": "/etc", "caption": "a"}]}',
            "entry 1 names '/etc/a.png', outside",
        ),
        ("a.json", "[1", "cannot be read as JSON"),
        ("a.json", "[1]", "is neither a list of"),
        ("a.json", "[" * 100_000, "cannot be read as JSON"),
        ("a.json", '[{"image": "a.png", "caption": 5}]', "a.json: entry 1: a caption is 5, not a string"),
        ("a.json", '[{"image": "a.png", "caption": "a"}, {"caption": ["a", 0]}]', "entry 2: a caption is 0, not"),
        ("a.json", '[{"image": "a.png", "caption": {"raw": "a"}}]', "entry 1: a caption is {'raw': 'a'}, not a string"),
        (
            "a.json",
            '[{"image": "a.png", "sentences": ["a"]}]',
            'entry 1: "sentences" is not a list of {"raw": caption}',
        ),
        ("a.json", '[{"image": "a.png", "sentences": {"raw": "a"}}]', '"sentences" is not a list'),
        ("a.json", '[{"image": "a.png", "sentences": [{"raw": ["a"]}]}]', "a caption is \\['a'\\], not a string"),
        ("a.json", '[{"image": ["a.png"], "caption": "a"}]', "entry 1: \"image\" is \\['a.png'\\], not a string"),
        ("a.json", '[{"filename": 5, "caption": "a"}]', 'entry 1: "filename" is 5'),
        ("a.json", '{"dataset": 5, "images": []}', 'a.json: "dataset" is 5'),
        ("a.doc", "a", "is neither a folder nor a list of pairs: .csv, .tsv, .txt, .jsonl, .ndjson, .json, .tar"),
    ],
)
def test_a_bad_list_is_refused_before_work_starts(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(data.DataError, match=message):
        data.load(tmp_path / file)


def test_captions_with_commas_quotes_and_lines_are_read_whole(tmp_path):
    (tmp_path / "a.csv").write_text(
        'image,text,,\na.png,"a ""big"" cat, a dog\nand a cow",,\na.png,a "big" cat,,\na.png\n'
    )
    assert [p.text for p in data.load(tmp_path / "a.csv")] == ['a "big" cat, a dog\nand a cow', 'a "big" cat', ""]


def test_a_csv_that_loses_nothing_is_read(tmp_path):
    """Empty cells beyond the head, columns that nobody reads, a space before a quote."""
    (tmp_path / "a.csv").write_text('image, text,x,x\na.png, "a cat, a dog",1,2,\na.png,a cow,,,\n')
    assert [p.text for p in data.load(tmp_path / "a.csv")] == ["a cat, a dog", "a cow"]


def test_an_empty_caption_gives_way_to_sentences(tmp_path):
    (tmp_path / "a.json").write_text('[{"filename": "a.png", "caption": "", "sentences": [{"raw": "a cow"}]}]')
    assert [p.text for p in data.load(tmp_path / "a.json")] == ["a cow"]


def test_null_in_a_json_list_is_as_not_there(tmp_path):
    picture(tmp_path / "a.png", 4)
    entries = [
        {"filename": "a.png", "filepath": None, "image": None, "caption": ["a cat", None, "a dog"], "split": None}
    ]
    entries += [{"image": "a.png", "caption": None, "sentences": None}]
    entries += [{"image": "a.png", "sentences": [{"raw": None}, {"raw": "a cow"}]}]
    (tmp_path / "a.json").write_text(json.dumps({"dataset": None, "images": entries}))
    pairs = data.load(tmp_path / "a.json")
    assert [(p.text, p.captions) for p in pairs] == [("a cat", ("a cat", "a dog")), ("", ()), ("a cow", ())]
    assert reds(pairs) == [4, 4, 4] and pairs[0].id == "a/0000"


def test_an_annotation_that_leaves_the_folder(tmp_path):
    tiny_imagenet(tmp_path, False)
    (tmp_path / "val/val_annotations.txt").write_text("../../../a.JPEG\tn01\n")
    with pytest.raises(data.DataError, match="outside its own folder"):
        data.load(tmp_path)


def test_a_linked_folder_and_a_roundabout_path_stay_inside(tmp_path):
    picture(tmp_path / "disk/1.png", 3)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/pictures").symlink_to(tmp_path / "disk")
    rows = [
        ["image", "text"],
        ["pictures/1.png", "a"],
        ["pictures/../pictures/1.png", "b"],
        [str(tmp_path / "set/pictures/1.png"), "c"],
    ]
    assert reds(data.load(write_csv(tmp_path / "set/a.csv", *rows))) == [3, 3, 3]


def test_no_such_dataset(tmp_path):
    with pytest.raises(ValueError, match="none.csv' is not known; there are scenes-objects"):
        data.load(tmp_path / "none.csv")
    with pytest.raises(
        data.DataError,
        match=r"holds none of captions.csv, metadata.csv, .*, en_val.json, words.txt, \*.tar: it is not a dataset",
    ):
        data.load(tmp_path)


def test_a_name_too_long_for_a_file_costs_its_own_pair_alone(tmp_path):
    picture(tmp_path / "a.png", 3)
    pairs = data.load(
        write_csv(tmp_path / "a.csv", ["image", "text"], ["x" * 300 + ".png", "a cat"], ["a.png", "a dog"])
    )
    assert reds(pairs[1:]) == [3]
    with pytest.raises(data.DataError, match="x.png cannot be read as a picture: File name too long"):
        _ = pairs[0].image
    with pytest.raises(ValueError, match="xx' is not known"):
        data.load("x" * 300)


def test_discover_finds_the_papers_sets_one_folder_down(tmp_path):
    (tmp_path / "tiny-imagenet-200").mkdir()
    for file in ("cc.csv", "flickr/en_val.json", "rs/rsicd.csv", "other.csv"):
        write_csv(tmp_path / file, ["image", "text"])
    found = data.discover(tmp_path)
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        "conceptual_captions": "cc.csv",
        "tiny-imagenet": "tiny-imagenet-200",
        "flickr8k": "flickr/en_val.json",
        "rsicd": "rs/rsicd.csv",
    }
    assert list(data.discover(tmp_path / "tiny-imagenet-200")) == ["tiny-imagenet"]
    with pytest.raises(
        data.DataError, match=r"not a dataset; in it are \S+/cc.csv \(conceptual_captions\), .*: give one of them"
    ):
        data.load(tmp_path)
    write_csv(tmp_path / "sets/train/metadata.csv", ["image", "text"])
    with pytest.raises(data.DataError, match="it is not a dataset; in it are \\S+/sets/train: give one of them"):
        data.load(tmp_path / "sets")
    with pytest.raises(data.DataError, match="give a file in it, or write captions.csv"):
        data.load(tmp_path / "tiny-imagenet-200")
    write_csv(tmp_path / "more/cc.csv", ["image", "text"])
    with pytest.raises(ValueError, match="could both be conceptual_captions"):
        data.discover(tmp_path)
    (tmp_path / "disk").mkdir()
    assert data.discover(tmp_path / "disk") == {}


# --- several captions --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several():
    """Pairs with the captions of all, the picture that cannot be read among them, in a set larger than a batch of
    32.
    """
    singles = list(data.load("scenes-objects")[:34])
    captions = ("a photo of a dog", "a photo of a cat", "", "dog " * 90, "a photo of a bus")

    def broken():
        raise data.DataError("gone")

    pairs = [data.Pair(p.id, captions[0], p.read_image, captions=captions) for p in singles]
    pairs[0] = data.Pair("broken", captions[0], broken, captions=captions)
    return singles, data.PairDataset("several", pairs)


def best(clip, pair, captions=("a photo of a dog", "a photo of a cat", "a photo of a bus")):
    return captions[int(clip.similarity([pair.image] * len(captions), list(captions)).argmax())]


def test_a_pair_gets_the_caption_most_similar_to_its_own_picture(scenes, several):
    singles, pairs = several
    chosen = pairs.resolve(scenes)
    assert [p.text for p in chosen[1:]] == [best(scenes, p) for p in singles[1:]]
    assert len({p.text for p in chosen}) == 3
    assert all(p.captions == () for p in chosen) and [p.id for p in chosen] == [p.id for p in pairs]
    assert chosen[0].text == "a photo of a dog"
    assert list(chosen.resolve(scenes)) == list(chosen)


def test_as_published_the_first_picture_of_32_chooses_for_all(scenes, several):
    singles, pairs = several
    texts = [p.text for p in pairs.resolve(scenes, "paper")]
    assert texts == [best(scenes, singles[1])] * 32 + [best(scenes, singles[32])] * 2
    assert texts != [p.text for p in pairs.resolve(scenes)]
    with pytest.raises(ValueError, match="protocol='mine' is not one of: paper, corrected"):
        pairs.resolve(scenes, "mine")


def test_a_pair_with_one_caption_is_left_alone(scenes):
    pairs = data.load("scenes-objects")[:3]
    assert list(pairs.resolve(None)) == list(pairs)


def test_figures_pass_over_pairs_that_cannot_be_used():
    clip, good = models.load("scenes"), data.load("scenes-captions")[:2]

    def broken():
        raise data.DataError("gone.png cannot be read")

    gone, long = data.Pair("gone", "a dog", broken), data.Pair("long", "dog " * 100, good[0].read_image)
    mixed = data.PairDataset("x", [gone, good[0], long, good[1]])
    assert [pair.id for pair in mixed.usable(clip, 1)] == [good[0].id]
    assert [pair.id for pair in mixed.usable(clip, 9)] == [pair.id for pair in good]
