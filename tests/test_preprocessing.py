"""Pixels are those of the library's own processor, over a grid of configurations, or the folder is refused."""

import itertools
import json

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from test_backends import OPEN_CLIP, open_clip_model
from test_towers import siglip, transformers_clip

import nibkit

SIZES = (90, 70), (64, 64), (50, 140)


def pictures():
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)) for width, height in SIZES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder per kind, with weights and no processor."""
    found = {}
    models = {"clip": transformers_clip().model, "siglip": siglip().model, "siglip2": siglip(True).model}
    for kind, model in models.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
    return found


@pytest.fixture
def configured(folders, tmp_path):
    """(kind, what preprocessor_config.json says) -> the folder with it."""

    def make(kind, settings):
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        for file in folders[kind].iterdir():
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return folder

    return make


def librarys(folder, picture):
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(images=picture, return_tensors="pt")["pixel_values"][0]


NUMBERS = [
    {},
    {"resample": 2},
    {"resample": 0},
    {"do_normalize": False},
    {"do_rescale": False},
    {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.5, 0.7]},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
]
FITS = {
    "clip": [
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}},
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 64, "width": 64}},
        {"size": {"height": 72, "width": 96}, "crop_size": {"height": 64, "width": 64}},
        {"size": {"height": 64, "width": 64}, "do_center_crop": False},
        {"size": 64, "crop_size": 64},
        {"do_resize": False, "crop_size": {"height": 64, "width": 64}},
    ],
    "siglip": [{"size": {"height": 64, "width": 64}}],
}
TYPES = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor", "siglip2": "Siglip2ImageProcessor"}
GRID = [(kind, fit, numbers) for kind, fits in FITS.items() for fit, numbers in itertools.product(fits, NUMBERS)]


@pytest.mark.parametrize("kind, fit, numbers", GRID)
def test_pixels_are_the_processors_own(kind, fit, numbers, configured):
    folder = configured(kind, {"image_processor_type": TYPES[kind], **fit, **numbers})
    clip = nibkit.load(folder, device="cpu")
    for picture in pictures():
        np.testing.assert_allclose(clip.preprocess(picture)[0], librarys(folder, picture), atol=1e-6 * 255, rtol=1e-6)
        shown = clip.picture(clip.preprocess(picture)[0])
        assert shown.shape == (64, 64, 3) and 0 <= shown.min() and shown.max() <= 1


@pytest.mark.parametrize("fit", FITS["clip"])
def test_what_is_seen_is_what_the_processor_keeps(fit, configured):
    """A white rectangle on black: the same share and middle in the pixels and in what `seen` keeps of its mask."""
    clip = nibkit.load(configured("clip", {"image_processor_type": TYPES["clip"], **fit}), device="cpu")
    for width, height in ((300, 224), (224, 341), (96, 96)):
        mask = np.zeros((height, width), bool)
        mask[height // 3 : height // 2, 2 * width // 5 : 3 * width // 5] = True
        shown = clip.picture(clip.preprocess(Image.fromarray(mask).convert("RGB"))[0])[..., 0] > 0.5
        kept = clip.seen(mask)
        assert kept.mean() == pytest.approx(shown.mean(), abs=0.015)
        middles = [np.argwhere(m).mean(0) / m.shape for m in (kept, shown)]
        np.testing.assert_allclose(*middles, atol=0.02)


@pytest.mark.parametrize("numbers", NUMBERS[:4])
def test_naflex_on_its_square_grid(numbers, configured):
    """Siglip2's, bilinear by default: a square picture's patches are the library's; others are made square first."""
    folder = configured(
        "siglip2", {"image_processor_type": TYPES["siglip2"], "patch_size": 16, "max_num_patches": 16, **numbers}
    )
    clip = nibkit.load(folder, device="cpu")
    square = pictures()[0].resize((100, 100))
    patches = librarys(folder, square)
    want = patches.unflatten(0, (4, 4)).unflatten(2, (16, 16, 3)).permute(4, 0, 2, 1, 3).reshape(3, 64, 64)
    torch.testing.assert_close(clip.preprocess(square)[0], want)
    filtering = Image.Resampling(numbers.get("resample", 2))
    squashed = pictures()[2].resize((64, 64), filtering)
    torch.testing.assert_close(clip.preprocess(pictures()[2]), clip.preprocess(squashed))
    assert clip.seen(np.ones((5, 9), bool)).shape == (5, 9)


