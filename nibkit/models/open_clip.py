"""open_clip: ViT and ResNet CLIPs, CoCa's two contrastive towers, and timm's ViT with SigLIP's pooling."""

import logging
import os
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from ..paths import install
from .devices import at_hand, onto
from .files import absent, ask_hub, hub_models, patience, read
from .openai import OpenAIImage, ResNetImage
from .tokenizers import BPE, Missing, Pretrained
from .towers import Block, ImageTower, Pool, Stage, State, TextTower
from .transform import Transform, square
from .weights import norm, parts


def _then(*steps):
    def run(x):
        for step in steps:
            x = step(x)
        return x

    return run


def _block(b) -> Block:
    if type(b).__name__ != "ResidualAttentionBlock":
        raise ValueError(
            f"open_clip's {type(b).__name__} is not a plain pre-LayerNorm block; nibkit does not know its attention"
        )
    qkv = parts(3, lambda: (b.attn.in_proj_weight, b.attn.in_proj_bias))
    out, mlp = _then(b.attn.out_proj, b.ls_1), _then(b.mlp, b.ls_2)
    return Block(b.attn.num_heads, norm(b.ln_1), *qkv, out, norm(b.ln_2), mlp)


def _coca_pool(pool) -> Pool:
    """The first of CoCa's queries: the contrastive one."""
    a = pool.attn
    if a.in_proj_weight is not None:
        qkv = parts(3, lambda: (a.in_proj_weight, a.in_proj_bias))
    else:
        qkv = [lambda k=k: (getattr(a, f"{'qkv'[k]}_proj_weight"), a.in_proj_bias.chunk(3)[k]) for k in range(3)]
    norms, nothing = (norm(pool.ln_k), torch.nn.Identity()), torch.zeros_like
    return Pool(a.num_heads, norms[0], *qkv, a.out_proj, norms[1], nothing, lambda: norm(pool.ln_q)(pool.query[0]))


class OpenClipImage(OpenAIImage):
    """open_clip's own VisionTransformer, OpenAI's but for its readout: CLS, CoCa's attention pooling, or a mean."""

    def __init__(self, visual):
        self._visual = visual
        self.blocks = [_block(b) for b in visual.transformer.resblocks]
        self.width, self.grid, self.size = visual.conv1.out_channels, visual.grid_size, visual.image_size[0]
        if visual.attn_pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok":
            self.blocks.append(_coca_pool(visual.attn_pool))
        elif visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
            raise ValueError(
                f"open_clip's pooling {visual.pool_type!r} with attentional pooling is not known to nibkit"
            )
        elif visual.pool_type == "avg":
            self.unattended = "is pooled by a mean: no token's attention is the embedding's"
            self.blocks.append(Stage(lambda x: visual._pool(x)[0][:, None]))
            self.head = lambda row: row @ visual.proj


