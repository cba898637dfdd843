"""python -m nibkit datasets: what there is, and whether a set can be scored."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from nibkit import __main__ as cli
from nibkit import data
from nibkit.data.check import check


@pytest.fixture
def folder(tmp_path):
    """One good pair, one in each kind of trouble, and captions that are odd but can be scored."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    (tmp_path / "zero.png").write_bytes(b"")
    Image.new("1", (60, 40), 1).save(tmp_path / "mask.png")
    Image.new("1", (6, 4), 1).save(tmp_path / "small.png")
    rows = [["image", "text", "mask"], ["good.png", "a dog", "mask.png"], ["zero.png", "a dog", ""]]
    rows += [["missing.png", "a dog", ""], ["", "a dog", ""], ["good.png", " ", ""], ["good.png", "dog " * 76, ""]]
    rows += [["good.png", "a dog", "small.png"], ["good.png", "<script>alert(1)</script> & собака", ""]]
    with open(tmp_path / "captions.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_the_list_names_all_that_can_be_loaded(capsys):
    assert cli.main(["datasets"]) == 0
    listed = capsys.readouterr().out
    elsewhere = ["cc.csv", "en_val.json", "tiny-imagenet-200/", "rsicd.csv", "hf:flickr8k", "hf:conceptual_captions"]
    for name in [*data.BUNDLED, *data.DRAWN, *elsewhere]:
        assert name in listed
    assert "scenes-world" in data.DRAWN and "aerial               96 pairs" in listed
    assert "scenes-objects       256 pairs" in listed


def test_a_row_for_every_pair(folder):
    table = check(data.load(folder))
    assert list(table.width.fillna(0)) == [60, 0, 0, 0, 60, 60, 60, 60]
    assert list(table.tokens.iloc[[0, 4, 5]]) == [4, 2, 78]
    assert list(table.masks) == [1, 0, 0, 0, 0, 0, 0, 0]
    endings = [
        "",
        "the file is empty",
        "No such file or directory",
        "fill it in or take it out",
        "the caption is empty",
    ]
    endings += ["the caption has 78 tokens, more than 77", "its picture 60 x 40; make them one size", ""]
    assert [p.endswith(e) and bool(p) == bool(e) for p, e in zip(table.problem, endings)] == [True] * 8
    assert table[["too_long", "blank", "marked_up", "beyond_ascii"]].sum().tolist() == [1, 1, 1, 1]


def test_check_says_how_many_and_why_and_draws_a_sheet(folder, capsys):
    sheet = folder / "new" / "sheet.png"
    assert cli.main(["datasets", "check", str(folder), "--out", str(sheet)]) == 1
    said = capsys.readouterr().out
    assert ": 8 pairs, 2 can be scored" in said and "pictures: 5 readable, 3 unreadable" in said
    assert "captions too long: 1, empty: 1, with markup: 1, with letters beyond ASCII: 1" in said
    assert "/0001: " in said and "zero.png cannot be read as a picture: the file is empty" in said
    with Image.open(sheet) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    assert image.size == (8 * 160, 227)
    red = drawn[..., 0] - drawn[..., 2] > 60  # the masked thumbnail is tinted, reasons are written in red
    assert red[:150, :160].mean() > 0.1 and not red[155:, :160].any()
    assert red[155:, 160:1120].any() and (drawn[10:140, 170:310] == 0xE4).all()


def test_a_sound_set_ends_well(capsys):
    assert cli.main(["datasets", "check", "cat-and-dog"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "cat-and-dog: 3 pairs, 3 can be scored"
    assert (
        "masks: 6, on 3 pairs" in said
        and "captions: 3; the longest of each pair has 4 to 7 tokens (median 4) of 77" in said
    )


def test_what_is_no_dataset_is_refused(tmp_path, capsys):
    assert cli.main(["datasets", "check", str(tmp_path / "none")]) == 2
    assert "is not known; there are scenes-objects" in capsys.readouterr().err


def test_data_of_12_bits_are_nearly_black_and_said_to_be(tmp_path, capsys):
    twelve = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
    twelve[0, 0] = 4095
    for name, values in (("12", twelve), ("16", twelve * 16), ("8", (twelve >> 4).astype(np.uint8))):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    (tmp_path / "a.csv").write_text("image,text\n12.png,a cat\n16.png,a cat\n8.png,a cat\n")
    assert list(check(data.load(tmp_path / "a.csv")).brightest) == [16, 255, 255]
    assert cli.main(["datasets", "check", str(tmp_path / "a.csv")]) == 0
    said = capsys.readouterr().out
    assert (
        "pictures nearly black, no value above 16 of 255: 1, a/0000; if they are data of 12 bits in files of 16, save"
        in said
    )


def test_half_an_emoji_is_a_problem_of_its_own_pair(tmp_path, capsys):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(
        r'[{"image": "a.png", "caption": "a \ud83d"}, {"image": "a.png", "caption": ["a \ud83d", "a cat"]}]'
    )
    table = check(data.load(tmp_path / "a.json"))
    assert [problem[:34] for problem in table.problem] == ["the caption holds half of a sign (", ""] and list(
        table.tokens
    ) == [0, 4]
    assert cli.main(["datasets", "check", str(tmp_path / "a.json"), "--out", str(tmp_path / "sheet.png")]) == 1
    assert "2 pairs, 1 can be scored" in capsys.readouterr().out


def test_names_of_any_bytes_are_printed(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "captions.csv").write_text("image,text\n1.png,a cat\n")
    assert cli.main(["datasets", "check", str(folder)]) == 1
    assert r"caf\udce9/1.png cannot be read as a picture: No such file" in capsys.readouterr().out