def test_a_folder_without_processor_has_the_librarys_default(folders):
    for kind, options in {
        "clip": {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        "siglip": {"size": {"height": 64, "width": 64}},
    }.items():
        processor = getattr(transformers, TYPES[kind])(**options)
        clip = nibkit.load(folders[kind], device="cpu")
        for picture in pictures():
            want = processor(images=picture, return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(clip.preprocess(picture)[0], want)


REFUSED = {
    "another size": (
        "clip",
        {"crop_size": {"height": 32, "width": 32}},
        r"makes pixels \(3, 32, 32\); its model takes \(3, 64, 64\)",
    ),
    "no resize": ("siglip", {"do_resize": False}, r"makes pixels \(3, 67, 71\); its model takes"),
    "a longest edge": ("clip", {"size": {"longest_edge": 64}}, "has size .*; nibkit knows shortest_edge"),
    "padding": ("clip", {"do_pad": True, "pad_size": {"height": 64, "width": 64}}, "has padding; nibkit knows"),
    "more patches": (
        "siglip2",
        {"max_num_patches": 64},
        "makes up to 64 patches; nibkit cuts the model on its own grid of 16",
    ),
    "other patches": (
        "siglip2",
        {"max_num_patches": 16, "patch_size": 8},
        r"makes pixels \(3, 32, 32\); its model takes",
    ),
    "another kind": (
        "siglip2",
        {"image_processor_type": "SiglipImageProcessor"},
        "is a SiglipImageProcessor.*, whose pixels a Siglip2Model",
    ),
    "no kind": ("clip", {"image_processor_type": "NoneSuch"}, "cannot be loaded"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_processor_that_does_not_fit_is_refused(what, configured):
    kind, settings, sentence = REFUSED[what]
    folder = configured(kind, {"image_processor_type": TYPES[kind], "size": {"height": 64, "width": 64}, **settings})
    with pytest.raises(ValueError, match=f"the image processor of {folder} {sentence}"):
        nibkit.load(folder, device="cpu")


def test_a_broken_processor_is_a_sentence(configured):
    folder = configured("clip", {})
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=f"the image processor of {folder} cannot be loaded"):
        nibkit.load(folder, device="cpu")


# ---- open_clip: a file of an architecture is preprocessed as the architecture's own tags are


@pytest.mark.parametrize("architecture", ["ViT-B-32", "ViT-B-16-SigLIP", "MobileCLIP-B", "ViT-L-14", "ViT-H-14"])
def test_what_the_tags_of_an_architecture_agree_on(architecture):
    """ViT-L-14's tags disagree on mean and std, ViT-H-14's on the resize: there the library's default holds."""
    from nibkit.models.open_clip import _tagged

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    cfgs = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    agreed = _tagged(open_clip, architecture, "some/file.pt")
    for key in ("mean", "std", "interpolation", "resize_mode"):
        values = {str(cfg[key]) for cfg in cfgs}
        assert (key in agreed) == (len(values) == 1) and str(agreed.get(key, cfgs[0][key])) in values
    assert _tagged(open_clip, architecture, tags[-1])["mean"] == cfgs[-1]["mean"]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_an_architecture_whose_tags_agree(size, architectures, tmp_path, monkeypatch):
    """As SigLIP's do, on a mean and std of one half and on a resize to the square."""
    cfg = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "url": "",
        "hf_hub": "",
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "nibkit-siglip", {"one": cfg, "two": dict(cfg)})
    torch.save(open_clip_model("siglip").state_dict(), tmp_path / "x.pt")
    clip = nibkit.load(f"open_clip:nibkit-siglip/{tmp_path}/x.pt", device="cpu")
    want = PreprocessCfg(size=64, **{key: cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")})
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 255, (*size, 3), np.uint8))
    assert torch.equal(clip.preprocess(picture)[0], image_transform_v2(want, is_train=False)(picture))
    assert clip.seen(np.ones(size, bool)).shape == size


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_folder_of_open_clips(mode, interpolation, tmp_path):
    cfg = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "resize_mode": mode,
        "interpolation": interpolation,
        "fill_color": 128,
    }
    config = {"model_cfg": {"embed_dim": 32, **OPEN_CLIP["vit"]}, "preprocess_cfg": {"size": 64, **cfg}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(open_clip_model("vit").state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    clip = nibkit.load(tmp_path, device="cpu")
    _, _, want = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    for picture in pictures():
        assert torch.equal(clip.preprocess(picture)[0], want(picture))
