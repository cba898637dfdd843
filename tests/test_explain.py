"""`python -m nibkit explain`: what it prints, draws and writes, and how it refuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nibkit
from nibkit.__main__ import main
from nibkit.attribution import boxes
from nibkit.commands import writable
from nibkit.models.files import absent
from nibkit.study import convergence

PAIR = nibkit.data.load("cat-and-dog")[0]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no checkout here
    PAIR.image.save("photo.png")
    return "photo.png"


def test_map_json_and_boxes(photo, capsys):
    assert main(["explain", photo, "a dog", "a cat", "--out", "map.png", "--json", "scores.json", "--boxes"]) == 0
    with open("scores.json") as file:
        found = json.load(file)
    assert [found[key] for key in ("method", "layer", "size")] == ["nib", {"image": 9, "text": 9}, 224]
    a = nibkit.explain(nibkit.load("scenes"), PAIR.image, ["a dog", "a cat"], layer=9)
    (only,) = found["photos"]
    for k, fact in enumerate(only["texts"]):
        assert fact["caption"] == ["a dog", "a cat"][k]
        np.testing.assert_allclose(fact["image"]["scores"], a.image[k], atol=1e-6)
        np.testing.assert_allclose(fact["text"]["scores"], a.text[k], atol=1e-6)
        assert fact["F(Z)"] - fact["image"]["F(0)"] == pytest.approx(a.info.change_image[k], abs=1e-5)
        assert fact["text"]["gap"] == pytest.approx(a.info.gap_text[k], abs=1e-5)
        assert fact["boxes"] == [list(box) for box in boxes(a.signed_map()[k])]
    assert [word for word, _ in only["texts"][0]["words"]] == ["a", "dog"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"a dog: cosine {only['texts'][0]['F(Z)']:.3f}\n") and "a cat: cosine" in printed
    assert f"boxes    {tuple(only['texts'][0]['boxes'][0])}" in printed
    drawn = np.asarray(Image.open("map.png").convert("RGB")).astype(int)
    yellow = (drawn[..., 0] > 240) & (drawn[..., 1] > 240) & (drawn[..., 2] < 40)
    assert yellow.sum() > 300  # the boxes' edges


def test_a_photo_of_any_name(photo, capsys):
    """Bytes that are no UTF-8 come back from JSON as Python has them in a file's name."""
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    Path(photo).rename(name)
    assert main(["explain", name, "a dog", "--method", "centre", "--json", "scores.json"]) == 0
    assert json.loads(Path("scores.json").read_text("utf-8"))["photos"][0]["photo"] == name
    capsys.readouterr()
    assert main(["explain", name, "a dog", "--method", "centre", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["photos"][0]["photo"] == name


@pytest.mark.parametrize("text", [r"a $\foo$ cat", "a $5 cat for $6", "a\ncat", "$", "a <b>&amp;</b> {cat} %s \\"])
def test_any_text_is_drawn_as_written(photo, text):
    assert main(["explain", photo, text, "--method", "centre", "--out", "map.png"]) == 0
    assert Image.open("map.png").size > (100, 100)


def test_json_on_the_screen_is_nothing_but_json(photo, capsys):
    assert main(["explain", photo, "a dog", "--method", "centre", "--json", "-"]) == 0
    (fact,) = json.loads(capsys.readouterr().out)["photos"][0]["texts"]
    assert np.shape(fact["image"]["scores"]) == (7, 7) and "gap" not in fact["image"]


def test_layer_and_method_are_alive(photo, capsys):
    printed = []
    for options in ([], ["--layer", "6"], ["--method", "saliency"]):
        assert main(["explain", photo, "a dog", *options]) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 3


def test_a_folder_becomes_a_folder_of_maps_and_tables(photo, capsys):
    """Two pictures and what is none: a map each, one sheet, the same scores in JSON and CSV; the third is named."""
    Path("in").mkdir()
    for name in ("a b.png", "c.png"):
        shutil.copy(photo, Path("in") / name)
    Path("in/note.txt").write_text("no picture")
    ask = ["explain", "in", "a dog", "a cat", "--method", "centre", "--out", "out", "--batch", "3"]
    assert main(ask) == 1
    captured = capsys.readouterr()
    assert captured.err.count("note.txt cannot be read as a picture") == 1 and captured.out.count("a dog: cosine") == 2
    assert sorted(path.name for path in Path("out/maps").iterdir()) == ["0001-in-a-b.png", "0002-in-c.png"]
    assert Image.open("out/sheet.png").width == 4 * 160
    photos = json.loads(Path("out/scores.json").read_text())["photos"]
    table = pd.read_csv("out/scores.csv")
    assert [found["photo"] for found in photos] == list(table.name.unique()) == ["in/a b.png", "in/c.png"]
    patches = table.query("name == 'in/c.png' and text == 'a cat' and side == 'image'").score
    np.testing.assert_allclose(patches, np.ravel(photos[1]["texts"][1]["image"]["scores"]), atol=1e-6)


def test_a_list_brings_its_own_captions(photo, capsys):
    Path("captions.csv").write_text("image,text\nphoto.png,a dog\nphoto.png,\n")
    assert main(["explain", "captions.csv", "--method", "centre"]) == 1
    captured = capsys.readouterr()
    assert "a dog: cosine" in captured.out and "a text is empty" in captured.err
    assert main(["explain", "cat-and-dog", "a horse", "--method", "centre"]) == 0
    assert capsys.readouterr().out.count("a horse: cosine") == 3


def test_large_gaps_are_explained(photo, capsys):
    """The published sum misses a third of the dog's change; the integral does not."""
    assert main(["explain", photo, "a dog"]) == 0
    assert "For scores that add up take --rule exact" in capsys.readouterr().out
    assert main(["explain", photo, "a dog", "--rule", "exact"]) == 0
    assert "--rule" not in capsys.readouterr().out


LONG = "dog " * 100


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nowhere.png", "a dog"], "nowhere.png cannot be read as a picture"),
        (["broken.png", "a dog"], "broken.png cannot be read as a picture"),
        (["photo.png", " "], "a text is empty; give a caption"),
        (["photo.png", "a \ud83d cat"], "holds half of a sign"),
        (
            ["photo.png", "a cat", "--json", "/dev/full"],
            "--json /dev/full cannot be written (it is a pipe or a device); name another",
        ),
        (["photo.png", "a cat", "--out", "pipe.png"], "--out pipe.png cannot be written (it is a pipe or a device)"),
        (["pipe.png", "a cat"], "pipe.png cannot be read as a picture: it is a pipe or a device"),
        (["photo.png", LONG], "has 102 tokens; this model reads at most 77: shorten it"),
        (["photo.png", "a dog", "--method", "nip"], "method='nip' is not one of: nib, m2ib"),
        (["photo.png", "a dog", "--layer", "12"], "12"),
        (
            ["photo.png", "a dog", "--rule", "simpson"],
            "rule='simpson' is not one of: riemann, gauss, exact, carry, norm",
        ),
        (
            ["photo.png", "a dog", "--rule", "exact", "--method", "m2ib"],
            "'m2ib' has no use for --rule exact; it is an option of nib",
        ),
        (["photo.png", "a dog", "--model", "nothing"], "model 'nothing' is neither a file nor a folder nor one of"),
        (["photo.png", "a dog", "--out", "map.bmp"], "--out map.bmp does not end in one of: .png, .svg, .pdf"),
        (["photo.png", "a dog", "--json", "."], "--json . cannot be written (Is a directory); name another file"),
        (["photo.png", "a dog", "--json", "photo.png/x.json"], "--json photo.png/x.json cannot be written"),
        (["photo.png", "a dog", "--model", "empty"], "the folder empty has neither config.json"),
        (["photo.png", "a dog", "--device", "toaster"], "toaster"),
        (["photo.png"], 'photo.png comes without a text; put one behind it, such as "a dog"'),
        (["photo.png", "dgo.png", "a dog"], "dgo.png is not there"),
        (["empty", "a dog"], "the folder empty is empty; give one with pictures in it"),
        (["photo.png", "photo.png", "a dog", "--out", "map.png"], "map.png is one file and there are 2 photos; name a"),
        (["photo.png", "a dog", "--out", "photo.png/x"], "cannot be written"),
        (["photo.png", "a dog", "--batch", "0"], "--batch=0 is not"),
        (["photo.png", "a dog", "--method", "gradcam", "--steps", "5"], "'gradcam' has no use for steps=5"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(photo, capsys, arguments, sentence):
    with open("broken.png", "wb") as file, open(photo, "rb") as whole:
        file.write(whole.read()[:200])
    Path("empty").mkdir()
    os.mkfifo("pipe.png")
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.startswith("nibkit: ") and not captured.out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["datasets", "check", "cat-and-dog", "--out", "sheet.xyz"], "--out sheet.xyz does not end in one of: .png"),
        (
            ["datasets", "check", "cat-and-dog", "--out", "photo.png/sheet.png"],
            "--out photo.png/sheet.png cannot be written",
        ),
        (
            ["bench", "--model", "scenes", "--figure", "cost.foo"],
            "--figure cost.foo does not end in one of: .png, .svg, .pdf",
        ),
        (["convergence", "photo.png/y.csv"], "CSV photo.png/y.csv cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(photo, capsys, monkeypatch, arguments, sentence):
    def works(*_, **__):
        return pytest.fail("the work began")
    monkeypatch.setattr("nibkit.data.check.check", works)
    monkeypatch.setattr(nibkit, "load", works)
    monkeypatch.setattr(convergence, "bundle", works)
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == [photo]


def test_a_file_is_tried_without_a_trace(tmp_path):
    """Its folder is made; what was in it stays."""
    old, new = tmp_path / "old.csv", tmp_path / "deep" / "new.csv"
    old.write_text("kept")
    assert [writable("--out", str(path)) for path in (old, new)] == [old, new]
    assert old.read_text() == "kept" and new.parent.is_dir() and not new.exists()
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    writable("--out", str(tmp_path / "link.csv"))
    assert (tmp_path / "link.csv").is_symlink() and not (tmp_path / "target.csv").exists()
    with pytest.raises(ValueError, match="--out x+ cannot be written .*; name another file"):
        writable("--out", "x" * 300)


@pytest.mark.parametrize("arguments", [["bench", "--methods", "nib"], ["explain", "photo.png", "a dog"]])
def test_weights_that_are_not_there_are_refused_with_a_sentence(photo, capsys, monkeypatch, arguments):
    def none(*_, **__):
        raise absent("weights of x", "them", OSError("no network"))

    monkeypatch.setattr(nibkit, "load", none)
    assert main([*arguments, "--model", "hf:x/y"]) == 2
    assert "weights of x are not on this machine and could not be downloaded (no network)" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["explain"], ["explain", "photo.png", "a dog", "--layer", "x"], []])
def test_a_command_that_is_not_understood_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
