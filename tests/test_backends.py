"""Every library's own models, small and random: towers, methods, files; and one set of weights in all three libraries."""

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from clip.model import CLIP
from test_methods import QUICK
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

import nibkit
from nibkit import theory
from nibkit.backends import open_clip as open_clip_backend
from nibkit.backends import openai as openai_backend
from nibkit.backends import transformers as transformers_backend
from nibkit.backends.tokenizers import BPE
from nibkit.models import Clip

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
VISION = {"image_size": 64, "layers": 3, "width": 128, "head_width": 64, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 4}
SIGLIP_TEXT = TEXT | {
    "context_length": 12, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}
}  # fmt: skip
POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
OPEN_CLIP = {
    "vit": {"vision_cfg": VISION, "text_cfg": TEXT},
    "quick": {"vision_cfg": VISION, "text_cfg": TEXT | {"heads": 1}, "quick_gelu": True},
    "custom text": {"vision_cfg": VISION | {"ls_init_value": 0.5}, "text_cfg": TEXT, "custom_text": True},
    "eos": {"vision_cfg": VISION, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407}},
    "mean": {
        "vision_cfg": VISION | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT | {"context_length": 12, "pool_type": "last", "no_causal_mask": True},
    },
    "coca": {
        "vision_cfg": VISION | POOL,
        "text_cfg": TEXT | {"context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"context_length": 76, "layers": 1, "attn_pooler_heads": 2, "dim_head": 32},
        "custom_text": True,
    },
    "siglip": {
        "vision_cfg": {"image_size": 64, "timm_model_name": "nibkit_test_siglip", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": SIGLIP_TEXT,
        "custom_text": True,
    },
    "resnet": {"vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8}, "text_cfg": TEXT},
}


@register_model
def nibkit_test_siglip(pretrained=False, **options):
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "class_token": False}
    allowed = {k: v for k, v in options.items() if k in ("global_pool", "num_classes")}
    return VisionTransformer(**sizes, **allowed)


def shaken(model, seed=1):
    """Weights far enough from where a wrong order of operations would not show."""
    torch.manual_seed(seed)
    for p in model.parameters():
        p.data = p.data + (0.1 if p.ndim == 1 else 0.02) * torch.randn_like(p)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.data = buffer + 0.2 * torch.rand_like(buffer)
    return model


def open_clip_model(kind):
    config = copy.deepcopy(OPEN_CLIP[kind])
    custom = config.pop("custom_text", False)
    make = open_clip.CoCa if kind == "coca" else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return shaken(make(embed_dim=32, **config)).eval()


def from_open_clip(kind):
    return Clip(kind, open_clip_model(kind), open_clip_backend, None, BPE(), CPU)


def openai_resnet():
    model = shaken(CLIP(32, 64, (1, 2, 1, 1), 8, None, 77, 49408, 64, 1, 3)).eval()
    return Clip("RN", model, openai_backend, None, BPE(), CPU)


def siglip(naflex=False):
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "patch_size": 16}
    text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 49408}
    text |= {"max_position_embeddings": 12, "projection_size": 48, "pad_token_id": 1, "bos_token_id": 49406, "eos_token_id": 49407}
    if naflex:
        config = transformers.Siglip2Config(vision_config=vision | {"num_patches": 16}, text_config=text)
        return shaken(transformers.Siglip2Model(config)).eval()
    config = transformers.SiglipConfig(vision_config=vision | {"image_size": 64}, text_config=text)
    return shaken(transformers.SiglipModel(config)).eval()


def from_transformers(make=siglip):
    return Clip("siglip", make(), transformers_backend, None, BPE(), CPU)


BACKENDS = {
    **{f"open_clip {kind}": functools.partial(from_open_clip, kind) for kind in OPEN_CLIP},
    "openai resnet": openai_resnet,
    "transformers siglip": from_transformers,
    "transformers siglip2": lambda: from_transformers(lambda: siglip(True)),
}
TEXTS = ["a dog", "a photo of a cat on grass", "owl"]


def inputs(clip):
    torch.manual_seed(3)
    return torch.randn(len(TEXTS), 3, 64, 64), clip.tokenize(TEXTS)


