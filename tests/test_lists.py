"""Lists as people bring them: tables of every separator, COCO, LLaVA, lines of JSON, archives, other encodings."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from test_data import picture

from nibkit import data


def shown(pairs):
    """What a list was read as: (caption, all captions, red of the picture's first pixel)."""
    return [(p.text, p.captions, p.image.getpixel((0, 0))[0]) for p in pairs]


@pytest.fixture
def two(tmp_path):
    """1.png and 2.png, of red 10 and 20."""
    for k in (1, 2):
        picture(tmp_path / f"{k}.png", 10 * k)
    return tmp_path


BOTH = [("a cat, a dog", (), 10), ("a cow", (), 20)]


@pytest.mark.parametrize(
    "file, content",
    [
        ("a.csv", 'image,text\n1.png,"a cat, a dog"\n2.png,a cow\n'),
        ("a.csv", 'Image,Caption\n1.png,"a cat, a dog"\n2.png,a cow\n'),
        ("a.csv", "filepath\ttitle\n1.png\ta cat, a dog\n2.png\ta cow\n"),  # open_clip's
        ("a.tsv", "FILE_NAME\ttext\n1.png\ta cat, a dog\n2.png\ta cow\n"),
        ("a.csv", "id;filename;caption\n7;1.png;a cat, a dog\n8;2.png;a cow\n"),
        ("a.csv", "image_name| comment_number| comment\n1.png| 0| a cat, a dog\n2.png| 0| a cow\n"),
        ("a.txt", "image\ttext\r\n1.png\ta cat, a dog\r\n2.png\ta cow\r\n"),
        ("a.jsonl", '{"file_name": "1.png", "text": "a cat, a dog"}\n\n{"file_name": "2.png", "text": "a cow"}'),
        (
            "a.JSONL",
            '{"Image": "1.png", "Caption": "a cat, a dog", "n": 1}\r\n{"Image": "2.png", "Caption": "a cow"}\r\n',
        ),
        ("a.json", '[{"file_name": "1.png", "text": "a cat, a dog"}, {"file_name": "2.png", "text": "a cow"}]'),
        (
            "a.json",
            '[{"filepath": "1.png", "title": "a cat, a dog"}, '
            '{"filename": "2.png", "filepath": "./2.png", "title": "a cow"}]',
        ),
    ],
)
def test_separators_and_names_of_columns(two, file, content):
    (two / file).write_text(content)
    assert shown(data.load(two / file)) == BOTH


def test_a_caption_of_json_may_hold_the_sign_of_a_line(two):
    (two / "a.jsonl").write_text('{"image": "1.png", "text": "a\u2028cat"}\n', encoding="utf-8")
    assert shown(data.load(two / "a.jsonl")) == [("a\u2028cat", (), 10)]


def test_kaggles_captions_of_one_picture_are_one_pair(two):
    (two / "Images").mkdir()
    (two / "1.png").rename(two / "Images/1.png")
    content = 'image,caption\n1.png,"a cat, a dog"\n1.png,a pet\n2.png,a cow\n1.png,once more\n'
    (two / "captions.txt").write_text(content)
    for path in (two, two / "captions.txt"):
        found = [("a cat, a dog", ("a cat, a dog", "a pet"), 10), ("a cow", (), 20), ("once more", (), 10)]
        assert shown(data.load(path)) == found and data.load(path).name == two.name
    (two / "other.csv").write_text(content)
    assert [p.text for p in data.load(two / "other.csv")] == ["a cat, a dog", "a pet", "a cow", "once more"]


@pytest.mark.parametrize("place", ["val2017", "annotations", "", "images"])
def test_coco(tmp_path, place):
    for k in (1, 2):
        picture(tmp_path / place / f"{k:012}.png", 10 * k)
    images = [
        {"id": 5, "file_name": "000000000001.png", "height": 6},
        {"id": 9, "file_name": "000000000002.png", "height": 6},
    ]
    notes = [(9, "a cow"), (5, "a cat"), (5, "a dog")]
    notes = [{"image_id": image, "id": k, "caption": caption} for k, (image, caption) in enumerate(notes)]
    file = tmp_path / "annotations/captions_val2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    pairs = data.load(file)
    assert shown(pairs) == [("a cat", ("a cat", "a dog"), 10), ("a cow", (), 20)]
    assert (pairs.name, pairs[1].id) == ("captions_val2017", "captions_val2017/0001")


def llava(*turns):
    names = ("human", "gpt", "human", "gpt")
    return [{"id": "1", "image": "1.png", "conversations": [{"from": n, "value": v} for n, v in zip(names, turns)]}]


def test_an_answer_of_llava(two):
    (two / "a.json").write_text(json.dumps(llava("Describe it.\n<image>", "a cat")))
    assert shown(data.load(two / "a.json")) == [("a cat", (), 10)]


@pytest.mark.parametrize(
    "content, message",
    [
        (llava("What?", "a cat", "And?", "a dog"), 'entry 1: "conversations" is not one question and one answer'),
        ({"images": [{"id": 1, "file_name": "1.png"}]}, "no key for a text, text or caption or .*, only id, file_name"),
        (
            {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]},
            "hold no captions; take",
        ),
        (
            {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 2, "caption": "a"}]},
            "annotation 1 is of the image 2",
        ),
        (
            {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": 5}]},
            "a caption is 5, not a string",
        ),
        (
            [{"url": "http://a/1.png", "text": "a cat"}],
            "a.json has no key for a picture, image or file_path or .*, only url, text",
        ),
        ({"1.png": "a cat"}, "neither a list of"),
        (
            [{"image": "1.png", "text": "a", "mask": "m.png", "objects": [1]}],
            '"objects" is \\[1\\]; give names with spaces',
        ),
        ([{"image": "..\\..\\1.png", "text": "a cat"}], "names '....................1.png', outside its own folder"),
    ],
)
def test_json_that_is_no_list_of_pairs_is_refused(two, content, message):
    (two / "a.json").write_text(json.dumps(content))
    with pytest.raises(data.DataError, match=message.replace("....................", r".{8,12}")):
        data.load(two / "a.json")


