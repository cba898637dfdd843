"""nibkit.data: the bundled sets, the layouts on disk, the hub, and what becomes of broken pictures."""

import csv
import json
import pickle

import datasets as hugging_face
import numpy as np
import pytest
import torch
from PIL import Image

from nibkit import data
from nibkit.data import check, hub, pictures
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
    assert said[:2] == ["tiny: 9 pairs, 7 can be scored", "pictures: 9 readable, 0 unreadable; from 4 x 3 to 8 x 6 pixels"]
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
    say = lambda *texts: [{"raw": text, "tokens": text.split()} for text in texts]  # noqa: E731
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
    rows += [["1.png", "a cat", "", "", "1 2 3"], ["1.png", "a cat", "small.png", "", ""], ["1.png", "a cat", "", "", ""]]
    pairs = data.load(write_csv(tmp_path / "pairs.csv", *rows))
    assert pairs[0].words == {1: "cat", 4: "dog"}
    assert {name: int(mask.sum()) for name, mask in pairs[0].masks.items()} == {"cat": 3, "dog": 8}
    twins = data.load(write_csv(tmp_path / "twins.csv", rows[0], ["1.png", "a dog", "labels.png", "dog dog", ""]))
    assert {name: int(mask.sum()) for name, mask in twins[0].masks.items()} == {"dog": 3 + 8}
    assert np.array_equal(pairs[1].masks["object"], labels > 0)
    boxed = pairs[2].masks["object"]
    assert boxed.sum() == 4 and boxed[0, :2].all() and boxed[4:, 7].all()
    for k, message in [(3, "row 4: the box 0 0 9 1 is not inside its picture of 8 x 6"), (4, "four numbers each"), (5, "3 x 3")]:
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
        ("a.csv", "image,text\nok.png,b\na.png,a cat, a dog", 'row 2 has 3 cells, the head 2; put captions with commas in "quotes"'),
        ("a.csv", "image,text,text\na.png,b,c", "has 2 columns of one name, text, text; leave one of each"),
        ("a.csv", 'image,text\na.png,"a cat\nb.png,a dog\n', "behind line 1: unexpected end of data; close every quote"),
        ("a.json", '[{"image": "../a.png", "caption": "b"}]', "entry 1 names '../a.png', outside"),
        ("a.json", '{"images": [{"filename": "a.png", "filepath": "/etc", "caption": "a"}]}', "entry 1 names '/etc/a.png', outside"),
        ("a.json", "[1", "cannot be read as JSON"),
        ("a.json", "[1]", "is neither a list of"),
        ("a.json", "[" * 100_000, "cannot be read as JSON"),
        ("a.json", '[{"image": "a.png", "caption": 5}]', "a.json: entry 1: a caption is 5, not a string"),
        ("a.json", '[{"image": "a.png", "caption": "a"}, {"caption": ["a", 0]}]', "entry 2: a caption is 0, not"),
        ("a.json", '[{"image": "a.png", "caption": {"raw": "a"}}]', 'entry 1: a caption is {\'raw\': \'a\'}, not a string'),
        ("a.json", '[{"image": "a.png", "sentences": ["a"]}]', 'entry 1: "sentences" is not a list of {"raw": caption}'),
        ("a.json", '[{"image": "a.png", "sentences": {"raw": "a"}}]', '"sentences" is not a list'),
        ("a.json", '[{"image": "a.png", "sentences": [{"raw": ["a"]}]}]', 'a caption is \\[\'a\'\\], not a string'),
        ("a.json", '[{"image": ["a.png"], "caption": "a"}]', 'entry 1: "image" is \\[\'a.png\'\\], not a string'),
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
    (tmp_path / "a.csv").write_text('image,text,,\na.png,"a ""big"" cat, a dog\nand a cow",,\na.png,a "big" cat,,\na.png\n')
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
    entries = [{"filename": "a.png", "filepath": None, "image": None, "caption": ["a cat", None, "a dog"], "split": None}]
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
    rows = [["image", "text"], ["pictures/1.png", "a"], ["pictures/../pictures/1.png", "b"], [str(tmp_path / "set/pictures/1.png"), "c"]]
    assert reds(data.load(write_csv(tmp_path / "set/a.csv", *rows))) == [3, 3, 3]


def test_no_such_dataset(tmp_path):
    with pytest.raises(ValueError, match="none.csv' is not known; there are scenes-objects"):
        data.load(tmp_path / "none.csv")
    with pytest.raises(data.DataError, match=r"holds none of captions.csv, metadata.csv, .*, en_val.json, words.txt, \*.tar: it is not a dataset"):
        data.load(tmp_path)


