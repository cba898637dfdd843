"""load: names, files, and the sentences for what cannot be loaded."""

import copy
import socket
import types

import golden
import huggingface_hub
import numpy as np
import pytest
import torch
from clip.model import CLIP
from near import array
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

import nibkit
from nibkit import models
from nibkit.models.transform import Transform


def test_golden_features(golden_clip, golden_pair):
    pixels, ids = golden_pair
    np.testing.assert_allclose(array(golden_clip.embed_image(pixels)), golden.outputs("features/image"), atol=1e-5)
    np.testing.assert_allclose(array(golden_clip.embed_text(ids)), golden.outputs("features/text"), atol=1e-5)


def test_unknown_name_lists_the_choices():
    with pytest.raises(
        ValueError, match="model 'ViT-B/31' is neither a file nor a folder nor one of: scenes, scenes-early, ViT-B/32, "
    ):
        nibkit.load("ViT-B/31")


def test_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(OSError, match="save one with model.save_pretrained"):
        nibkit.load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "name, bring",
    [
        ("ViT-B/32", r"bring the file ViT-B-32\.pt .* into .*/\.cache/clip;"),
        ("RN50x4", r"bring the file RN50x4\.pt "),
        (
            "open_clip:ViT-B-32/laion2b_s34b_b79k",
            r"bring the folder models--laion--CLIP-\S+ of its cache into .*; or its checkpoint file",
        ),
        (
            "hf:openai/clip-vit-base-patch32",
            r"bring the folder models--openai--clip-vit-base-patch32 of its cache into .*; or a folder",
        ),
        ("open_clip:hf-hub:timm/ViT-B-16-SigLIP", r"bring the folder models--timm--ViT-B-16-SigLIP of its cache "),
    ],
)
def test_without_network_the_error_says_what_to_put_where(name, bring, tmp_path, monkeypatch):
    """And it comes at once: no library gets to its retries."""
    tries = []

    def unreachable(*_, **__):
        tries.append(1)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        OSError, match=rf"could not be downloaded \(.*\)\. From a machine with network, {bring}.*--model FILE"
    ):
        nibkit.load(name)
    assert len(tries) < 3


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoint_files_in_openais_format(tmp_path, suffix):
    torch.manual_seed(0)
    model = CLIP(16, 64, 2, 64, 32, 77, 49408, 64, 1, 2).half().float()  # what build_model stores is float16
    path = tmp_path / f"mine{suffix}"
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    clip = nibkit.load(f"openai:{path}", device="cpu")
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(clip.embed_image(pixels), model.encode_image(pixels).detach(), atol=1e-4, rtol=1e-3)
    assert clip.name == "mine" and len(clip.image.blocks) == 2 and clip.image.grid == (2, 2)


