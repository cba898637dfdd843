"""Checkpoints as people have them: the right model, or a sentence with the file's name. Nothing silent."""

import json
import socket
import struct

import huggingface_hub
import open_clip
import pytest
import torch
from clip.model import CLIP
from safetensors.torch import load_file, save_file
from test_backends import OPEN_CLIP
from test_towers import library, shaken

import nibkit

PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
IDS = [torch.tensor([49406, 320, 2368, 49407]), torch.tensor([49406, 320, 1929, 49407])]


def state_of(model):
    return {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}


def same(clip, model):
    """The loaded CLIP embeds as the library's model does."""
    want = library(clip.around(model), PIXELS, IDS)
    torch.testing.assert_close(clip.embed_image(PIXELS), want[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(clip.embed_text(IDS), want[1], atol=2e-5, rtol=1e-4)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


KEPT = {
    "bare": lambda state: state,
    "module": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "both": lambda state: prefixed(state, "module._orig_mod."),
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict": lambda state: {"step": 3, "model_state_dict": state, "optimizer": {"state": {}}},
    "model": lambda state: {"model": prefixed(state, "module.")},
    "ema": lambda state: {"ema_state_dict": state},
    "lightning": lambda state: {
        "state_dict": prefixed(state, "model."),
        "pytorch-lightning_version": "2.4",
        "loops": {},
    },
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("library_name", ["openai", "open_clip", "hf"])
def test_what_training_programs_keep(kept, library_name, openai, hf, architectures, tmp_path):
    if library_name == "hf":
        hf.config.save_pretrained(tmp_path)
        torch.save(KEPT[kept](state_of(hf)), tmp_path / "pytorch_model.bin")
        same(nibkit.load(tmp_path, device="cpu"), hf)
        return
    model = openai if library_name == "openai" else shaken(open_clip.create_model("nibkit-vit")).eval()
    torch.save(KEPT[kept](state_of(model)), tmp_path / "x.pt")
    form = "openai:{}/x.pt" if library_name == "openai" else "open_clip:nibkit-vit/{}/x.pt"
    same(nibkit.load(form.format(tmp_path), device="cpu"), model)


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod."])
def test_safetensors_with_a_prefix(prefix, openai, hf, tmp_path):
    save_file(prefixed(state_of(openai), prefix), tmp_path / "x.safetensors")
    same(nibkit.load(f"openai:{tmp_path}/x.safetensors", device="cpu"), openai)
    hf.config.save_pretrained(tmp_path / "hf")
    save_file(prefixed(state_of(hf), prefix), tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    same(nibkit.load(tmp_path / "hf", device="cpu"), hf)


def test_a_sharded_folder(hf, tmp_path):
    hf.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    same(nibkit.load(tmp_path, device="cpu"), hf)


def without(state, part):
    return {name: value for name, value in state.items() if part not in name}


def adapted(state):
    changed = {n.replace("q_proj.weight", "q_proj.base_layer.weight"): v for n, v in state.items()}
    return {**changed, "vision_model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(4, 48)}


def renamed(state):
    return {name.replace("vision_model", "image_model"): value for name, value in state.items()}


MISFITS = {
    "a block is missing": (
        lambda s: without(s, "vision_model.encoder.layers.1."),
        r"lacks 16 tensors \(vision_model\.encoder\.layers\.1\.",
    ),
    "a tower alone": (
        lambda s: without(without(s, "text_"), "logit"),
        r"lacks \d+ tensors \(logit_scale, text_model\.",
    ),
    "an adapter": (adapted, r"lacks 8 tensors \(.*q_proj\.weight.*an adapter that is not merged: model\.merge"),
    "one more": (
        lambda s: {**s, "head.weight": torch.zeros(3)},
        r"has, beyond the model's, 1 tensors \(head\.weight\)",
    ),
    "an odd shape": (
        lambda s: {**s, "visual_projection.weight": torch.zeros(3, 4)},
        r"has in another shape 1 tensors \(visual_projection\.weight \(3, 4\), not \(24, 48\)\)",
    ),
    "another name": (renamed, r"lacks \d+ tensors \(vision_model\..*beyond the model's, \d+ tensors \(image_model\."),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_transformers_folder_whose_weights_do_not_match(kind, hf, tmp_path):
    """The library would draw what is missing at random, another model in each process."""
    change, sentence = MISFITS[kind]
    hf.config.save_pretrained(tmp_path)
    save_file(change(state_of(hf)), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"model\.safetensors does not fit the model's architecture: it {sentence}"):
        nibkit.load(tmp_path, device="cpu")


def test_more_layers_in_the_configuration_than_in_the_file(hf, tmp_path):
    hf.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks 64 tensors \(vision_model\.encoder\.layers\.5\."):
        nibkit.load(tmp_path, device="cpu")


def test_a_folder_with_an_adapter_beside_its_weights(hf, tmp_path):
    hf.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter that is not merged"):
        nibkit.load(tmp_path, device="cpu")


def tower(state):
    return {name: value for name, value in state.items() if name.startswith("visual.")}


OPENAI_MISFITS = {
    "a block": (lambda s: without(s, "visual.transformer.resblocks.1."), r"lacks 12 tensors \(visual\.transformer\."),
    "a tower alone": (tower, "lacks 'positional_embedding': it is not all"),
    "one more": (
        lambda s: {**s, "head.weight": torch.zeros(3)},
        r"has, beyond the model's, 1 tensors \(head\.weight\)",
    ),
    "Long-CLIP": (
        lambda s: {**s, "positional_embedding_res": torch.zeros(77, 64)},
        r"1 tensors \(positional_embedding_res",
    ),
    "a shape": (
        lambda s: {**s, "visual.proj": torch.zeros(3)},
        r"in another shape 1 tensors \(visual\.proj \(3,\), not",
    ),
    "one axis": (
        lambda s: {**s, "visual.conv1.weight": torch.zeros(128)},
        "a tensor whose number of axes is not that of",
    ),
    "no square": (
        lambda s: {**s, "visual.positional_embedding": torch.zeros(14, 128)},
        "14 image positions for patches",
    ),
}


@pytest.mark.parametrize("kind", OPENAI_MISFITS)
def test_an_openai_file_that_does_not_fit(kind, openai, tmp_path):
    change, sentence = OPENAI_MISFITS[kind]
    torch.save(change(state_of(openai)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"x\.pt .*{sentence}"):
        nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")


def test_a_number_of_heads_that_no_weight_tells_is_not_guessed(architectures, tmp_path):
    """open_clip's ViT-H has heads of 80 channels under OpenAI's key names."""
    vision = OPEN_CLIP["vit"]["vision_cfg"] | {"width": 320, "head_width": 80}
    text = OPEN_CLIP["vit"]["text_cfg"] | {"width": 64, "heads": 1}
    (tmp_path / "nibkit-wide.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "nibkit-wide.json")
    model = shaken(open_clip.create_model("nibkit-wide")).eval()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is 320 and 64 channels wide, .*nibkit\.load\('open_clip:ARCH/"):
        nibkit.load(tmp_path / "x.pt", device="cpu")
    same(nibkit.load(f"open_clip:nibkit-wide/{tmp_path}/x.pt", device="cpu"), model)


def test_a_file_as_wide_as_one_of_openais_needs_no_more(tmp_path):
    torch.manual_seed(0)
    model = CLIP(64, 64, 1, 768, 32, 77, 49408, 512, 8, 1).eval()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    clip = nibkit.load(tmp_path / "x.pt", device="cpu")
    assert (clip.image.blocks[0].heads, clip.text.blocks[0].heads) == (12, 8)
    same(clip, model)


def test_what_nibkits_own_training_wrote_says_so(scenes, tmp_path):
    from nibkit.scenes.train import export

    export(scenes.model, tmp_path / "model.safetensors")
    assert nibkit.load(tmp_path / "model.safetensors", device="cpu").image.blocks[0].heads == 2


# ---- broken files, and files that would reach out


def safetensors_with(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


LIES = json.dumps({"visual.proj": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
BROKEN = {
    "x.pt": b"",
    "empty.safetensors": b"",
    "noise.pt": bytes(range(256)) * 20,
    "zip.pt": b"PK\x03\x04" + bytes(100),
    "lies.safetensors": safetensors_with(LIES, bytes(64)),
    "header.safetensors": safetensors_with(b"{" + b"\xff" * 30),
    "text.bin": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("form", ["{}", "openai:{}", "open_clip:ViT-B-32/{}"])
def test_a_broken_file_is_a_sentence(name, form, tmp_path):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        nibkit.load(form.format(tmp_path / name), device="cpu")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_truncated_file_is_a_sentence(keep, name, openai, hf, tmp_path):
    state = state_of(openai)
    torch.save(state, tmp_path / name) if name == "x.pt" else save_file(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ValueError, match=rf"{name} was not loaded: it is broken"):
        nibkit.load(f"openai:{tmp_path}/{name}", device="cpu")
    hf.save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(ValueError, match="model.safetensors was not loaded: it is broken"):
        nibkit.load(tmp_path / "hf", device="cpu")


@pytest.mark.parametrize("root", [{"a": 1}, [torch.zeros(2)], torch.zeros(2), None, {"state_dict": [1]}])
def test_a_file_without_named_weights_is_a_sentence(root, tmp_path):
    torch.save(root, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt holds a \w+, no named weights"):
        nibkit.load(tmp_path / "x.pt", device="cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_archive_of_another_module_is_a_sentence(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt has no 'visual\.proj'"):
        nibkit.load(tmp_path / "x.pt", device="cpu")


CONFIGURATIONS = {
    "no JSON": "{",
    "a list": "[]",
    "no type": "{}",
    "another type": {"model_type": "bert"},
    "patches of 0": {"vision_config": {"patch_size": 0}},
    "no heads": {"vision_config": {"num_attention_heads": 0}},
    "heads that do not divide": {"vision_config": {"num_attention_heads": 7}},
    "a text for a number": {"text_config": {"hidden_size": "wide"}},
    "not square": {"vision_config": {"image_size": [64, 48]}},
    "another activation": {"text_config": {"hidden_act": "none such"}},
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_broken_configuration_is_a_sentence(kind, hf, tmp_path):
    folder = tmp_path / "mine"
    hf.save_pretrained(folder)
    change = CONFIGURATIONS[kind]
    if isinstance(change, dict):
        config = json.loads((folder / "config.json").read_text())
        for name, value in change.items():
            config[name] = config[name] | value if isinstance(value, dict) else value
        change = json.dumps(config)
    (folder / "config.json").write_text(change)
    with pytest.raises(ValueError, match="mine"):
        nibkit.load(folder, device="cpu")


@pytest.mark.parametrize("source", ["ViT-B-32/{}", "ViT-B-32/{}/x.pt", "{}/x.pt", "ViT-B-32/", "ViT-B-32", "/", ""])
def test_an_open_clip_path_that_leads_nowhere_is_a_sentence(source, tmp_path):
    with pytest.raises((ValueError, OSError), match="open_clip"):
        nibkit.load("open_clip:" + source.format(tmp_path / "none"), device="cpu")


EVIL = "import pathlib\npathlib.Path({!r}).touch()\nclass Evil: pass\n"


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "preprocessor_config.json", "open_clip_config.json"]
)
@pytest.mark.parametrize("kind", ["clip", "evil"])
def test_code_that_a_folder_names_is_not_run_and_not_asked_about(file, kind, hf, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    hf.save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL.format(str(tmp_path / "ran")))
    parts = "Config", "Model", "Tokenizer", "ImageProcessor", "Processor"
    auto = {"auto_map": {f"Auto{part}": ["evil.Evil", None] if part == "Tokenizer" else "evil.Evil" for part in parts}}
    settings = json.loads((tmp_path / "config.json").read_text()) if file == "config.json" else {}
    if kind == "evil":
        types = {"tokenizer_class": "Evil", "image_processor_type": "Evil"}
        settings |= {"model_type": "evil"} if file == "config.json" else types
    if file == "open_clip_config.json":
        (tmp_path / "config.json").unlink()
        trusting = {"hf_tokenizer_name": str(tmp_path), "tokenizer_kwargs": {"trust_remote_code": True}}
        text = OPEN_CLIP["vit"]["text_cfg"] | trusting
        settings["model_cfg"] = OPEN_CLIP["vit"] | {"embed_dim": 32, "text_cfg": text}
        (tmp_path / "model.safetensors").unlink()
        model = open_clip.CLIP(embed_dim=32, **OPEN_CLIP["vit"])
        torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto | {"tokenizer_class": "Evil"}))
    (tmp_path / file).write_text(json.dumps(settings | auto))
    try:
        nibkit.load(tmp_path, device="cpu").tokenize("a cat")
    except ValueError as error:
        assert tmp_path.name in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/passwd", "sub/x.safetensors", ".."])
def test_an_index_names_files_of_its_own_folder_only(name, hf, tmp_path):
    folder = tmp_path / "mine"
    hf.save_pretrained(folder)
    (folder / "model.safetensors").rename(tmp_path / "out.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(tmp_path / "out.safetensors"), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"index.json names '{name}', which is not a file of its own folder"):
        nibkit.load(folder, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, openai, hf, tmp_path):
    for model, name, folder in ((openai, "visual.proj", False), (hf, "visual_projection.weight", True)):
        state = state_of(model)
        state[name][0, 0] = value
        if folder:
            model.config.save_pretrained(tmp_path)
            save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        else:
            torch.save(state, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=f"holds weights that are not finite, in 1 tensors: {name}"):
            nibkit.load(tmp_path if folder else f"openai:{tmp_path}/x.pt", device="cpu")


def test_a_model_in_the_hubs_cache_needs_no_network(hf, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--some--clip" / "snapshots" / ("0" * 40)
    hf.save_pretrained(snapshot)
    (tmp_path / "models--some--clip" / "refs").mkdir()
    (tmp_path / "models--some--clip" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network is asked"))
    clip = nibkit.load("hf:some/clip", device="cpu")
    same(clip, hf)
    assert clip.name == "some/clip"


def test_widths_without_whole_heads_are_refused(tmp_path):
    state = state_of(CLIP(32, 64, 1, 96, 16, 77, 49408, 96, 1, 1))
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is 96 and 96 channels wide, no whole number of heads of 64 channels"):
        nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")