class TimmImage(ImageTower):
    """timm's VisionTransformer as open_clip's trunk: SigLIP (attention pooling), or a class token, or a mean."""

    def __init__(self, visual):
        from timm.models.vision_transformer import VisionTransformer

        self._visual, self._trunk = visual, (trunk := visual.trunk)
        if not isinstance(trunk, VisionTransformer):
            raise ValueError(
                f"open_clip's image tower is timm's {type(trunk).__name__}; nibkit cuts ViT and OpenAI's ResNets"
            )
        self.blocks = [self._block(b) for b in trunk.blocks]
        self.width, self.grid, self.size = trunk.embed_dim, trunk.patch_embed.grid_size, visual.image_size[0]
        self.prefix = trunk.num_prefix_tokens
        if trunk.attn_pool is not None:
            self.blocks.append(self._pool(trunk))
        elif trunk.global_pool != "token":
            self.unattended = "is pooled by a mean: no token's attention is the embedding's"
            self.blocks.append(Stage(lambda x: trunk.pool(norm(trunk.norm)(x))[:, None]))

    @staticmethod
    def _block(b) -> Block:
        plain = type(b).__name__ == "Block" and type(b.attn).__name__ == "Attention" and b.attn.gate is None
        if not plain or not all(isinstance(m, torch.nn.Identity) for m in (b.attn.q_norm, b.attn.k_norm, b.attn.norm)):
            raise ValueError(
                f"timm's {type(b).__name__} with {type(b.attn).__name__} is not a plain pre-LayerNorm block"
            )
        qkv = parts(3, lambda: (b.attn.qkv.weight, b.attn.qkv.bias))
        out, mlp = _then(b.attn.proj, b.ls1), _then(b.mlp, b.ls2)
        return Block(b.attn.num_heads, norm(b.norm1), *qkv, out, norm(b.norm2), mlp)

    @staticmethod
    def _pool(trunk) -> Pool:
        p = trunk.attn_pool
        plain = type(p).__name__ == "AttentionPoolLatent" and p.latent_len == 1 and p.pos_embed is None
        if not plain or trunk.num_prefix_tokens:
            raise ValueError(f"timm's {type(p).__name__} with {p.latent_len} queries is not SigLIP's pooling")
        k, v = parts(2, lambda: (p.kv.weight, p.kv.bias))
        q, probe = lambda: (p.q.weight, p.q.bias), lambda: p.latent[0, 0]
        return Pool(p.num_heads, norm(trunk.norm), q, k, v, p.proj, norm(p.norm), p.mlp, probe)

    def rows(self, pixels):
        x = self._trunk._pos_embed(self._trunk.patch_embed(pixels))
        return State(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def start(self, rows):
        return State(norm(self._trunk.norm_pre)(rows.tokens), rows.readout)

    def head(self, row):
        trunk = self._trunk
        if isinstance(self.blocks[-1], Block) and not isinstance(self.blocks[-1], Pool):
            row = norm(trunk.norm)(row)
        return self._visual.head(trunk.head(norm(trunk.fc_norm)(row)))


class OpenClipText(TextTower):
    """open_clip's TextTransformer. pool: where it is read ("argmax", "eos", "first", "last"); eos: the id of EOS."""

    def __init__(self, text, pool: str, eos: int):
        self._text, self._pool, self._eos = text, pool, eos
        self.causal = text.attn_mask is not None
        self.blocks = [_block(b) for b in text.transformer.resblocks]
        self.width = text.transformer.width
        self.context = len(self.positions)
        if not self.causal or pool == "last":
            self.pad = getattr(text, "pad_id", 0)

    @property
    def embedding(self):
        """Token rows, (vocabulary, C), as they are now."""
        return self._text.token_embedding.weight

    @property
    def positions(self):
        """Position rows, (context, C), as they are now."""
        return self._text.positional_embedding

    def readout(self, ids):
        if self._pool == "eos":
            return int((ids == self._eos).int().argmax())
        return {"first": 0, "last": len(ids) - 1}.get(self._pool, int(ids.argmax()))

    def head(self, row):
        row, projection = norm(self._text.ln_final)(row), self._text.text_projection
        if isinstance(projection, torch.nn.Module):
            return projection(row)
        return row if projection is None else row @ projection


class CocaText(OpenClipText):
    """CoCa's class token stands behind the padding and sees all before it but itself.

    The mask of the released models is off by one: the first padding token is seen, the class token is not. A text of 76
    tokens, all that fit, would have it seen: one fewer is taken here.
    """

    def __init__(self, text, pool, eos):
        super().__init__(text, pool, eos)
        self.pad, self.context = text.pad_id, len(self.positions) - 2

    def rows(self, ids):
        device = self.embedding.device
        ends = onto(device, torch.tensor([len(i) + 1 for i in ids]))
        longer = [F.pad(i, (0, 2), value=self.pad) for i in at_hand(ids)]
        padded = torch.nn.utils.rnn.pad_sequence(longer, batch_first=True)
        x = self.embedding[onto(device, padded)]
        x[torch.arange(len(x), device=device), ends] = self._text.cls_emb.to(x)
        return State(x, ends)

    def start(self, rows):
        place = torch.arange(rows.tokens.shape[1], device=rows.readout.device)
        place = torch.where(place == rows.readout[:, None], len(self.positions) - 1, place)
        return State(rows.tokens + self.positions[place], rows.readout)

    def mask(self, state):
        place = torch.arange(state.tokens.shape[1], device=state.readout.device)
        return ((place <= place[:, None]) & (place != state.readout[:, None, None]))[:, None]


def towers(model) -> tuple[ImageTower, TextTower]:
    """open_clip's CLIP, CustomTextCLIP or CoCa -> the two towers of its contrastive embedding."""
    visual, text = model.visual, getattr(model, "text", model)
    if not hasattr(text, "token_embedding"):
        raise ValueError(
            "this open_clip model has a text tower of transformers; nibkit cuts open_clip's own text towers"
        )
    kind = "trunk" if hasattr(visual, "trunk") else "resnet" if hasattr(visual, "layer4") else "vit"
    size = square(visual.image_size)
    image = {"trunk": TimmImage, "resnet": lambda v: ResNetImage(v, size), "vit": OpenClipImage}[kind](visual)
    square(image.grid)
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", "argmax"))
    eos = getattr(text, "eos_id", getattr(text, "text_eos_id", 2))
    return image, (CocaText if getattr(text, "cls_emb", None) is not None else OpenClipText)(text, pool, eos)


# ---- loading

NAMES = ()
FORMS = {
    "open_clip:ARCH/TAG": "open_clip's ViT and ResNet CLIPs, CoCa, SigLIP; downloaded into {hub}",
    "open_clip:ARCH/FILE": "a file of open_clip's, bare weights or a training checkpoint",
}

here = hub_models


def matches(name: str, path: Path) -> bool:
    """An architecture of open_clip's with its weights, or a folder with open_clip's configuration."""
    return name.startswith("open_clip:") or (path / "open_clip_config.json").is_file()


def of_name(name: str, pretrained: bool):
    """ARCH/TAG, ARCH/FILE, hf-hub:NAME or a folder with open_clip_config.json -> (model, transform, ...)."""
    source = name.removeprefix("open_clip:")
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(f"open_clip: models need open_clip; install it with: {install('open_clip')}") from error
    from open_clip.transform import PreprocessCfg, image_transform_v2

    folder, tag, file = Path(source), "", None
    if source.startswith("hf-hub:"):
        ask_hub(
            source.removeprefix("hf-hub:"), f"open_clip:{source}'s files", "a folder of its files, and load that FOLDER"
        )
        architecture = source
    elif folder.is_dir():
        architecture, file = f"local-dir:{source}", open_clip.factory._find_checkpoint_in_dir(folder)
        if file is None and pretrained:
            raise FileNotFoundError(
                f"{source} has open_clip_config.json and no weights; put open_clip_model.safetensors there"
            )
    else:
        architecture, _, tag = source.partition("/")
    _check(open_clip, architecture)
    statistics = _tagged(open_clip, architecture, tag)
    if pretrained and ":" not in architecture:
        file = _weights(open_clip, architecture, tag)
    with warnings.catch_warnings(), _quiet():
        quick = statistics.pop("quick_gelu", False)  # the activation that these weights were trained with
        options = {"pretrained_text": False, "force_quick_gelu": quick, "force_preprocess_cfg": statistics}
        whole = architecture.startswith("hf-hub:") and pretrained
        model = open_clip.create_model(architecture, load_weights=whole, require_pretrained=whole, **options)
    if file and pretrained:
        _fill(open_clip, model, Path(file))
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    transform = Transform(image_transform_v2(cfg, is_train=False), cfg.resize_mode, cfg.mean, cfg.std)
    return model, transform, _tokenizer(open_clip, architecture), folder.name if folder.is_dir() else source


def _check(open_clip, architecture: str) -> None:
    """ValueError for an architecture that does not exist, or that nibkit cannot cut, before anything of it is built."""
    config = open_clip.get_model_config(architecture)
    if config is None:
        near = [name for name in open_clip.list_models() if name.lower().startswith(architecture.lower()[:6])]
        raise ValueError(f"open_clip has no architecture {architecture!r}; near to it: {', '.join(near) or 'none'}")
    if not all(isinstance(config.get(part), dict) for part in ("vision_cfg", "text_cfg")):
        raise ValueError(f"{architecture} has no vision_cfg and text_cfg: its open_clip_config.json is no CLIP's")
    if "hf_model_name" in config["text_cfg"]:
        raise ValueError(f"{architecture}'s text tower is a model of transformers; nibkit cuts open_clip's own")


def _tagged(open_clip, architecture: str, tag: str) -> dict:
    """How weights were trained: preprocessing and activation of the tag, or what all of the architecture's share."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    cfgs = [open_clip.get_pretrained_cfg(architecture, t) for t in ([tag] if tag in tags else tags)]
    keys = ("mean", "std", "interpolation", "resize_mode", "quick_gelu")
    return {k: cfgs[0][k] for k in keys if cfgs and k in cfgs[0] and all(cfg.get(k) == cfgs[0][k] for cfg in cfgs)}


def _weights(open_clip, architecture: str, tag: str) -> str:
    """The file of a tag, downloaded by the library unless it is in its cache, or `tag` where that is a file."""
    if Path(tag).is_file():
        return tag
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    cfg = open_clip.get_pretrained_cfg(architecture, tag)
    if not cfg:
        known = f"tags of {architecture}: {', '.join(tags)}" if tags else f"{architecture} has no tag"
        raise ValueError(f"{tag!r} is neither a file nor a tag; {known}; or take open_clip:{architecture}/FILE")
    what, (repository, filename) = f"open_clip:{architecture}/{tag}'s weights", os.path.split(cfg.get("hf_hub", ""))
    where = f"its checkpoint file and load open_clip:{architecture}/FILE"
    if repository:
        import huggingface_hub

        names = [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        for name in [os.path.splitext(name)[0] + ".safetensors" for name in names] + names:
            if isinstance(cached := huggingface_hub.try_to_load_from_cache(repository, name), str):
                return cached
        ask_hub(repository, what, where)
    try:
        with patience():
            return open_clip.download_pretrained(cfg)
    except (OSError, RuntimeError) as error:
        raise absent(what, where, error) from error


def _fill(open_clip, model, file: Path) -> None:
    """The library's own reading of a checkpoint, with its conversions, once it is known to be nothing but weights."""
    state = read(file)
    library, open_clip.factory.load_state_dict = open_clip.factory.load_state_dict, lambda *_, **__: dict(state)
    try:
        open_clip.load_checkpoint(model, str(file))
    except Exception as error:  # of its conversions too, which take for granted what they look for
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{file} does not fit this architecture: {said}") from error
    finally:
        open_clip.factory.load_state_dict = library


def _tokenizer(open_clip, architecture: str):
    config = open_clip.get_model_config(architecture)["text_cfg"]
    if not config.get("hf_tokenizer_name"):
        return BPE()
    name = config["hf_tokenizer_name"]
    try:
        if not architecture.startswith("local-dir:") and not _cached(name):
            ask_hub(name, f"the tokenizer {name}", "its files into the hub's cache")
        found = open_clip.get_tokenizer(architecture, trust_remote_code=False)
        return Pretrained(found.tokenizer, found.clean_fn, 0 if found.strip_sep_token else None)
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        return Missing(f"the tokenizer of {architecture} ({name}) is not on this machine, or cannot be read: {said}")


def _cached(name: str) -> bool:
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(name, "tokenizer_config.json"), str)


class _quiet:
    """open_clip warns on the root logger that a model has no weights yet."""

    def __enter__(self):
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_):
        logging.disable(self._level)
