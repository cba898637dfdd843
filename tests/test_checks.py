"""Arguments: taken as they are meant, or refused by a sentence before anything is computed."""

import numpy as np
import pytest
import torch
from PIL import Image

import nibkit
from nibkit import benchmark
from nibkit.checks import number, whole

PICTURE = Image.new("RGB", (20, 20), "red")


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7), torch.tensor(7)])
def test_whole_numbers_of_any_type(value):
    assert whole("n", value) == 7 and type(whole("n", value)) is int


@pytest.mark.parametrize("value", [2.0, np.float64(2), True, np.True_, "2", None, float("nan")])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="is not a whole number in 0..3 of it"):
        whole("n", value, 0, 3, " of it")
    with pytest.raises(ValueError, match="is not a whole number >= 1"):
        whole("n", value)


@pytest.mark.parametrize("value", [-1, 4, np.int64(4)])
def test_whole_numbers_out_of_range(value):
    with pytest.raises(ValueError, match=f"n={value} is not in 0..3 of it"):
        whole("n", value, 0, 3, " of it")


def test_numbers():
    assert [number("x", value) for value in (0, 0.5, np.float32(0.5))] == [0, 0.5, 0.5]
    assert number("x", 1, zero=False, most=1) == 1
    for value, options, sentence in [
        (float("nan"), {}, "x=nan is not a finite number >= 0"),
        (float("inf"), {}, "x=inf is not a finite number >= 0"),
        ("1", {}, "x='1' is not a finite number >= 0"),
        (True, {}, "x=True is not a finite number >= 0"),
        (-1, {}, "x=-1 is not >= 0"),
        (0, {"zero": False}, "x=0 is not > 0"),
        (1.5, {"zero": False, "most": 1}, "x=1.5 is not > 0 and <= 1"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            number("x", value, **options)


BAD = [
    ("nib", {"steps": 0}, "steps=0 is not a whole number >= 1"),
    ("nib", {"steps": 2.5}, "steps=2.5 is not a whole number >= 1"),
    ("nib", {"layer": 9.0}, "layer=9.0 is not a whole number in 0..11 of this 12-block image tower"),
    ("nib", {"rule": "foo"}, "rule='foo' is not one of: riemann, gauss, exact, carry, norm"),
    ("nib", {"rule": "exact", "tol": float("nan")}, "tol=nan is not a finite number >= 0"),
    ("nib", {"rule": "exact", "tol": -1}, "tol=-1 is not >= 0"),
    ("nib", {"max_passes": 1}, "max_passes=1 is not a whole number >= 10"),
    ("nib", {"batch_size": "0MB"}, "batch_size='0MB' is none of: rows"),
    ("nib", {"batch_size": 0}, "batch_size=0 is none of: rows"),
    ("nib", {"batch_size": 2.0}, "batch_size=2.0 is none of: rows"),
    ("nib", {"protocol": "zzz"}, "protocol='zzz' is not one of: paper, corrected"),
    ("gradcam", {"layer": 11}, "layer=11 is the last block of the image tower"),
    ("gradcam_pooled", {"layer": (3, 11)}, "layer=11 is the last block of the text tower"),
    ("m2ib", {"layer": 11}, "layer=11 is the last block of the image tower"),
    ("m2ib", {"samples": 0}, "samples=0 is not a whole number >= 1"),
    ("m2ib", {"beta": float("nan")}, "beta=nan is not a finite number >= 0"),
    ("m2ib", {"lr": 0}, "lr=0 is not > 0"),
    ("random", {"seed": -1}, "seed=-1 is not in 0..4294967295"),
    ("rise", {"masks": 10.5}, "masks=10.5 is not a whole number >= 1"),
    ("rise", {"grid": 0}, "grid=0 is not a whole number >= 1"),
    ("rise", {"probability": float("nan")}, "probability=nan is not a finite number > 0 and <= 1"),
    ("mfaba", {"step_size": 0.0}, "step_size=0.0 is not > 0"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), BAD)
def test_options_are_refused_by_the_method_and_by_a_benchmark(
    golden_clip, golden_pair, monkeypatch, name, options, sentence
):
    def works(*_):
        return pytest.fail("the work began")
    monkeypatch.setattr(golden_clip, "tokenize", works)
    monkeypatch.setattr(golden_clip, "check", works)
    for refuses in (
        lambda: nibkit.METHODS[name](golden_clip, *golden_pair, **options),
        lambda: benchmark.run(golden_clip, [None], {"a label": (name, options)}, progress=False),
    ):
        with pytest.raises(ValueError, match=sentence.replace(".", r"\.").replace("(", r"\(")):
            refuses()


def test_numpy_integers_are_integers(golden_clip):
    options = {"layer": np.int64(8), "steps": np.int32(10), "batch_size": np.int64(3), "tol": np.float32(0.5)}
    assert nibkit.METHODS["nib"].check(golden_clip, options) == {
        "layer": (8, 8),
        "steps": 10,
        "batch_size": 3,
        "tol": 0.5,
    }
    assert nibkit.METHODS["gradcam"].check(golden_clip, {"layer": np.int64(8), "seed": 1}) == {"layer": (9, 9)}


def test_an_unknown_option_names_all_there_are(golden_clip):
    said = "method 'chefer' has no option 'rule'; it takes batch_size, layer, protocol, seed, steps$"
    with pytest.raises(TypeError, match=said):
        nibkit.METHODS["chefer"].check(golden_clip, {"rule": "exact"})


@pytest.mark.parametrize(
    ("image", "text", "sentence"),
    [
        ("photo.jpg", "a cat", "a str is not a picture; open one first"),
        (np.zeros((2, 2, 3)), "a cat", "a ndarray is not a picture"),
        ([], [], "there is no picture or no text"),
        (PICTURE, [], "there is no picture or no text"),
        (PICTURE, None, "None is a NoneType, not a text"),
        (PICTURE, ["a cat", 3], "3 is a int, not a text"),
        (PICTURE, " ", "a text is empty; give a caption"),
    ],
)
def test_explain_takes_pictures_and_texts(golden_clip, image, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        nibkit.explain(golden_clip, image, text)


def test_any_iterable_of_pictures_and_texts_will_do(golden_clip):
    texts = ["a cat", "a dog"]
    assert [i.tolist() for i in golden_clip.tokenize(t for t in texts)] == [
        i.tolist() for i in golden_clip.tokenize(texts)
    ]
    both = golden_clip.similarity((PICTURE for _ in texts), (t for t in texts))
    torch.testing.assert_close(both, golden_clip.similarity([PICTURE] * 2, texts))


def test_pixels_and_ids_fit_the_model(golden_clip, golden_pair):
    pixels, ids = golden_pair[0][:2], golden_pair[1][:2]
    broken, strange = pixels.clone(), torch.tensor([49406, -3, 49407])
    broken[1, 0, 0, :3] = float("nan")
    for refused, sentence in [
        (lambda: golden_clip.similarity(pixels, ids[:1]), "2 pictures and 1 texts do not pair up"),
        (lambda: golden_clip.similarity(pixels, ["a cat"]), "2 pictures and 1 texts do not pair up"),
        (lambda: golden_clip.embed_image(broken), "pixels hold 3 values that are not finite"),
        (lambda: nibkit.METHODS["random"](golden_clip, broken, ids), "pixels hold 3 values that are not finite"),
        (lambda: golden_clip.embed_image(pixels[:0]), "pixels are of no picture"),
        (lambda: golden_clip.embed_text([]), "ids must be a list of 1-D int64 tensors, not empty"),
        (
            lambda: golden_clip.embed_text(torch.stack([strange])),
            "ids must be a list of 1-D int64 tensors, not one tensor",
        ),
        (lambda: golden_clip.embed_text([ids[0], strange]), r"ids\[1\] holds -3; this vocabulary is 0\.\."),
        (lambda: golden_clip.embed_text([strange.abs() * 9]), r"ids\[0\] holds 444663; this vocabulary is 0\.\."),
        (lambda: golden_clip.embed_text(["a cat", None]), "None is a NoneType, not a text"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            refused()
