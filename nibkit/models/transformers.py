"""Hugging Face transformers' CLIPModel, SiglipModel and Siglip2Model, releases 4 and 5.

Their layers' call signature and what `get_image_features` returns changed between the two; their weights did not, and
only these are read here.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..paths import install
from .files import WEIGHTS, absent, ask_hub, fit, hub_models, read, shards
from .tokenizers import BPE, Missing, Pretrained
from .towers import Block, ImageTower, Pool, State, TextTower
from .transform import Transform, square
from .weights import parts


def _projections(a) -> list:
    linear = [a.q_proj, a.k_proj, a.v_proj]
    if odd := [p for p in linear if not isinstance(p, torch.nn.Linear)]:
        raise ValueError(f"an attention projection is a {type(odd[0]).__name__}, no linear layer; merge adapters first")
    return [functools.partial(lambda p: (p.weight, p.bias), p) for p in linear]


def _block(layer) -> Block:
    a = layer.self_attn
    return Block(a.num_heads, layer.layer_norm1, *_projections(a), a.out_proj, layer.layer_norm2, layer.mlp)


class HFImage(ImageTower):
    """The vision model of a CLIPModel, read from CLS."""

    def __init__(self, model):
        self._vision, self._projection = model.vision_model, model.visual_projection
        self.blocks = [_block(layer) for layer in self._vision.encoder.layers]
        config = model.config.vision_config
        self.width, self.size = config.hidden_size, square(config.image_size)
        self.grid = (self.size // square(config.patch_size),) * 2

    def rows(self, pixels):
        x = self._vision.embeddings(pixels)
        return State(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def start(self, rows):
        return State(self._vision.pre_layrnorm(rows.tokens), rows.readout)  # their spelling

    def head(self, row):
        return self._projection(self._vision.post_layernorm(row))


class SiglipImage(ImageTower):
    """No class token: a probe's attention pools all patches. A Siglip2Model (NaFlex) runs on its square grid."""

    prefix = 0

    def __init__(self, model):
        self._vision = v = model.vision_model
        config = model.config.vision_config
        self._naflex, patch = not hasattr(config, "image_size"), square(config.patch_size)
        side = math.isqrt(config.num_patches) if self._naflex else square(config.image_size) // patch
        self.width, self.patch, self.grid = config.hidden_size, patch, (side, side)
        self.size = side * patch if self._naflex else square(config.image_size)
        if not hasattr(v, "head"):
            raise ValueError(
                "this SiglipModel has no pooling head (vision_use_head=False), so it makes no image embedding"
            )
        a = v.head.attention
        qkv = parts(3, lambda: (a.in_proj_weight, a.in_proj_bias))
        mlp, probe = v.head.mlp, lambda: v.head.probe[0, 0]
        pool = Pool(a.num_heads, v.post_layernorm, *qkv, a.out_proj, v.head.layernorm, mlp, probe)
        self.blocks = [*map(_block, v.encoder.layers), pool]

    def rows(self, pixels):
        if self._naflex:  # patches as rows of (row, column, channel) pixels
            (rows, columns), p = self.grid, self.patch
            patches = pixels.unflatten(3, (columns, p)).unflatten(2, (rows, p)).permute(0, 2, 4, 3, 5, 1)
            shapes = torch.tensor(self.grid, device=pixels.device).expand(len(pixels), 2)
            x = self._vision.embeddings(patches.flatten(3).flatten(1, 2), shapes)
        else:
            x = self._vision.embeddings(pixels)
        return State(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def start(self, rows):
        return rows

    def head(self, row):
        return row


class HFText(TextTower):
    """The text model of a CLIPModel, read at EOS."""

    def __init__(self, model):
        self._text, self._projection = model.text_model, model.text_projection
        self.blocks = [_block(layer) for layer in self._text.encoder.layers]
        config = model.config.text_config
        self.width, self.context = config.hidden_size, config.max_position_embeddings
        # 2 is what OpenAI's conversions carry by mistake; the library then reads at the largest id, and so do we
        self._eos = None if config.eos_token_id == 2 else config.eos_token_id

    @property
    def embedding(self):
        """Token rows, (vocabulary, C), as they are now."""
        return self._text.embeddings.token_embedding.weight

    @property
    def positions(self):
        """Position rows, (context, C), as they are now."""
        return self._text.embeddings.position_embedding.weight

    def readout(self, ids):
        if self._eos is None:
            return super().readout(ids)
        return int((ids == self._eos).int().argmax())  # the library's own rule: the first EOS, or row 0 without one

    def head(self, row):
        return self._projection(self._text.final_layer_norm(row))


class SiglipText(HFText):
    """Every token sees every other, the padding too; the embedding is read at the last place, mostly a padding
    token.
    """

    causal = False

    def __init__(self, model):
        self._text = t = model.text_model
        config = model.config.text_config
        self.blocks = [_block(layer) for layer in t.encoder.layers]
        self.width, self.context, self.pad = config.hidden_size, config.max_position_embeddings, config.pad_token_id

    def readout(self, ids):
        return len(ids) - 1

    def head(self, row):
        return self._text.head(self._text.final_layer_norm(row))


def towers(model) -> tuple[ImageTower, TextTower]:
    """`transformers.CLIPModel`, `SiglipModel` or `Siglip2Model` -> its two towers."""
    if hasattr(model, "visual_projection"):
        return HFImage(model), HFText(model)
    return SiglipImage(model), SiglipText(model)


# ---- loading

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
NAMES = ()
FORMS = {"hf:FOLDER-OR-NAME": "transformers' CLIPModel, SiglipModel, Siglip2Model; downloaded into {hub}"}

here = hub_models


def matches(name: str, path: Path) -> bool:
    """A name on the hub, or a folder with its config.json."""
    return name.startswith("hf:") or (path / "config.json").is_file()


def of_name(name: str, pretrained: bool):
    """A `save_pretrained` folder, or a name on the hub -> (model, transform, tokenizer, label); its code is not run."""
    source = name.removeprefix("hf:")
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"hf: models need transformers; install it with: {install('transformers')}") from error
    folder, local = Path(source), Path(source).is_dir()
    if not local:
        folder = _snapshot(source)
    elif not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the folder {source} has no config.json: it is not a transformers model; save one with "
            "model.save_pretrained(FOLDER)"
        )
    config = _json(folder / "config.json")
    if config.get("model_type") not in CLASSES:
        known = ", ".join(f"{kind} ({name})" for kind, name in CLASSES.items())
        code = "; code of its own, which it names, is not run" if "auto_map" in config else ""
        kind = repr(config.get("model_type"))
        raise ValueError(f"hf:{source} is a {kind} model; nibkit knows those of type {known}{code}")
    kind = getattr(transformers, CLASSES[config["model_type"]])
    config = kind.config_class.from_pretrained(folder, local_files_only=True)
    model = _filled(kind, config, folder) if pretrained else kind(config)
    tokenizer = _tokenizer(transformers, folder, config)
    return model, _transform(transformers, folder, model), tokenizer, folder.name if local else source