@pytest.mark.parametrize(
    "line, message",
    [
        ("[1]", "a.jsonl: line 2 is not an object such as"),
        ('{"a": ', "line 2 cannot be read as JSON"),
        ("\0", "line 2 cannot be"),
    ],
)
def test_a_bad_line_is_named(two, line, message):
    (two / "a.jsonl").write_text('{"image": "1.png", "text": "a cat"}\n' + line)
    with pytest.raises(data.DataError, match=message):
        data.load(two / "a.jsonl")


def test_masks_and_boxes_in_any_list(two):
    Image.fromarray(np.uint8([[1, 1, 2, 0, 0, 0, 0, 0]] + [[0] * 8] * 5)).save(two / "m.png")
    Image.fromarray(np.uint16([[300, 1] + [0] * 6] + [[0] * 8] * 5)).save(two / "m16.png")
    lines = [{"image": "1.png", "text": "a cat and a dog", "mask": "m.png", "objects": ["cat", "dog"]}]
    lines += [{"image": "1.png", "text": "a cat", "mask": "m16.png", "objects": "cat"}]
    lines += [
        {"image": "1.png", "text": "a cat", "boxes": [[0, 0, 2, 1e0], [7.0, 4, 8, 6]], "objects": [{"another's": 1}]}
    ]
    (two / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pairs = data.load(two / "a.jsonl")
    assert [{name: int(mask.sum()) for name, mask in p.masks.items()} for p in pairs] == [
        {"cat": 2, "dog": 1},
        {"cat": 1},
        {"object": 4},
    ]
    assert pairs[0].words == {1: "cat", 4: "dog"} and pairs[2].words == {}


@pytest.mark.parametrize(
    "cell, pixels",
    [
        ("0 0 2 1", 2),
        ("1e0 .4 +2 1.", 1),
        ("[[0,0,2,1];(7 4 8 6)]", 4),
        ("-1 0 2 1", None),
        ("0 0 2 1 5", None),
        ("a1 0 2 1 2", None),
        ("nan 0 0 2 1", None),
        ("9" * 5000 + " 0 1 1", None),
        ("0 0 1 " + "9" * 5000, None),
        ("9" * 5000, None),
        ("", 0),
    ],
)
def test_numbers_of_boxes(two, cell, pixels):
    (two / "a.csv").write_text(f'image,text,boxes\n1.png,a cat,"{cell}"\n')
    (pair,) = data.load(two / "a.csv")
    if pixels is None:
        with pytest.raises(
            data.DataError, match=r"a\.csv: row 1: .{,90}(is not boxes|is not inside its picture of 8 x 6)"
        ):
            _ = pair.masks
    else:
        assert sum(int(mask.sum()) for mask in pair.masks.values()) == pixels


def test_windows_back_slashes(tmp_path):
    picture(tmp_path / "train/1.png", 10)
    picture(tmp_path / "images/sub/2.png", 20)
    picture(tmp_path / "train\\3.png", 30)  # a name that Linux allows is taken at its word
    (tmp_path / "a.csv").write_text(
        "image,text,mask\ntrain\\1.png,a,train\\1.png\nsub\\2.png,b,\ntrain\\3.png,c,\nC:\\x\\4.png,d,\n"
    )
    pairs = data.load(tmp_path / "a.csv")
    assert shown(pairs[:3]) == [("a", (), 10), ("b", (), 20), ("c", (), 30)]
    assert pairs[0].masks["object"].all()
    with pytest.raises(data.DataError, match="No such file"):
        _ = pairs[3].image


LETTERS = "image,text\n1.png,ein Café\n"


@pytest.mark.parametrize(
    "encoding, said",
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", None),
        ("utf-32", None),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("cp1252", "cp1252"),
    ],
)
def test_encodings(two, recwarn, encoding, said):
    (two / "a.csv").write_bytes(LETTERS.encode(encoding))
    assert shown(data.load(two / "a.csv")) == [("ein Café", (), 10)]
    assert [str(w.message) for w in recwarn if w.category is UserWarning] == (
        [f"{two / 'a.csv'} is not UTF-8 and is read as {said}; if letters come out wrong, save it as UTF-8"]
        if said
        else []
    )