def test_a_file_that_is_no_clip(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no 'visual.proj': it is not a checkpoint in OpenAI CLIP's format"):
        nibkit.load(str(tmp_path / "x.safetensors"))


def test_loading_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    nibkit.load("scenes", device="cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_scenes_is_a_clip_of_its_shape(scenes):
    assert (len(scenes.image.blocks), len(scenes.text.blocks), scenes.image.grid, scenes.image.size) == (
        12,
        12,
        (7, 7),
        224,
    )
    assert not any(p.requires_grad for p in scenes.model.parameters()) and not scenes.model.training
    assert next(scenes.model.parameters()).dtype == torch.float32


def test_tokenize_and_decode(scenes):
    (ids,) = scenes.tokenize("a butterfly")
    assert ids[0] == 49406 and ids[-1] == 49407 and ids.dtype == torch.int64
    assert scenes.decode(ids) == ["<|startoftext|>", "a ", "butterfly ", "<|endoftext|>"]


def test_preprocess_one_or_many(scenes):
    grey = Image.new("L", (300, 200), 128)
    one, two = scenes.preprocess(grey), scenes.preprocess([grey, grey.convert("RGBA")])
    assert one.shape == (1, 3, 224, 224) and two.shape == (2, 3, 224, 224) and one.dtype == torch.float32
    want = (128 / 255 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    torch.testing.assert_close(two[1, :, 0, 0].cpu(), want)


@pytest.fixture(scope="module", params=["clip", "shortest", "squash", "longest"])
def looking(request, scenes):
    """The bundled model behind other eyes: (clip, how it fits pictures into its square)."""
    if request.param == "clip":
        return scenes, "shortest"
    cfg = PreprocessCfg(size=96, mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7), resize_mode=request.param)
    other = copy.copy(scenes)
    other._transform = Transform(image_transform_v2(cfg, is_train=False), request.param, cfg.mean, cfg.std)
    return other, request.param


@pytest.mark.parametrize("size", [(300, 224), (224, 341), (96, 96)])
def test_what_is_seen_of_a_mask_is_what_preprocess_keeps_of_its_picture(looking, size):
    """A white square on black, through the model's preprocess and through `seen`: the same share, the same middle."""
    (clip, mode), (width, height) = looking, size
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 3 : 2 * width // 3] = True
    shown = clip.picture(clip.preprocess(Image.fromarray(mask).convert("RGB"))[0])[..., 0] > 0.5
    kept = clip.seen(mask)
    assert kept.shape == {"shortest": (min(size),) * 2, "longest": (max(size),) * 2, "squash": (height, width)}[mode]
    assert kept.mean() == pytest.approx(shown.mean(), abs=0.01)
    def middle(m):
        return np.argwhere(m).mean(0) / m.shape
    np.testing.assert_allclose(middle(kept), middle(shown), atol=0.01)


def test_a_picture_comes_back_from_its_pixels(looking):
    clip, _ = looking
    picture = Image.new("RGB", (120, 120), (200, 100, 50))
    np.testing.assert_allclose(
        clip.picture(clip.preprocess(picture)[0])[5, 7], np.array([200, 100, 50]) / 255, atol=1e-6
    )


def test_similarity_is_the_cosine_of_the_embeddings(golden_clip, golden_pair):
    pixels, ids = golden_pair
    a, b = torch.tensor(golden.outputs("features/image")), torch.tensor(golden.outputs("features/text"))
    want = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(golden_clip.similarity(pixels, ids).cpu(), want, atol=1e-6, rtol=1e-5)


def test_explain_pairs_up(golden_clip):
    picture = Image.new("RGB", (224, 224), "red")
    assert len(nibkit.explain(golden_clip, picture, ["a dog", "a cat"], steps=2)) == 2
    with pytest.raises(ValueError, match="2 pictures and 3 texts do not pair up"):
        nibkit.explain(golden_clip, [picture] * 2, ["a", "b", "c"])
    with pytest.raises(ValueError, match="method='nibs' is not one of: nib, "):
        nibkit.explain(golden_clip, picture, "a dog", method="nibs")


def test_pick_device():
    assert models.pick_device("cpu").type == "cpu"
    assert models.pick_device("auto").type in ("cpu", "cuda", "mps")
    for device in ("toaster", "cuda:99"):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here .*; take 'cpu', or 'auto'"):
            models.pick_device(device)


def test_a_backend_declares_itself(scenes, monkeypatch, capsys):
    """One more entry of BACKENDS is loaded, listed, looked at and explained without a change anywhere else."""
    from nibkit.__main__ import main

    def of_name(name, pretrained):
        eyes = Transform(scenes._transform, "squash", scenes._transform.mean, scenes._transform.std)
        return copy.deepcopy(scenes.model), eyes, scenes._tokenizer, name.removeprefix("toy:")

    toy = types.SimpleNamespace(
        NAMES=(), FORMS={"toy:NAME": "a toy"}, matches=lambda name, path: name.startswith("toy:"), of_name=of_name,
        towers=models.openai.towers, here=lambda: ["toy:bear"],
    )
    monkeypatch.setattr(models.clip, "BACKENDS", (toy, *models.clip.BACKENDS))
    clip = models.load("toy:bear", device="cpu")
    assert (
        clip.name == "bear"
        and clip.seen(np.zeros((3, 5))).shape == (3, 5)
        and scenes.seen(np.zeros((3, 5))).shape == (3, 3)
    )
    picture = Image.new("RGB", (224, 224), (200, 100, 50))
    np.testing.assert_allclose(
        clip.picture(clip.preprocess(picture)[0])[0, 0], np.array([200, 100, 50]) / 255, atol=1e-6
    )
    assert nibkit.explain(clip, picture, "a cat", steps=2).image.any()
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "toy:NAME                      a toy\n" in shown and "toy:bear" in shown.splitlines()[-1]


def test_the_command_says_what_loads_and_what_is_here(tmp_path, monkeypatch, capsys):
    from nibkit.__main__ import main
    from nibkit.models import openai

    (tmp_path / "ViT-L-14-336px.pt").touch()
    (tmp_path / "models--some--clip").mkdir()
    monkeypatch.setattr(openai, "CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    here = "on this machine: scenes, scenes-early, ViT-L/14@336px, some/clip\n"
    assert "open_clip:ARCH/TAG" in shown and here in shown