def _snapshot(source: str) -> Path:
    """The folder of the hub's cache that holds a model's files, downloaded unless config and weights are there."""
    import huggingface_hub

    found = {name: huggingface_hub.try_to_load_from_cache(source, name) for name in ("config.json", *WEIGHTS)}
    here = {name: Path(file).parent for name, file in found.items() if isinstance(file, str)}
    if "config.json" in here and len(here) > 1:
        return here["config.json"]
    where = "a folder of its files, as the hub's page or model.save_pretrained(FOLDER) gives it, and load hf:FOLDER"
    ask_hub(source, f"hf:{source}'s files", where)
    try:
        files = huggingface_hub.HfApi().list_repo_files(source)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
        patterns = ["*.json", "*.txt", "*.model", weights]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns, ignore_patterns="*/*"))
    except (OSError, ValueError) as error:
        raise absent(f"hf:{source}'s files", where, error) from error


def _json(file: Path) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {type(found).__name__}, not an object of settings")
    return found


def _filled(kind, config, folder: Path):
    """The model with just the weights of the folder: the library would draw at random what is missing."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} holds an adapter that is not merged; save model.merge_and_unload() and load that")
    files = shards(folder)
    if not files:
        raise FileNotFoundError(
            f"{folder} has a config.json and no weights; it needs model.safetensors, as model.save_pretrained leaves it"
        )
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in kind(config).state_dict().items()}
    state = fit(read(*files), shapes, files[0])
    return kind.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


# ---- preprocessing: the library's own processor, called


def _transform(transformers, folder: Path, model) -> Transform:
    """The folder's processor, or the library's own for such a model; ValueError for one that the model does not fit."""
    tower, kind, vision = towers(model)[0], model.config.model_type, model.config.vision_config
    if (folder / "preprocessor_config.json").is_file() or _nested(folder / "processor_config.json"):
        try:
            offline = {"local_files_only": True, "trust_remote_code": False}
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **offline)
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise ValueError(f"the image processor of {folder} cannot be loaded: {why}") from error
    elif kind == "siglip2":
        processor = transformers.Siglip2ImageProcessor(patch_size=tower.patch, max_num_patches=vision.num_patches)
    else:
        square = {"height": tower.size, "width": tower.size}
        sides = {"size": {"shortest_edge": tower.size}, "crop_size": square} if kind == "clip" else {"size": square}
        processor = getattr(transformers, "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor")(**sides)
    naflex = hasattr(processor, "max_num_patches")
    if naflex != (kind == "siglip2" and not hasattr(vision, "image_size")):
        made, wants = type(processor).__name__, type(model).__name__
        raise ValueError(f"the image processor of {folder} is a {made}, whose pixels a {wants} does not take")
    if naflex and processor.max_num_patches != vision.num_patches:
        raise ValueError(
            f"the image processor of {folder} makes up to {processor.max_num_patches} patches; nibkit cuts the model "
            f"on its own grid of {vision.num_patches}: set max_num_patches to that"
        )
    apply = functools.partial(_of_processor, processor)
    if naflex:
        apply = functools.partial(_of_patches, processor, tower.grid[0])
    transform = Transform(apply, *_geometry(processor, tower.size, naflex, folder))
    _probe(transform, tower.size, folder)
    return transform


def _nested(file: Path) -> bool:
    return file.is_file() and "image_processor" in _json(file)


def _of_processor(processor, image: Image.Image) -> Tensor:
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


def _of_patches(processor, side: int, image: Image.Image) -> Tensor:
    """The pixels of NaFlex' patches; a picture that is not square is scaled to the square grid first, as SigLIP 2's."""
    p = processor.patch_size
    if image.width != image.height:
        image = image.resize((side * p, side * p), processor.resample)
    patches = processor(images=image, return_tensors="pt")["pixel_values"][0][: side * side]
    return patches.reshape(side, side, p, p, 3).permute(4, 0, 2, 1, 3).reshape(3, side * p, side * p)


def _geometry(processor, out: int, naflex: bool, folder: Path) -> tuple:
    """How the processor makes a picture a square of `out` pixels: fit, mean, std, share, as in `Transform`."""
    has = processor.to_dict()
    unit = 255 * has.get("rescale_factor", 1 / 255) if has.get("do_rescale", True) else 255
    normal = has.get("do_normalize", True)
    numbers = (has["image_mean"], has["image_std"]) if normal else (0.0, 1.0)
    mean, std = (np.broadcast_to(number, 3) / unit for number in numbers)
    if naflex:
        return "squash", mean, std
    size = {k: v for k, v in dict(has.get("size") or {}).items() if v}
    crop = {k: v for k, v in dict(has.get("crop_size") or {}).items() if v} if has.get("do_center_crop") else None
    if has.get("do_pad") or (has.get("do_resize") and set(size) not in ({"shortest_edge"}, {"height", "width"})):
        what = "padding" if has.get("do_pad") else f"size {size}"
        raise ValueError(f"the image processor of {folder} has {what}; nibkit knows shortest_edge, or height and width")
    kept = (crop["height"], crop["width"]) if crop else (out, out)
    if not has.get("do_resize"):
        return "none", mean, std, kept
    if "shortest_edge" in size:
        return "shortest", mean, std, (kept[0] / size["shortest_edge"], kept[1] / size["shortest_edge"])
    return "squash", mean, std, (kept[0] / size["height"], kept[1] / size["width"])


def _probe(transform: Transform, size: int, folder: Path) -> None:
    """ValueError where the processor's pixels are not those that the model takes, told by one picture."""
    try:
        shape = tuple(transform(Image.new("RGB", (size + 7, size + 3))).shape)
    except Exception as error:
        raise ValueError(f"the image processor of {folder} fails: {' '.join(str(error).split())[:300]}") from error
    if shape != (3, size, size):
        raise ValueError(f"the image processor of {folder} makes pixels {shape}; its model takes (3, {size}, {size})")


def _tokenizer(transformers, folder: Path, config):
    names = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
    if not any((folder / name).exists() for name in names):
        if config.model_type == "clip" and config.text_config.vocab_size == 49408:
            return BPE()
        return Missing(f"{folder} has no tokenizer files; put its tokenizer.json and tokenizer_config.json there")
    try:
        offline = {"local_files_only": True, "trust_remote_code": False}
        return Pretrained(transformers.AutoTokenizer.from_pretrained(folder, **offline))
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        why = "it names code of its own, which is not run" if "trust_remote_code" in why else why
        return Missing(f"the tokenizer of {folder} could not be loaded: {why}")
