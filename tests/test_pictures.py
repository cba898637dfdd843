"""nibkit.data.pictures: every file and picture becomes upright RGB, or a sentence that says why not."""

import numpy as np
import pytest
import torch
from PIL import Image

from nibkit import data
from nibkit.data import pictures


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
    for image, message in [
        (Image.new("F", (2, 2)), "mode F"),
        (Image.new("RGB", (1, 300)), "the picture is 1 x 300; one side"),
    ]:
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
        (
            lambda path: Image.new("L", (2, 201)).save(path, "PNG"),
            "is 2 x 201; one side may be at most 100 times the other",
        ),
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
    for read in (
        lambda: pair.image,
        lambda: pair.masks,
        lambda: pictures.read(EPS, "a.jpg"),
        lambda: scenes.preprocess(by_hand),
    ):
        with pytest.raises(data.DataError, match="none of the formats JPEG, MPO, PNG"):
            read()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_a_picture_of_each_format_that_is_read(tmp_path, name):
    Image.new("RGB", (20, 10), (250, 0, 0)).save(tmp_path / "a.file", name)
    image = pictures.read(tmp_path / "a.file")
    assert image.size == (20, 10) and image.getpixel((5, 5))[0] > 240 and max(image.getpixel((5, 5))[1:]) < 20


def test_two_pictures_in_one_jpeg_are_the_first(tmp_path):
    """MPO, as phones and 3-D cameras write it."""
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    assert pictures.read(tmp_path / "a.jpg").getpixel((5, 5))[0] > 240


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