def test_a_name_too_long_for_a_file_costs_its_own_pair_alone(tmp_path):
    picture(tmp_path / "a.png", 3)
    pairs = data.load(write_csv(tmp_path / "a.csv", ["image", "text"], ["x" * 300 + ".png", "a cat"], ["a.png", "a dog"]))
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
    with pytest.raises(data.DataError, match=r"not a dataset; in it are \S+/cc.csv \(conceptual_captions\), .*: give one of them"):
        data.load(tmp_path)
    with pytest.raises(data.DataError, match="give a file in it, or write captions.csv"):
        data.load(tmp_path / "tiny-imagenet-200")
    write_csv(tmp_path / "more/cc.csv", ["image", "text"])
    with pytest.raises(ValueError, match="could both be conceptual_captions"):
        data.discover(tmp_path)
    (tmp_path / "disk").mkdir()
    with pytest.raises(ValueError, match="hold none of cc.csv, tiny-imagenet-200, en_val.json"):
        data.discover(tmp_path / "disk")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        data.discover(tmp_path / "nowhere")


# --- several captions --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several():
    """Pairs with the captions of all, the picture that cannot be read among them, in a set larger than a batch of 32."""
    singles = [p for p in data.load("scenes-objects")[:34]]
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


# --- pictures ----------------------------------------------------------------------------------------------------


def saved(tmp_path, image, name, **how):
    image.save(tmp_path / name, **how)
    return pictures.read(tmp_path / name)


def test_every_mode_becomes_upright_rgb(tmp_path):
    red = Image.new("RGB", (8, 6), (250, 0, 0))
    red.paste((0, 0, 250), (0, 0, 4, 3))  # blue in the upper left
    cmyk = saved(tmp_path, red.convert("CMYK"), "cmyk.tiff")
    assert cmyk.mode == "RGB" and cmyk.getpixel((7, 5)) == (250, 0, 0)
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was turned: show a quarter turn clockwise
    turned = saved(tmp_path, red, "turned.png", exif=exif)
    assert turned.size == (6, 8) and turned.getpixel((5, 0)) == (0, 0, 250) and turned.getpixel((0, 0)) == (250, 0, 0)
    palette = saved(tmp_path, red.quantize(2), "palette.png")
    assert palette.mode == "RGB" and palette.getpixel((7, 5)) == (250, 0, 0)
    grey16 = np.array([[0, 257, 25700, 65535]], np.uint16)
    assert [p[0] for p in np.asarray(saved(tmp_path, Image.fromarray(grey16), "16.png"))[0]] == [0, 1, 100, 255]
    (tmp_path / "16.pgm").write_bytes(b"P5 4 1 65535\n" + grey16.astype(">u2").tobytes())
    assert [p[0] for p in np.asarray(pictures.read(tmp_path / "16.pgm"))[0]] == [0, 1, 100, 255]
    assert saved(tmp_path, Image.new("1", (1, 1), 1), "one.png").getpixel((0, 0)) == (255, 255, 255)
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (100, 0, 0, 255))
    assert [saved(tmp_path, clear, "clear.png").getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (100, 0, 0)]
    moving = saved(tmp_path, red, "moving.gif", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    assert moving.size == (8, 6) and moving.getpixel((7, 5)) == (250, 0, 0)


def test_a_picture_opened_by_hand_is_treated_like_its_file(tmp_path, scenes):
    """Turned by EXIF, 16 bits, with a hidden colour, of a palette, CMYK, and plain: the model gets the same pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    red, exif, alpha = Image.fromarray(noise), Image.Exif(), np.zeros((40, 60, 1), np.uint8)
    exif[0x112] = 6
    red.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(np.concatenate([noise, alpha], axis=2)).save(tmp_path / "clear.png")
    red.quantize(4).save(tmp_path / "palette.png", transparency=0)
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.save(tmp_path / "plain.png")
    files = sorted(tmp_path.iterdir())
    by_hand = [Image.open(file) for file in files]
    before = [(image.mode, image.size, image.tobytes()) for image in by_hand]
    got = scenes.preprocess(by_hand)
    assert torch.equal(got, scenes.preprocess([pictures.read(file) for file in files]))
    assert [(image.mode, image.size, image.tobytes()) for image in by_hand] == before
    assert torch.equal(got[files.index(tmp_path / "plain.png")], scenes._transform(red))
    for image, message in [(Image.new("F", (2, 2)), "mode F"), (Image.new("RGB", (1, 300)), "the picture is 1 x 300; one side")]:
        with pytest.raises(data.DataError, match=message):
            scenes.preprocess(image)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "it is in none of the formats JPEG, MPO, PNG"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: Image.new("F", (2, 2)).save(path, "TIFF"), r"mode F\) have no known range"),
        (lambda path: Image.new("I", (2, 2), 70000).save(path, "TIFF"), r"mode I\) have no known range"),
        (lambda path: Image.new("I", (2, 2), 200).save(path, "TIFF"), r"mode I\) have no known range"),  # not black
        (lambda path: Image.new("1", (10000, 10000)).save(path, "PNG"), "too large, 89,478,485 pixels are the limit"),
        (lambda path: Image.new("L", (2, 201)).save(path, "PNG"), "is 2 x 201; one side may be at most 100 times the other"),
    ],
)
def test_a_picture_that_cannot_be_used_says_why(tmp_path, make, message):
    make(tmp_path / "p.png")
    with pytest.raises(data.DataError, match=rf"p\.png .*{message}"):
        pictures.read(tmp_path / "p.png")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(rows.csv) (w) file closefile\nshowpage\n"


def test_a_picture_that_is_a_program_is_not_run(tmp_path, monkeypatch, scenes):
    """Whatever its name: Pillow hands EPS to Ghostscript, which writes files. Nor where a caller opened it by hand."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript runs"))
    (tmp_path / "a.jpg").write_bytes(EPS)
    by_hand = Image.open(tmp_path / "a.jpg")
    assert by_hand.format == "EPS"
    (tmp_path / "a.csv").write_text("image,text,mask\na.jpg,a cat,a.jpg\n")
    pair = data.load(tmp_path / "a.csv")[0]
    for read in (lambda: pair.image, lambda: pair.masks, lambda: pictures.read(EPS, "a.jpg"), lambda: scenes.preprocess(by_hand)):
        with pytest.raises(data.DataError, match="none of the formats JPEG, MPO, PNG"):
            read()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_a_picture_of_each_format_that_is_read(tmp_path, name):
    Image.new("RGB", (20, 10), (250, 0, 0)).save(tmp_path / "a.file", name)
    image = pictures.read(tmp_path / "a.file")
    assert image.size == (20, 10) and image.getpixel((5, 5))[0] > 240 and max(image.getpixel((5, 5))[1:]) < 20


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels(scenes, size):
    with pytest.raises(data.DataError, match=f"the picture is {size[0]} x {size[1]}: it has no pixels"):
        scenes.preprocess(Image.new("RGB", size))


