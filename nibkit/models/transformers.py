"""Hugging Face transformers' CLIPModel, SiglipModel and Siglip2Model, releases 4 and 5.

Their layers' call signature and what `get_image_features` returns changed between the two; their weights did not, and only these
are read here.
"""

import functools
from pathlib import Path

import torch
from torchvision import transforms

from .files import ask_hub, hub_models, read
from .tokenizers import BPE, Missing, Pretrained
from .towers import Block, ImageTower, Pool, State, TextTower, parts
from .transform import Transform


def _projections(a) -> list:
    linear = [a.q_proj, a.k_proj, a.v_proj]
    if odd := [p for p in linear if not isinstance(p, torch.nn.Linear)]:
        raise ValueError(f"a projection of its attention is a {type(odd[0]).__name__}, not a linear layer; merge an adapter first")
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
        self.width, self.size = config.hidden_size, config.image_size
        self.grid = (config.image_size // config.patch_size,) * 2

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
        self._naflex = not hasattr(config, "image_size")
        side = round(config.num_patches**0.5) if self._naflex else config.image_size // config.patch_size
        self.width, self.patch, self.grid, self.size = config.hidden_size, config.patch_size, (side, side), side * config.patch_size
        if not self._naflex:
            self.size = config.image_size
        if not hasattr(v, "head"):
            raise ValueError("this SiglipModel has no pooling head (vision_use_head=False), so it makes no image embedding")
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
        return self._text.embeddings.token_embedding.weight

    @property
    def positions(self):
        return self._text.embeddings.position_embedding.weight

    def readout(self, ids):
        if self._eos is None:
            return super().readout(ids)
        return int((ids == self._eos).int().argmax())  # the library's own rule: the first EOS, or row 0 without one

    def head(self, row):
        return self._projection(self._text.final_layer_norm(row))


class SiglipText(HFText):
    """Every token sees every other, the padding too; the embedding is read at the last place, mostly a padding token."""

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
    """A `save_pretrained` folder, or a name on the hub -> (model, transform, tokenizer, label)."""
    source = name.removeprefix("hf:")
    try:
        import huggingface_hub
        import transformers
    except ImportError as error:
        raise ImportError("hf: models need transformers; install it with: pip install 'nibkit[transformers]'") from error
    local = Path(source).is_dir()
    if local and not (Path(source) / "config.json").is_file():
        raise FileNotFoundError(
            f"the folder {source} has no config.json: it is not a transformers model; save one with model.save_pretrained(FOLDER)"
        )
    if not local and not isinstance(huggingface_hub.try_to_load_from_cache(source, "config.json"), str):
        where = "a folder of its files, as the hub's page or model.save_pretrained(FOLDER) gives it, and load hf:FOLDER"
        ask_hub(source, f"hf:{source}'s files", where)
    offline = {"local_files_only": True} if local or _complete(huggingface_hub, source) else {}
    config = transformers.AutoConfig.from_pretrained(source, **offline)
    if config.model_type not in CLASSES:
        known = ", ".join(f"{kind} ({name})" for kind, name in CLASSES.items())
        raise ValueError(f"hf:{source} is a {config.model_type!r} model; nibkit knows those of type {known}")
    kind = getattr(transformers, CLASSES[config.model_type])
    if pretrained:
        for pickled in Path(source).glob("*.bin") if local and not any(Path(source).glob("*.safetensors")) else ():
            read(pickled)  # refuses one that would run code
        try:
            model = kind.from_pretrained(source, dtype=torch.float32, **offline)
        except OSError as error:
            raise OSError(
                f"hf:{source} has a config.json and no weights that could be read ({str(error).splitlines()[0][:200]}); it needs "
                "model.safetensors, as model.save_pretrained(FOLDER) leaves it"
            ) from error
    else:
        model = kind(config)
    label = Path(source).name if local else source
    return model, _transform(transformers, source, model, offline), _tokenizer(transformers, source, config, offline), label


def _complete(huggingface_hub, source: str) -> bool:
    """Whether config and weights are in the hub's cache: then the hub is not asked at all."""
    cached = functools.partial(huggingface_hub.try_to_load_from_cache, source)
    return all(isinstance(cached(name), str) for name in ("config.json", "model.safetensors"))


def _transform(transformers, source, model, offline):
    """The processor's own numbers, where there are any, at the size the model takes."""
    clip, size = hasattr(model, "visual_projection"), towers(model)[0].size
    try:
        numbers = transformers.AutoImageProcessor.from_pretrained(source, **offline).to_dict()
    except (OSError, ValueError):
        numbers = {}
    half = [0.5, 0.5, 0.5]
    mean = numbers.get("image_mean") or (transformers.image_utils.OPENAI_CLIP_MEAN if clip else half)
    std = numbers.get("image_std") or (transformers.image_utils.OPENAI_CLIP_STD if clip else half)
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = numbers.get("do_center_crop") if "do_center_crop" in numbers else clip
    fit = [transforms.Resize(size, bicubic), transforms.CenterCrop(size)] if crop else [transforms.Resize((size, size), bicubic)]
    steps = transforms.Compose([*fit, transforms.ToTensor(), transforms.Normalize(mean, std)])
    return Transform(steps, "shortest" if crop else "squash", mean, std)


def _tokenizer(transformers, source, config, offline):
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json")):
        if config.model_type == "clip" and config.text_config.vocab_size == 49408:
            return BPE()
        return Missing(f"{source} has no tokenizer files; put the model's tokenizer.json and tokenizer_config.json there")
    try:
        return Pretrained(transformers.AutoTokenizer.from_pretrained(source, **offline))
    except (OSError, ImportError, ValueError) as error:
        return Missing(f"the tokenizer of {source} could not be loaded: {' '.join(str(error).split())[:300]}")
