"""`python -m nibkit explain`: what it prints, draws and writes, and how it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

import nibkit
from nibkit import maps
from nibkit.__main__ import main

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
    for k, fact in enumerate(found["texts"]):
        assert fact["caption"] == ["a dog", "a cat"][k]
        np.testing.assert_allclose(fact["image"]["scores"], a.image[k], atol=1e-6)
        np.testing.assert_allclose(fact["text"]["scores"], a.text[k], atol=1e-6)
        assert fact["F(Z)"] - fact["image"]["F(0)"] == pytest.approx(a.info.change_image[k], abs=1e-5)
        assert fact["text"]["gap"] == pytest.approx(a.info.gap_text[k], abs=1e-5)
        assert fact["boxes"] == [list(box) for box in maps.boxes(a.heatmap()[k])]
    assert [word for word, _ in found["texts"][0]["words"]] == ["a", "dog"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"a dog: cosine {found['texts'][0]['F(Z)']:.3f}\n") and "a cat: cosine" in printed
    assert f"boxes    {tuple(found['texts'][0]['boxes'][0])}" in printed
    drawn = np.asarray(Image.open("map.png").convert("RGB")).astype(int)
    yellow = (drawn[..., 0] > 240) & (drawn[..., 1] > 240) & (drawn[..., 2] < 40)
    assert yellow.sum() > 300  # the boxes' edges


def test_json_on_the_screen_is_nothing_but_json(photo, capsys):
    assert main(["explain", photo, "a dog", "--method", "centre", "--json", "-"]) == 0
    (fact,) = json.loads(capsys.readouterr().out)["texts"]
    assert np.shape(fact["image"]["scores"]) == (7, 7) and "gap" not in fact["image"]


def test_layer_and_method_are_alive(photo, capsys):
    printed = []
    for options in ([], ["--layer", "6"], ["--method", "saliency"]):
        assert main(["explain", photo, "a dog", *options]) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 3


LONG = "dog " * 100


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nowhere.png", "a dog"], "nowhere.png cannot be read as a picture"),
        (["broken.png", "a dog"], "broken.png cannot be read as a picture"),
        (["photo.png", " "], "a text is empty; give a caption"),
        (["photo.png", LONG], "has 102 tokens; this model reads at most 77: shorten it"),
        (["photo.png", "a dog", "--method", "nip"], "method 'nip' is not one of: nib, m2ib"),
        (["photo.png", "a dog", "--layer", "12"], "12"),
        (["photo.png", "a dog", "--model", "nothing"], "model 'nothing' is neither a file nor a folder nor one of"),
        (["photo.png", "a dog", "--out", "map.bmp"], "--out map.bmp does not end in one of: .png, .svg, .pdf"),
        (["photo.png", "a dog", "--json", "no/scores.json"], "there is no folder no for scores.json"),
        (["photo.png", "a dog", "--device", "toaster"], "toaster"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(photo, capsys, arguments, sentence):
    with open("broken.png", "wb") as file, open(photo, "rb") as whole:
        file.write(whole.read()[:200])
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.startswith("python -m nibkit: ") and not captured.out


@pytest.mark.parametrize("arguments", [["explain", "photo.png"], ["explain", "photo.png", "a dog", "--layer", "x"], []])
def test_a_command_that_is_not_understood_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
