"""Every library's own models, small and random: towers, methods, files; and one set of weights in all three
libraries.
"""

import copy
import functools
import json
import os
import re

import numpy as np
import open_clip
import pytest
import tokenizers
import torch
import transformers
from clip.model import CLIP
from PIL import Image
from test_methods import QUICK
from test_towers import assert_towers_match, library, shaken, siglip
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer

import nibkit
from nibkit.attribution import words
from nibkit.models import open_clip as open_clip_backend
from nibkit.models import openai as openai_backend
from nibkit.models import transformers as transformers_backend
from nibkit.models.clip import Clip
from nibkit.models.tokenizers import BPE
from nibkit.study import theory

CPU = torch.device("cpu")
VISION = {"image_size": 64, "layers": 3, "width": 128, "head_width": 64, "patch_size": 16}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4}
SIGLIP_TEXT = TEXT | {
    "context_length": 12, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}
}
POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
OPEN_CLIP = {
    "vit": {"vision_cfg": VISION, "text_cfg": TEXT},
    "quick": {"vision_cfg": VISION, "text_cfg": TEXT | {"width": 64, "heads": 1}, "quick_gelu": True},
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
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "nibkit_test_siglip",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": SIGLIP_TEXT,
        "custom_text": True,
    },
    "resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "quick resnet": {"vision_cfg": RESNET, "text_cfg": TEXT | {"width": 64, "heads": 1}, "quick_gelu": True},
}


@register_model
def nibkit_test_siglip(pretrained=False, **options):
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "class_token": False}
    allowed = {k: v for k, v in options.items() if k in ("global_pool", "num_classes")}
    return VisionTransformer(**sizes, **allowed)


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


BACKENDS = {
    **{f"open_clip {kind}": functools.partial(from_open_clip, kind) for kind in OPEN_CLIP},
    "openai resnet": openai_resnet,
    "transformers siglip": siglip,
    "transformers siglip2": lambda: siglip(True),
}
TEXTS = ["a dog", "a photo of a cat on grass", "owl"]


def inputs(clip):
    torch.manual_seed(3)
    return torch.randn(len(TEXTS), 3, 64, 64), clip.tokenize(TEXTS)


@pytest.fixture(scope="module", params=BACKENDS)
def clip(request):
    torch.manual_seed(0)
    return BACKENDS[request.param]()


def test_every_cut_gives_the_librarys_embedding(clip):
    assert_towers_match(clip, TEXTS)


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
        with pytest.raises(
            ValueError, match=f"{name} reads attention, and the image tower of .* (is a ResNet|is pooled by a mean)"
        ):
            method(clip, *pair)
        return
    options = QUICK.get(name, {}) | ({"others": pair} if name == "agi" else {})
    for protocol in ("paper", "corrected"):
        a = method(clip, *pair, protocol=protocol, **options)
        assert np.isfinite(a.image).all() and len(a) == len(TEXTS)
        assert a.image.std() > 0 or name == "gradcam_pooled"  # whose map may be 0 everywhere
        assert [len(t) for t in a.text] == [len(i) for i in pair[1]] and all(np.isfinite(t).all() for t in a.text)
        assert a.heatmap().shape == (len(TEXTS), 64, 64)
        assert any(t.std() > 0 for t in a.text)
    alone = method(clip, pair[0][1:2], pair[1][1:2], protocol=protocol, **options)
    if name == "agi":  # steps by signs: rounding, which differs with the batch, flips some, and a flip leads elsewhere
        return
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


# ---- files of each library


def openai_model(layers=3):
    torch.manual_seed(0)
    return shaken(CLIP(32, 64, layers, 128, 16, 77, 49408, 64, 1, 4)).eval()