def test_a_picture_cut_short(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "p.jpg")
    (tmp_path / "p.jpg").write_bytes((tmp_path / "p.jpg").read_bytes()[:2000])
    with pytest.raises(data.DataError, match="p.jpg cannot be read as a picture: image file is truncated"):
        pictures.read(tmp_path / "p.jpg")


# --- the hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A folder such as the hub would deliver: pictures, captions in five columns and in lists, a class of WordNet."""
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=["n01443537", "bus_stop"])}
    columns = {"image": [Image.new("RGB", (4, 4), (k, 0, 0)) for k in range(6)], "label": [0, 1, 0, 0, 1, 0]}
    columns |= {f"caption_{c}": [f"row {k}, caption {c}" for k in range(6)] for c in (0, 1)}
    columns["captions"] = [[f"a{k}", f"b{k}"] for k in range(6)]
    rows = hugging_face.Dataset.from_dict(columns)
    rows = rows.cast_column("image", features["image"]).cast_column("label", features["label"])
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set/test-00000.parquet")
    rows.save_to_disk(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize("folder, stream", [("set", ""), ("set", ",4"), ("saved", "")])
def test_a_set_of_the_hub_by_name_split_and_columns(parquet, folder, stream):
    pairs = data.load(f"hf:{parquet / folder},test,image,caption_0{stream}")
    assert (pairs.name, len(pairs)) == (folder, 4 if stream else 6)
    assert [p.text for p in pairs[:2]] == ["row 0, caption 0", "row 1, caption 0"] and pairs[0].captions == ()
    assert (pairs[3].id, reds(pairs)[:4]) == (f"{folder}/0003", [0, 1, 2, 3])
    assert reds([pickle.loads(pickle.dumps(pairs[2]))]) == [2]


@pytest.mark.parametrize("stream", ["", ",2"])
def test_an_imagefolder_as_the_library_reads_it(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for k in range(3):
        picture(tmp_path / f"set/train/{k}.png", 50 * k)
    write_csv(tmp_path / "set/train/metadata.csv", ["file_name", "text"], *([f"{k}.png", f"caption {k}"] for k in range(3)))
    pairs = data.load(f"hf:{tmp_path / 'set'},train,image,text{stream}")
    assert [p.text for p in pairs] == [f"caption {k}" for k in range(len(pairs))] and len(pairs) == (2 if stream else 3)
    assert reds(pairs) == [0, 50, 100][: len(pairs)]


def test_captions_in_columns_in_lists_and_from_classes(parquet):
    name = str(parquet / "set")
    assert data.load(f"hf:{name},test,image,caption_1+caption_0")[1].captions == ("row 1, caption 1", "row 1, caption 0")
    assert data.load(f"hf:{name},test,image,captions")[1].captions == ("a1", "b1")
    pairs = hub.fetch(name, "test", "image", "label", per_class=2)
    assert [(p.id, p.text) for p in pairs] == [
        ("set/0000", "a photo of a goldfish, Carassius auratus"),
        ("set/0001", "a photo of a bus stop"),
        ("set/0002", "a photo of a goldfish, Carassius auratus"),
        ("set/0004", "a photo of a bus stop"),
    ]
    assert reds(pairs) == [0, 1, 2, 4]


def test_a_preset_gives_the_dataset_its_own_name(parquet, monkeypatch):
    monkeypatch.setitem(hub.PRESETS, "flickr8k", hub.PRESETS["flickr8k"]._replace(name=str(parquet / "set"), text="captions"))
    pairs = data.load("hf:flickr8k")
    assert (pairs.name, pairs[0].id) == ("flickr8k", "flickr8k/0000")
    assert set(hub.PRESETS) == {"conceptual_captions", "tiny-imagenet", "flickr8k", "rsicd"}


def test_a_broken_picture_of_the_hub_raises_only_when_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cells = [{"bytes": b"<html>", "path": None}, None]
    rows = hugging_face.Dataset.from_dict({"image": cells, "text": ["a", "b"]}).cast_column("image", hugging_face.Image())
    rows.save_to_disk(tmp_path / "set")
    pairs = data.load(f"hf:{tmp_path / 'set'},train,image,text")
    for k, message in [(0, "set/0000 cannot be read as a picture: it is in none of the formats"), (1, "set/0001 has no picture")]:
        with pytest.raises(data.DataError, match=message):
            _ = pairs[k].image


def test_a_column_of_the_hub_that_holds_no_captions(tmp_path):
    columns = {"image": [Image.new("RGB", (4, 4))], "number": [5], "nested": [{"raw": "a cat"}], "none": [None]}
    hugging_face.Dataset.from_dict(columns).cast_column("image", hugging_face.Image()).save_to_disk(tmp_path / "set")
    for column, shown in (("number", "5"), ("nested", "{'raw': 'a cat'}")):
        with pytest.raises(data.DataError, match=f"set, {column}: a caption is {shown}, not a string"):
            data.load(f"hf:{tmp_path / 'set'},train,image,{column}")
    assert data.load(f"hf:{tmp_path / 'set'},train,image,none")[0].text == ""


def test_without_network_the_hubs_cache_is_used_and_nothing_is_waited_for(parquet, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    data.load(f"hf:{parquet / 'set'},test,image,captions")
    (parquet / "cache/set").rename(parquet / "cache/someone___set")  # as the hub's someone/set lies there
    pairs = data.load("hf:someone/set,test,image,captions")
    assert len(pairs) == 6 and reds(pairs[:2]) == [0, 1]
    with pytest.raises(data.DataError, match="could not be loaded .*; without network, load it once"):
        data.load("hf:someone/other,test,image,captions,3")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_what_the_hub_cannot_give_is_refused_with_a_way_out(parquet, monkeypatch):
    name = parquet / "set"
    with pytest.raises(data.DataError, match="no column 'photo', only image, label, caption_0"):
        data.load(f"hf:{name},test,photo,label")
    with pytest.raises(data.DataError, match="'caption_0' holds .*not pictures"):
        data.load(f"hf:{name},test,caption_0,label")
    with pytest.raises(data.DataError, match="split 'val', could not be loaded"):
        data.load(f"hf:{name},val,image,label")
    for wrong in ("flickr9k", "a,b,c", "a,b,c,d,many"):
        with pytest.raises(data.DataError, match=f"hf:{wrong} is neither one of conceptual_captions"):
            data.load(f"hf:{wrong}")

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hugging_face, "load_dataset", offline)
    with pytest.raises(data.DataError, match=r"no route to host\); without network, load it once .* copy FOLDER here and load"):
        data.load("hf:flickr8k")