def test_damaged_utf8_is_not_taken_for_another_encoding(two):
    (two / "a.csv").write_bytes(LETTERS.encode() + b"1.png,caf\xe9\n")
    with pytest.raises(data.DataError, match="a.csv cannot be read: it is UTF-8 but for line 3 .*; save it as UTF-8"):
        data.load(two / "a.csv")
    (two / "a.csv").write_bytes(LETTERS.encode("utf-16") + b"\n")
    with pytest.raises(data.DataError, match="it is utf-16 but for line"):
        data.load(two / "a.csv")


def test_a_caption_of_any_length_is_read(two):
    (two / "a.csv").write_text(f"image,text\n1.png,{'x' * 200_000}\n")
    assert len(data.load(two / "a.csv")[0].text) == 200_000


def test_a_pipe_is_not_waited_for(two):
    os.mkfifo(two / "a.csv")
    os.mkfifo(two / "pipe.png")
    with pytest.raises(data.DataError, match="a.csv cannot be read: it is a folder, a pipe or a device"):
        data.load(two / "a.csv")
    (two / "b.csv").write_text("image,text\npipe.png,a cat\n")
    with pytest.raises(data.DataError, match="pipe.png cannot be read as a picture: it is a pipe or a device"):
        _ = data.load(two / "b.csv")[0].image


def test_names_on_disk_that_no_file_of_rows_could_hold(tmp_path):
    """A folder's name may hold any byte and a line break; ids are one line of UTF-8."""
    folder = tmp_path / os.fsdecode(b"two\nlines \xff")
    picture(folder / "1.png", 10)
    (folder / "captions.csv").write_text("image,text\n1.png,a cat\n")
    (pair,) = data.load(folder)
    assert pair.id == r"two lines \udcff/0000" and shown([pair]) == [("a cat", (), 10)]
