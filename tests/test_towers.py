"""A tower that is cut and run on gives the library's own embedding, at every layer, in every backend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clip.model import CLIP

import nibkit
from nibkit import models
from nibkit.models import openai as openai_backend
from nibkit.models import transformers as transformers_backend
from nibkit.models.tokenizers import BPE

ROOT = Path(__file__).parents[1]
TEXTS = [
    "a dog",
    "a photo of a cat and a dog on grass",
    "owl",
    "two boats, a bus and a very long red train",
    "a",
    "b c",
    "d",
    "e f",
]


def openai_clip():
    """An 8-block ViT with a 4-block text encoder: depths that are told apart."""
    torch.manual_seed(1)
    model = CLIP(32, 64, 8, 128, 16, 77, 49408, 64, 1, 4)
    for p in model.parameters():  # the initial weights are too small for a wrong order of operations to show
        if p.ndim == 1:
            p.data += 0.1 * torch.randn_like(p)
    return models.Clip("small", model, openai_backend, openai_backend.transform(64), BPE(), torch.device("cpu"))


def shaken(model, seed=1):
    """Weights far enough from where a wrong order of operations would not show."""
    torch.manual_seed(seed)
    for p in model.parameters():
        p.data = p.data + (0.1 if p.ndim == 1 else 0.02) * torch.randn_like(p)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.data = buffer + 0.2 * torch.rand_like(buffer)
    return model


def transformers_clip(eos_token_id=2):
    import transformers

    torch.manual_seed(2)
    vision = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "image_size": 64,
    }
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    ends = {"eos_token_id": eos_token_id, "bos_token_id": 49406}
    config = transformers.CLIPConfig(
        vision_config={**vision, "patch_size": 16}, text_config={**text, **ends}, projection_dim=24
    )
    return on_transformers(shaken(transformers.CLIPModel(config)))


def siglip(naflex=False):
    import transformers

    torch.manual_seed(2)
    vision = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "patch_size": 16,
    }
    text = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 49408,
    }
    text |= {
        "max_position_embeddings": 16,
        "projection_size": 48,
        "pad_token_id": 1,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    if naflex:
        config = transformers.Siglip2Config(vision_config=vision | {"num_patches": 16}, text_config=text)
        return on_transformers(shaken(transformers.Siglip2Model(config)))
    config = transformers.SiglipConfig(vision_config=vision | {"image_size": 64}, text_config=text)
    return on_transformers(shaken(transformers.SiglipModel(config)))


def on_transformers(model):
    transform = openai_backend.transform(64)
    return models.Clip(type(model).__name__, model, transformers_backend, transform, BPE(), torch.device("cpu"))


def library(clip, pixels, ids):
    """What the library itself computes, with its own padding."""
    model, text = clip.model, clip.text
    length = getattr(model, "context_length", None) or getattr(
        getattr(model, "text", None), "context_length", text.context
    )
    padded = torch.stack([torch.nn.functional.pad(i, (0, length - len(i)), value=text.pad or 0) for i in ids])
    with torch.no_grad():
        if hasattr(model, "encode_image"):
            raw = {"normalize": False} if type(model).__name__ == "CoCa" else {}
            return model.encode_image(pixels, **raw), model.encode_text(padded, **raw)
        more = {}
        if "Siglip2" in type(model).__name__:
            patches = torch.nn.functional.unfold(pixels, 16, stride=16).mT.unflatten(2, (3, 256)).mT.flatten(2)
            shapes = torch.tensor([[4, 4]] * len(pixels))
            more = {"pixel_attention_mask": torch.ones(len(pixels), 16, dtype=torch.int64), "spatial_shapes": shapes}
            pixels = patches
        found = model.get_image_features(pixels, **more), model.get_text_features(padded)
    return [getattr(f, "pooler_output", f) for f in found]  # transformers 4 returns the tensor itself


def assert_towers_match(clip, texts=TEXTS):
    """Cut at every layer, all texts at once and each by itself."""
    torch.manual_seed(3)
    pixels, ids = torch.randn(len(texts), 3, clip.image.size, clip.image.size), clip.tokenize(texts)
    close = {"atol": 2e-5, "rtol": 1e-4}
    for tower, x, want in zip((clip.image, clip.text), (pixels, ids), library(clip, pixels, ids)):
        for layer in range(len(tower.blocks)):
            got = tower.embed(tower.state(x, layer), layer)
            torch.testing.assert_close(got, want, **close, msg=lambda m, at=f"{tower.name} layer {layer}": f"{at}: {m}")
            alone = torch.cat([tower.embed(tower.state(x[k : k + 1], layer), layer) for k in range(len(texts))])
            torch.testing.assert_close(alone, want, **close)
        torch.testing.assert_close(tower.encode(x), want, **close)


TRANSFORMERS = [transformers_clip, lambda: transformers_clip(49407), siglip, lambda: siglip(True)]


@pytest.mark.parametrize("build", [openai_clip, *TRANSFORMERS])
def test_every_cut_gives_the_librarys_embedding(build):
    assert_towers_match(build())


def check_transformers(folder):
    """Towers, and folders as `save_pretrained` leaves them, with whichever transformers is imported."""
    for k, build in enumerate(TRANSFORMERS):
        clip = build()
        assert_towers_match(clip)
        clip.model.save_pretrained(f"{folder}/{k}")
        again = nibkit.load(f"{folder}/{k}", device="cpu")
        pixels, ids = torch.randn(1, 3, 64, 64), clip.tokenize("a dog")
        torch.testing.assert_close(again.embed_image(pixels), clip.embed_image(pixels))
        torch.testing.assert_close(again.embed_text(ids), clip.embed_text(ids))


def test_folders_of_transformers_come_back(tmp_path):
    check_transformers(tmp_path)


def test_transformers_4_too(tmp_path):
    """The same check under the previous major, in a process of its own."""
    old = ROOT / ".venv" / "transformers4"
    if not old.exists():
        pytest.skip("no .venv/transformers4: `make test` puts it there")
    code = (
        "import transformers, test_towers; assert transformers.__version__.startswith('4.'), transformers.__version__\n"
        f"test_towers.check_transformers({str(tmp_path)!r})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (old, ROOT, ROOT / "tests")))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_gradients_pass_the_cut_and_weights_take_none():
    clip = openai_clip()
    state = clip.image.state(torch.randn(2, 3, 64, 64), 5)
    tokens = state.tokens.clone().requires_grad_()
    clip.image.embed(state._replace(tokens=tokens), 5).sum().backward()
    assert (tokens.grad.abs().sum((1, 2)) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in clip.model.parameters())


def test_attention_and_back_is_the_block():
    clip = openai_clip()
    for tower, inputs in ((clip.image, torch.randn(2, 3, 64, 64)), (clip.text, clip.tokenize(TEXTS[:2]))):
        x, block = tower.state(inputs, 2).tokens, tower.blocks[2]
        probabilities, values = block.attention(x, tower.causal)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))
        torch.testing.assert_close(
            block.from_attention(x, probabilities, values), block(x, tower.causal), atol=1e-5, rtol=1e-4
        )


def test_nothing_is_copied():
    clip = openai_clip()
    ours, _ = clip.image.blocks[0].query()
    assert ours.data_ptr() == clip.model.visual.transformer.resblocks[0].attn.in_proj_weight.data_ptr()


def test_texts_are_cut_at_their_eos():
    clip = openai_clip()
    (ids,) = clip.tokenize("a dog")
    longer = torch.cat([ids, torch.zeros(5, dtype=torch.int64)])
    torch.testing.assert_close(clip.embed_text([ids]), clip.embed_text([longer]), atol=0, rtol=0)


@pytest.mark.parametrize("layer, kind", [(8, ""), (-1, ""), (2.0, "a whole number "), (True, "a whole number ")])
def test_wrong_layer_is_a_sentence(layer, kind):
    with pytest.raises(ValueError, match=rf"layer={layer} is not {kind}in 0\.\.7 of this 8-block image tower"):
        openai_clip().image.state(torch.randn(1, 3, 64, 64), layer)


@pytest.mark.parametrize(
    ("pixels", "ids", "sentence"),
    [
        (torch.zeros(3, 64, 64), [torch.ones(3).long()], r"pixels are \(3, 64, 64\), not \(B, 3, 64, 64\)"),
        (torch.zeros(1, 3, 224, 224), [torch.ones(3).long()], r"pixels are \(1, 3, 224, 224\), not \(B, 3, 64, 64\)"),
        (
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
            [torch.ones(3).long()],
            "pixels are torch.uint8, not torch.float32",
        ),
        (torch.zeros(1, 3, 64, 64).double(), [torch.ones(3).long()], "pixels are torch.float64, not torch.float32"),
        (torch.zeros(2, 3, 64, 64), [torch.ones(3).long()], "ids must be a list of 2 1-D int64 tensors"),
        (torch.zeros(1, 3, 64, 64), torch.ones(1, 3).long(), "not one tensor"),
        (
            torch.zeros(1, 3, 64, 64),
            [torch.ones(3)],
            r"ids\[0\] is \(3,\) torch.float32, not a non-empty 1-D int64 tensor",
        ),
        (torch.zeros(1, 3, 64, 64), [torch.ones(78).long()], r"ids\[0\] has 78 tokens; this model reads at most 77"),
        (torch.zeros(1, 3, 64, 64), [torch.tensor([49408])], r"ids\[0\] holds 49408; this vocabulary is 0\.\.49407"),
        (torch.zeros(1, 3, 64, 64, device="meta"), [torch.ones(3).long()], r"pixels on meta, model on cpu"),
    ],
)
def test_wrong_inputs_are_a_sentence(pixels, ids, sentence):
    with pytest.raises(ValueError, match=sentence):
        nibkit.METHODS["nib"](openai_clip(), pixels, ids)


def test_a_long_text_is_a_sentence():
    with pytest.raises(ValueError, match="has 92 tokens; this model reads at most 77: shorten it"):
        openai_clip().tokenize("word " * 90)