@pytest.mark.parametrize("kind", OPEN_CLIP)
def test_open_clips_factory_and_a_saved_file(kind, architectures, tmp_path):
    name = f"nibkit-{kind.replace(' ', '-')}"
    model = shaken(open_clip.create_model(name, pretrained=None)).eval()
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "saved.pt"
    )
    clip = nibkit.load(f"open_clip:{name}/{tmp_path}/saved.pt", device="cpu")
    pixels, ids = inputs(clip)
    want = library(from_open_clip(kind).around(model), pixels, ids)
    torch.testing.assert_close(clip.embed_image(pixels), want[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(clip.embed_text(ids), want[1], atol=2e-5, rtol=1e-4)
    one, two = (nibkit.load(f"open_clip:{name}", device="cpu", pretrained=False) for _ in range(2))
    assert torch.equal(one.embed_image(pixels), two.embed_image(pixels)) and one.name == f"{name} (random weights)"


def test_an_open_clip_folder_is_recognised(tmp_path):
    config = {
        "model_cfg": {"embed_dim": 32, **OPEN_CLIP["vit"]},
        "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(
        FileNotFoundError, match="open_clip_config.json and no weights; put open_clip_model.safetensors there"
    ):
        nibkit.load(tmp_path, device="cpu")
    model = open_clip_model("vit")
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    clip = nibkit.load(tmp_path, device="cpu")
    pixels, _ = inputs(clip)
    torch.testing.assert_close(clip.embed_image(pixels), model.encode_image(pixels).detach(), atol=2e-5, rtol=1e-4)
    assert clip.preprocess(Image.new("RGB", (80, 64))).flatten()[0].item() == pytest.approx(-0.5)


@pytest.mark.parametrize("make", [siglip, lambda: siglip(True)])
def test_a_siglip_folder_without_tokenizer(tmp_path, make):
    model = make().model
    model.save_pretrained(tmp_path)
    clip = nibkit.load(tmp_path, device="cpu")
    pixels, ids = torch.randn(3, 3, 64, 64), [torch.tensor([5, 6, 49407])] * 3
    assert clip.text.pad == 1
    want = library(clip.around(model), pixels, ids)
    torch.testing.assert_close(clip.embed_image(pixels), want[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(clip.embed_text(ids), want[1], atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="has no tokenizer files; put its tokenizer.json"):
        clip.tokenize("a dog")


def unigram():
    """SigLIP's kind: a mark in front of words, no BOS, EOS behind."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁dog", "▁and", "▁cat", "s"]
    made = Tokenizer(tokenizers.models.Unigram([(piece, -float(k)) for k, piece in enumerate(pieces)], unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return {"tokenizer_object": made, "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def wordpiece():
    """BERT's kind: a mark in front of all pieces but a word's first, CLS and SEP around."""
    pieces = ["[PAD]", "[SEP]", "[UNK]", "[CLS]", "a", "dog", "and", "cat", "##s"]
    made = Tokenizer(tokenizers.models.WordPiece({piece: k for k, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("[CLS]", 3), ("[SEP]", 1)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return {
        "tokenizer_object": made,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
    }


@pytest.mark.parametrize("make, before", [(unigram, 0), (wordpiece, 1)])
def test_a_folders_own_tokenizer(tmp_path, make, before):
    """Its ids, its padding, and its pieces put together as words; a word that it does not know is a word too."""
    siglip().model.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(**make()).save_pretrained(tmp_path)
    clip = nibkit.load(tmp_path, device="cpu")
    (ids,) = clip.tokenize(["a dogs and совы cats"])
    pieces = "".join(clip.decode(ids)[before:-1])
    assert (clip.text.pad, clip.text.before, int(ids[-1])) == (0, before, 1)
    a = nibkit.explain(clip, Image.new("RGB", (80, 64), "red"), "a dogs and совы cats")
    found = words(clip, ids, a.text[0])
    unknown = make()["unk_token"]
    assert [word for word, _ in found] == ["a", "dogs", "and", unknown, "cats"] and pieces.split() == [
        word for word, _ in found
    ]
    assert sum(score for _, score in found) == pytest.approx(a.text[0][before:-1].sum())


def same_maps(a, b, tolerance=1e-6):
    pixels, ids = inputs(a)
    pair = pixels.double(), ids  # a few maps of such a model are small differences of large numbers
    for name in ("nib", "gradcam", "chefer", "xgrad", "mfaba"):
        if name == "chefer" and a.image.unattended:
            continue
        one, two = (nibkit.METHODS[name](clip, *pair) for clip in (a, b))
        assert theory.difference(one, two) < tolerance, name


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("layers", [3, (1, 2, 1, 1)])
def test_the_same_weights_as_state_dict_archive_and_in_open_clip(layers, architectures, tmp_path):
    torch.manual_seed(0)
    size = (128, 16) if layers == 3 else (8, None)
    model = shaken(CLIP(32, 64, layers, *size, 77, 49408, 64, 1, 4)).eval()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        scripted = torch.jit.trace(
            model, (torch.randn(1, 3, 64, 64), torch.ones(1, 77, dtype=torch.int64)), check_trace=False
        )
    torch.jit.save(scripted, tmp_path / "archive.pt")
    load = functools.partial(nibkit.load, device="cpu", dtype="float64")
    state = load(f"openai:{tmp_path}/state.pt")
    same_maps(state, load(f"openai:{tmp_path}/archive.pt"))
    same_maps(state, load(f"open_clip:nibkit-{'quick' if layers == 3 else 'quick-resnet'}/{tmp_path}/state.pt"))
    if layers == 3:
        theory.as_transformers(state).model.save_pretrained(tmp_path / "hf")
        same_maps(state, load(tmp_path / "hf"))


HF_NAMES = {  # timm's and open_clip's names of SigLIP's parts -> transformers'
    r"visual\.trunk\.pos_embed": "vision_model.embeddings.position_embedding.weight",
    r"visual\.trunk\.patch_embed\.proj": "vision_model.embeddings.patch_embedding",
    r"visual\.trunk\.blocks": "vision_model.encoder.layers",
    r"visual\.trunk\.norm": "vision_model.post_layernorm",
    r"visual\.trunk\.attn_pool\.latent": "vision_model.head.probe",
    r"visual\.trunk\.attn_pool\.proj": "vision_model.head.attention.out_proj",
    r"visual\.trunk\.attn_pool\.norm": "vision_model.head.layernorm",
    r"visual\.trunk\.attn_pool": "vision_model.head",
    r"text\.positional_embedding": "text_model.embeddings.position_embedding.weight",
    r"text\.token_embedding": "text_model.embeddings.token_embedding",
    r"text\.transformer\.resblocks": "text_model.encoder.layers",
    r"text\.ln_final": "text_model.final_layer_norm",
    r"text\.text_projection": "text_model.head",
    r"\.(norm|ln_)([12])": r".layer_norm\2",
    r"\.attn\.(out_)?proj\.": ".self_attn.out_proj.",
    r"\.c_fc": ".fc1",
    r"\.c_proj": ".fc2",
}


def test_siglip_from_open_clip_to_transformers():
    """The same weights in both libraries' models: the same maps."""
    model, state = open_clip_model("siglip"), {}
    for name, value in model.state_dict().items():
        if "attn_pool.kv" in name or name == "logit_scale":
            continue
        joint = re.search(r"\.(attn\.qkv\.|attn\.in_proj_|attn_pool\.q\.)(weight|bias)$", name)
        for pattern, new in HF_NAMES.items():
            name = re.sub(pattern, new, name)
        if joint and "pool" in joint[1]:
            kv = model.state_dict()[f"visual.trunk.attn_pool.kv.{joint[2]}"]
            state[f"vision_model.head.attention.in_proj_{joint[2]}"] = torch.cat([value, kv])
        elif joint:
            layer = name[: name.index(".attn.")]
            state |= {f"{layer}.self_attn.{part}_proj.{joint[2]}": third for part, third in zip("qkv", value.chunk(3))}
        else:
            state[name] = value[0] if "vision_model.embeddings.position" in name else value
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "hidden_act": "gelu"}
    vision = sizes | {"num_hidden_layers": 3, "patch_size": 16, "image_size": 64}
    text = sizes | {"num_hidden_layers": 4, "vocab_size": 49408, "max_position_embeddings": 12, "projection_size": 32}
    text |= {"pad_token_id": 0, "bos_token_id": 49406, "eos_token_id": 49407}
    twin = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert (set(missing), unexpected) == ({"logit_scale", "logit_bias"}, [])
    a = Clip("open_clip", model.double(), open_clip_backend, None, BPE(), CPU)
    same_maps(a, Clip("transformers", twin.double().eval(), transformers_backend, None, BPE(), CPU))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["{}/x.pt", "open_clip:nibkit-vit/{}/x.pt"])
def test_a_pickle_that_would_run_code_is_refused(form, architectures, tmp_path):
    torch.save({"visual.proj": torch.zeros(1), "bomb": Bomb(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="x.pt was not loaded: it would run code when loaded"):
        nibkit.load(form.format(tmp_path), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_transformers_bin_that_would_run_code_is_refused(tmp_path):
    siglip().model.config.save_pretrained(tmp_path)
    torch.save({"bomb": Bomb(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin was not loaded: it would run code"):
        nibkit.load(tmp_path, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_an_archive_with_a_foreign_pickle_is_refused(tmp_path):
    import pickle
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", pickle.dumps(Bomb(tmp_path / "ran"), 2))
    with pytest.raises(ValueError, match="would run code"):
        nibkit.load(tmp_path / "x.pt", device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_integrand_single(dtype, tmp_path):
    torch.save(openai_model().state_dict(), tmp_path / "x.pt")
    single, half = (nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu", dtype=d) for d in ("float32", dtype))
    pixels, ids = inputs(single)
    a, b = single.embed_image(pixels), half.embed_image(pixels)
    assert b.dtype == torch.float32 and 1e-5 < (a - b).abs().max() / a.abs().max() < 0.03
    found = nibkit.METHODS["nib"](half, pixels, ids, rule="exact", max_passes=400)
    assert found.info.converged.all()  # in half precision the gap would not close
    assert nibkit.METHODS["rise"](half, pixels, ids, masks=20, text_masks=10).image.std() > 0
    with pytest.raises(ValueError, match="dtype='int8' is not one of: float32, float16, bfloat16, float64"):
        nibkit.load("scenes", dtype="int8")