def library(clip, pixels, ids):
    """The library's own embeddings, with its own padding."""
    model, text = clip.model, clip.text
    length = getattr(model, "context_length", None) or getattr(getattr(model, "text", None), "context_length", text.context)
    padded = torch.stack([torch.nn.functional.pad(i, (0, length - len(i)), value=text.pad or 0) for i in ids])
    with torch.no_grad():
        if hasattr(model, "encode_image"):
            raw = {"normalize": False} if isinstance(model, open_clip.CoCa) else {}
            return model.encode_image(pixels, **raw), model.encode_text(padded, **raw)
        more = {}
        if "Siglip2" in type(model).__name__:
            patches = torch.nn.functional.unfold(pixels, 16, stride=16).mT.unflatten(2, (3, 256)).mT.flatten(2)
            shapes = torch.tensor([[4, 4]] * len(pixels))
            more = {"pixel_attention_mask": torch.ones(len(pixels), 16, dtype=torch.int64), "spatial_shapes": shapes}
            pixels = patches
        found = model.get_image_features(pixels, **more), model.get_text_features(padded)
    return [getattr(f, "pooler_output", f) for f in found]


def assert_towers_match(clip, scale=1.0):
    pixels, ids = inputs(clip)
    for tower, x, want in zip((clip.image, clip.text), (pixels, ids), library(clip, pixels, ids)):
        for layer in range(len(tower.blocks)):
            got = tower.embed(tower.state(x, layer), layer)
            torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4, msg=lambda m: f"{tower.name} layer {layer}: {m}")
            alone = torch.cat([tower.embed(tower.state(x[k : k + 1], layer), layer) for k in range(len(TEXTS))])
            torch.testing.assert_close(alone, want, atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module", params=BACKENDS)
def clip(request):
    torch.manual_seed(0)
    return BACKENDS[request.param]()


def test_every_cut_gives_the_librarys_embedding(clip):
    assert_towers_match(clip)


def test_nib_is_complete(clip):
    """All tokens, the padding that SigLIP sees too, add up to F(Z) - F(0), at the default layers and at the lowest."""
    for layer in (None, 0):
        info = nibkit.METHODS["nib"](clip, *inputs(clip), rule="exact", layer=layer, max_passes=400).info
        assert info.converged.all(), info


@pytest.mark.parametrize("name", sorted(nibkit.METHODS))
def test_every_method_runs_or_says_why_not(clip, name):
    method, pair = nibkit.METHODS[name], inputs(clip)
    reads_attention = name in ("chefer", "fastig", "saliency", "gae", "legrad", "grad_eclip")
    if reads_attention and clip.image.unattended:
        with pytest.raises(ValueError, match=f"{name} reads attention, and the image tower of .* (is a ResNet|is pooled by a mean)"):
            method(clip, *pair)
        return
    for protocol in ("paper", "corrected"):
        a = method(clip, *pair, protocol=protocol, **QUICK.get(name, {}))
        assert np.isfinite(a.image).all() and len(a) == len(TEXTS)
        assert a.image.std() > 0 or name == "gradcam_pooled"  # whose map may be 0 everywhere
        assert [len(t) for t in a.text] == [len(i) for i in pair[1]] and all(np.isfinite(t).all() for t in a.text)
        assert a.heatmap().shape == (len(TEXTS), 64, 64)
        assert any(t.std() > 0 for t in a.text)
    alone = method(clip, pair[0][1:2], pair[1][1:2], protocol=protocol, **QUICK.get(name, {}))
    np.testing.assert_allclose(alone.image[0], a.image[1], atol=2e-5, rtol=2e-3)
    np.testing.assert_allclose(alone.text[0], a.text[1], atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("protocol", ["paper", "corrected"])
def test_metrics_on_every_backend(clip, protocol):
    pixels, ids = inputs(clip)
    whole = [np.ones(len(i)) for i in ids]
    kept = nibkit.metrics.confidence(clip, pixels, ids, np.ones((len(ids), 64, 64)), whole, protocol)
    assert np.abs(kept[["image_drop", "text_drop"]].to_numpy()).max() < 1e-3
    gone = nibkit.metrics.confidence(clip, pixels, ids, np.zeros((len(ids), 64, 64)), [0 * w for w in whole], protocol)
    assert (gone[["image_drop", "image_increase", "text_drop", "text_increase"]].abs().sum() > 0).any()
